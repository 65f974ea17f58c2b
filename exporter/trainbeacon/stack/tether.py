"""A program that sets variables, asks to be killed when its parent dies, and becomes another program.

    python tether.py PARENT_PID NAME=VALUE... -- COMMAND ARGUMENT...

So nothing outlives a demo that is killed without a word. It imports nothing of ours and keeps its process
id. Where the kernel has no such request (other than Linux), the rest still works.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Mapping, Sequence

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def command(line: Sequence[str], variables: Mapping[str, str] | None = None) -> list[str]:
    """The command line that runs `line` tethered to this process, with further environment variables.

    Start it from the main thread: the kernel counts the end of the starting *thread* as the parent's death.
    """
    pairs = [f"{name}={value}" for name, value in (variables or {}).items()]
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *pairs, "--", *line]


def adopt_orphans() -> bool:
    """Become the parent of descendants whose own parent ends, so that they can be found and ended."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def main(arguments: Sequence[str]) -> None:
    """Become the command; returns only if the parent is already gone."""
    end = arguments.index("--")
    parent, pairs, line = int(arguments[0]), arguments[1:end], arguments[end + 1 :]
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the request was made
        return
    for pair in pairs:
        name, _, value = pair.partition("=")
        os.putenv(name, value)
    os.execvp(line[0], list(line))  # noqa: S606  # becoming the program is the point


def _prctl(option: int, value: int) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    return int(ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)) == 0


if __name__ == "__main__":
    main(sys.argv[1:])
