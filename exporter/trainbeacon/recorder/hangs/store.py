"""The evidence directory: private, written at once, bounded in size and number."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainbeacon.blackbox.directory import TEMPORARY_PREFIX

#: A slot with this name has the evidence directory as its label, so that `trainbeacon stacks` finds it.
DIRECTORY_SLOT = "_evidence"
SUFFIX = ".evidence.json"
#: Stacks of a rank whose interpreter was held, as the timer writes them; and those that were asked for.
HELD_SUFFIX, ASKED_SUFFIX = ".held.txt", ".asked.txt"
MOST_BYTES = 256 * 1024
#: Files of one rank of a run, and of all runs in a directory.
MOST_FILES_A_RANK = 5
MOST_FILES = 200


def evidence_directory(box_directory: str, named: str | None = None) -> str:
    """Where evidence is kept: as the user says, else beside the black boxes."""
    return os.path.abspath(named or os.path.join(box_directory, "evidence"))


@dataclass(frozen=True)
class Store:
    """The evidence of one rank of a run. `prefix` begins the names of its files."""

    directory: str
    prefix: str

    @classmethod
    def make(cls, directory: str, run: str, rank: int) -> Store:
        """Make the directory if absent (0700). Raises OSError."""
        os.makedirs(directory, mode=0o700, exist_ok=True)
        plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in run[:40])
        return cls(directory, f"{plain or 'run'}.{rank}.")

    def path(self, suffix: str) -> str:
        """A new name for a file of this rank; a later one sorts after an earlier one."""
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        return os.path.join(self.directory, f"{self.prefix}{moment}-{secrets.token_hex(3)}{suffix}")

    def write(self, document: Mapping[str, Any]) -> str:
        """Write evidence, so that a reader sees all of it or nothing. Returns the path. Raises OSError."""
        text = bounded(document)
        path = self.path(SUFFIX)
        temporary = os.path.join(self.directory, f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(text)
            os.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        self._prune()
        return path

    def _prune(self) -> None:
        """Remove the oldest files beyond the bounds."""
        names = [name for name in os.listdir(self.directory) if name.endswith(SUFFIX)]
        own = sorted(name for name in names if name.startswith(self.prefix))
        others = sorted(set(names) - set(own), key=lambda name: name.rpartition(".evidence")[0][-22:])
        surplus = own[:-MOST_FILES_A_RANK] + others[: max(0, len(names) - MOST_FILES)]
        for name in surplus:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self.directory, name))


def bounded(document: Mapping[str, Any]) -> bytes:
    """The document as JSON of at most `MOST_BYTES`: the list of collectives goes first, then stacks."""
    shortened = dict(document)
    for fewer in (None, "flight_recorder", "workers", "stacks"):
        if fewer == "stacks":
            shortened[fewer] = [*shortened.get(fewer, ())][:400]
        elif fewer is not None:
            shortened[fewer] = []
        text = json.dumps(shortened, indent=1).encode()
        if len(text) <= MOST_BYTES:
            return text
    return json.dumps({key: shortened[key] for key in ("version", "run", "rank", "class", "reason")}).encode()


def read(directory: str) -> list[dict[str, Any]]:
    """All evidence of a directory, oldest first, each with its `path`; what is damaged is left out."""
    found = []
    with contextlib.suppress(OSError):
        for name in os.listdir(directory):
            if name.endswith(SUFFIX):
                with contextlib.suppress(OSError, ValueError):
                    found.append(_read(os.path.join(directory, name)))
    return sorted(found, key=lambda document: float(document["time"]))


def _read(path: str) -> dict[str, Any]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        document = json.loads(file.read(MOST_BYTES + 1))
    if not isinstance(document, dict) or not isinstance(document.get("time"), int | float):
        raise ValueError("no evidence")
    return {**document, "path": path}
