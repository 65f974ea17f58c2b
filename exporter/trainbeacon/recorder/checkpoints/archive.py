"""What made a checkpoint, as a JSON file beside it: `.checkpoint.pt.trainbeacon.json`, written by rank 0.

It says which code, command, settings, versions, seed and environment a checkpoint comes from, and how good
the run was at that step, so that the best model and what made it stay together. Secrets are left out as
everywhere (`config.redaction`). It goes when its checkpoint does. Its name begins with a dot, because scripts
take the last of `glob("checkpoint*")` for a checkpoint.

Threads: all is done by the thread that works on files.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import shlex
import sys
import time
from functools import cached_property
from typing import Any

from trainbeacon._version import __version__
from trainbeacon.blackbox import files
from trainbeacon.blackbox import format as layout
from trainbeacon.config.environment import of_training
from trainbeacon.config.redaction import public_hyperparameters, redacted
from trainbeacon.identity.repository import repository_of
from trainbeacon.recorder.core.recorder import Recorder

FORM = 1
SUFFIX = ".trainbeacon.json"
#: Packages whose versions are told, where they are loaded.
_PACKAGES: tuple[str, ...] = (
    *(
        "torch",
        "numpy",
        "torchvision",
        "lightning",
        "pytorch_lightning",
        "transformers",
        "accelerate",
        "apex",
    ),
    *("datasets", "deepspeed", "keras", "peft", "ray", "tokenizers", "triton", "flash_attn"),
    *("transformer_engine", "bitsandbytes", "webdataset", "apex"),
)
#: Numbers of the run that say how good the checkpoint is.
_NUMBERS = ("training_loss", "training_accuracy", "training_epoch", "training_learning_rate")
_LONGEST_COMMAND = 4096


def beside(checkpoint: str) -> str:
    """Where the description of a checkpoint lies."""
    folder, name = os.path.split(checkpoint)
    return os.path.join(folder, f".{name}{SUFFIX}")


class Archive:
    """The files beside the checkpoints of this process."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._written: list[str] = []

    def write(self, checkpoint: str | os.PathLike[str], step: int) -> None:
        """Describe a checkpoint that is on storage. Raises OSError if that cannot be written."""
        path = os.fspath(checkpoint).rstrip("/")
        if not os.path.exists(path):  # it was written elsewhere: an address, another node
            return
        document = json.dumps(self._document(path, step), indent=1, ensure_ascii=False)
        files.replace(beside(path), document.encode() + b"\n")
        self._written = [each for each in self._written if each == path or not _gone(each)]
        if path not in self._written:
            self._written.append(path)

    def _document(self, path: str, step: int) -> dict[str, Any]:
        recorder, identity = self._recorder, self._recorder.identity
        return {
            "form": FORM,
            "checkpoint": os.path.basename(path),
            "run": recorder.run,
            "run_id": identity.run_id,
            "step": step,
            "started": _rfc3339(recorder.start),
            "saved": _rfc3339(time.time()),
            "world_size": identity.world_size,
            "host": identity.hostname,
            "numbers": self._numbers(),
            "hyperparameters": dict(public_hyperparameters(recorder.config.hyperparameters)[0]),
            "tags": dict(recorder.config.tags),
            **self._made_by,
        }

    @cached_property
    def _made_by(self) -> dict[str, Any]:
        """Code, command and environment, as they were at the first checkpoint."""
        return {
            "command": redacted(shlex.join(sys.orig_argv))[:_LONGEST_COMMAND],
            "directory": os.getcwd(),
            "git": _git(),
            "seed": _seed(),
            "python": platform.python_version(),
            "packages": {"trainbeacon": __version__, **_versions()},
            "environment": of_training(),
        }

    def _numbers(self) -> dict[str, float]:
        writer, found = self._recorder.writer, {}
        for (metric, labels), slot in list(self._recorder.index.items()):
            if metric in _NUMBERS:
                value = (writer.step if metric in layout.STEP_METRICS else writer.slots)[slot]
                if math.isfinite(value):
                    found["/".join((metric.removeprefix("training_"), *labels))] = value
        return found


def _gone(checkpoint: str) -> bool:
    """Whether a checkpoint was removed; its description goes too."""
    if os.path.exists(checkpoint):
        return False
    with contextlib.suppress(OSError):
        os.unlink(beside(checkpoint))
    return True


def _git() -> dict[str, Any] | None:
    script = os.path.dirname(os.path.abspath(sys.argv[0])) if sys.argv and sys.argv[0] else os.getcwd()
    with contextlib.suppress(OSError, ValueError, IndexError):
        repository = repository_of(script) or repository_of(os.getcwd())
        if repository is not None:
            return {
                "commit": repository.commit,
                "branch": repository.branch,
                "changed_files": repository.changed,
            }
    return None


def _seed() -> int | None:
    torch = sys.modules.get("torch")
    return None if torch is None else int(torch.initial_seed())


def _versions() -> dict[str, str]:
    loaded = ((name, sys.modules.get(name)) for name in _PACKAGES)
    versions = {name: getattr(module, "__version__", None) for name, module in loaded}
    return {name: str(version) for name, version in versions.items() if version is not None}


def _rfc3339(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
