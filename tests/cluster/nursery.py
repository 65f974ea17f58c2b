"""Ranks on hosts without an import of PyTorch for each: one process has imported it and forks them.

    python -m tests.cluster.nursery < ORDERS

An order is a line of JSON, as `Order`. What is forked joins the host's control group and namespaces, becomes
the user, and runs the script as its main program.
"""

from __future__ import annotations

import ctypes
import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

_NAMESPACES = ("net", "uts", "ipc", "pid", "mnt")
_NO_NEW_PRIVILEGES = 38  # prctl


@dataclass(frozen=True)
class Order:
    """One rank: the first process of its host, the file of its control group (or empty), who and what."""

    host: int
    group: str
    user: int
    environment: Mapping[str, str]
    arguments: Sequence[str]
    log: str


class Nursery:
    """The process that forks; it ends with the one that made this."""

    def __init__(self, log: Path) -> None:
        command = [sys.executable, "-m", "tests.cluster.nursery"]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def start(self, order: Order) -> None:
        """Fork a rank; does not wait for it."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(asdict(order)).encode() + b"\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """End the process that forks, not the ranks."""
        self._process.terminate()
        self._process.wait()
        assert self._process.stdin
        self._process.stdin.close()


def _become(order: Order) -> None:
    """In the forked process: leave this host for another."""
    libc = ctypes.CDLL(None, use_errno=True)
    if order.group:
        Path(order.group).write_text(str(os.getpid()))
    output = os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for entry in [os.open(f"/proc/{order.host}/ns/{name}", os.O_RDONLY) for name in _NAMESPACES]:
        if libc.setns(entry, 0):
            raise OSError(ctypes.get_errno(), "setns")
        os.close(entry)
    if os.fork():  # only children are in the other namespace of processes
        os._exit(0)
    os.setsid()
    os.chdir("/")
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.setgroups([])
    os.setgid(order.user)
    os.setuid(order.user)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    os.environ.clear()
    os.environ.update(order.environment)


def main() -> None:
    """Fork a rank for each order; returns in each rank once it has ended, and at the end of the orders."""
    import torch.distributed  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while line := sys.stdin.readline():
        order = Order(**json.loads(line))
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _become(order)
            sys.argv = list(order.arguments)
            sys.path.insert(0, order.environment["PYTHONPATH"])
            runpy.run_path(sys.argv[0], run_name="__main__")
            return


if __name__ == "__main__":
    main()
