"""The environment of what is started to be recorded without code: `trainbeacon run`, and `TRAINBEACON=1`."""

from __future__ import annotations

import os
from collections.abc import Mapping

from trainbeacon.config.redaction import looks_secret, redacted

#: How the variables begin that change what a training does.
_OF_TRAINING = (
    *("CUBLAS_", "CUDA_", "CUDNN_", "FSDP_", "GLOO_", "MKL_", "NCCL_", "NVIDIA_", "OMP_", "PYTORCH_", "XLA_"),
    *("PYTHONHASHSEED", "SLURM_JOB_", "TF32_", "TORCH_", "TORCHINDUCTOR_", "TRITON_"),
)
_MOST, _LONGEST = 100, 256
#: Says that a process is to be recorded whatever it trains with.
SWITCH = "TRAINBEACON"


def autostart_wanted() -> bool:
    """Whether `TRAINBEACON=1` is set, and `TRAINBEACON_ENABLED=0` is not."""
    off = os.environ.get("TRAINBEACON_ENABLED", "1").strip().lower() in ("0", "false", "no", "off")
    return os.environ.get(SWITCH, "").strip().lower() in ("1", "true", "yes", "on") and not off


def to_record(settings: Mapping[str, str], hook: str) -> dict[str, str]:
    """The environment of this process with what its children need to be recorded too.

    Args:
        settings: names of settings with their texts, set as `TRAINBEACON_*`.
        hook: folder of the site hook, put first on PYTHONPATH.
    """
    made = dict(os.environ)
    made.update({f"TRAINBEACON_{name.upper()}": value for name, value in settings.items()})
    made[SWITCH] = "1"
    paths = [hook, *(path for path in made.get("PYTHONPATH", "").split(os.pathsep) if path and path != hook)]
    made["PYTHONPATH"] = os.pathsep.join(paths)
    return made


def export(environment: Mapping[str, str]) -> None:
    """Make it that of this process, for the children that the script starts."""
    os.environ.update(environment)


def of_training() -> dict[str, str]:
    """The variables of this process that change what a training does, a hundred at most, without secrets."""
    chosen = sorted(name for name in os.environ if name.startswith(_OF_TRAINING) and not looks_secret(name))
    return {name: redacted(os.environ[name][:_LONGEST]) for name in chosen[:_MOST]}
