"""What the operating system knows of this process."""

from __future__ import annotations

import os
import sys
import time
from pathlib import PurePath

from .base import ProcessFacts

_MOST_ANCESTORS = 16
#: Variables that a process has as a rank and its launcher has not.
_RANK_MARKS = ("TORCHELASTIC_RUN_ID", "CROSS_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")


def read_facts() -> ProcessFacts:
    """Ask the operating system about this process. Missing pieces become empty texts, never an error."""
    hostname = os.uname().nodename
    machine = f"{hostname} {_read('/proc/sys/kernel/random/boot_id').strip()}"
    return ProcessFacts(
        script=script_name(getattr(sys, "argv", None) or [""]),
        start_time=time.time(),
        hostname=hostname,
        process=f"{machine} {os.getpid()} {_started(os.getpid())}",
        launcher=f"{machine} {_launcher_process()}",
    )


def script_name(argv: list[str]) -> str:
    """What the user would call the program: the script's stem, the module's last part, or `notebook`."""
    path = PurePath(argv[0])
    # `python -m package` runs package/__main__.py.
    name = path.parent.name if path.stem == "__main__" else path.stem
    if name == "ipykernel" or name.endswith("kernel_launcher"):
        return "notebook"
    return "python" if name in ("", "-", "-c", "-m") else name


def _launcher_process() -> str:
    """The process that launched this node's ranks: the nearest ancestor that is no rank itself.

    Usually the parent; a wrapper script between the two (numactl, a shell) has a rank's environment.
    """
    parent = pid = os.getppid()
    for _ in range(_MOST_ANCESTORS):
        environ = "\0" + _read(f"/proc/{pid}/environ")
        if not any(f"\0{mark}=" in environ for mark in _RANK_MARKS):
            return f"{pid} {_started(pid)}"
        pid = _parent(pid)
    return f"{parent} {_started(parent)}"


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat that follow the command's name, which may itself hold anything."""
    return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()


def _parent(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[1]) if len(fields) > 1 else 0


def _started(pid: int) -> str:
    """When the process started, in clock ticks since boot: exact, unlike a time of day worked out from it."""
    fields = _stat(pid)
    return fields[19] if len(fields) > 19 else ""


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        # Another user's process, a process that is gone, or no /proc at all (macOS).
        return ""
