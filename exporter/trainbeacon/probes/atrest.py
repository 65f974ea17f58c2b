"""Do this process and its children do anything? What they wait in, and what processor time they take.

A process that only waits (for a lock, a message, a child, the time) takes next to no processor time and
sits in one of a few system calls. One that waits for the file system sits in others: a slow save ends by
itself, a wait for a message that nobody sends does not. Where the kernel does not tell (gVisor,
a kernel without `/proc/self/task/*/children`, another processor) nobody is ever called at rest.
"""

from __future__ import annotations

import contextlib
import os
import platform
import threading
import time
from collections.abc import Iterator

#: Processor time that idle threads may take now and then, in seconds and as a share of the time; more is work.
IDLE_SECONDS, IDLE_SHARE = 0.2, 0.01
#: With more processes than that nobody looks at all of them.
MOST_PROCESSES = 256

_TICK = os.sysconf("SC_CLK_TCK")
#: Calls in which a thread waits for others: locks, messages, children, the time. By machine.
_WAITING = {
    "x86_64": frozenset(
        (7, 23, 34, 35, 42, 43, 44, 45, 46, 47, 61, 65, 128, 130, 202, 219, 220, 230, 232, 243, 247)
        + (270, 271, 281, 288, 299, 441, 449, 455)
    ),
    "aarch64": frozenset(
        (22, 72, 73, 95, 98, 101, 115, 128, 133, 137, 183, 192, 193, 202, 203, 206, 207, 211, 212, 242)
        + (243, 260, 441, 449, 455)
    ),
}
#: Reading and writing: waiting for others where it is a pipe or a socket.
_TRANSFERS = {"x86_64": frozenset((0, 1, 19, 20)), "aarch64": frozenset((63, 64, 65, 66))}
_NONE: frozenset[int] = frozenset()


class Effort:
    """What this process and its descendants have done since `begin`; to be asked by one thread.

    Args:
        leave_out: ids of children that do not belong to the training.
    """

    def __init__(self, leave_out: set[int]) -> None:
        self._leave_out = leave_out
        tells = all(map(os.path.exists, ("/proc/thread-self/children", "/proc/thread-self/syscall")))
        machine = platform.machine() if tells else ""
        self._waiting = _WAITING.get(machine, _NONE)
        self._transfers = _TRANSFERS.get(machine, _NONE)
        self._own = self._begun = 0.0
        self._family: dict[int, int] | None = None

    def begin(self) -> None:
        """Count from now."""
        self._begun = time.monotonic()
        self._own = _own_seconds()
        self._family = None

    def took_time(self) -> bool:
        """Whether this process took processor time worth the name; 2 us, the calling thread left out."""
        return _own_seconds() - self._own > self._idle_seconds()

    def at_rest(self) -> bool:
        """Whether all it does is wait for others, as far as can be told; some 40 us a thread.

        The first call after `begin` begins to count what the children take.
        """
        try:
            family = self._ticks()
            if self._family is None:
                self._family = family
            if family.keys() != self._family.keys():  # one began or ended: something goes on
                return False
            taken = sum(family.values()) - sum(self._family.values())
            if taken > self._idle_seconds() * _TICK:
                return False
            return all(self._waits(pid) for pid in (os.getpid(), *family))
        except (OSError, ValueError, IndexError):  # not told, or it ended just now
            return False

    def _idle_seconds(self) -> float:
        return max(IDLE_SECONDS, IDLE_SHARE * (time.monotonic() - self._begun))

    def _ticks(self) -> dict[int, int]:
        """Processor time of every descendant that lives."""
        found: dict[int, int] = {}
        open_ends = [os.getpid()]
        while open_ends:
            for pid in _children(open_ends.pop()):
                with open(f"/proc/{pid}/stat") as file:
                    fields = file.read().rpartition(") ")[2].split()
                if pid in self._leave_out or fields[0] in "ZX":
                    continue
                found[pid] = int(fields[11]) + int(fields[12])
                open_ends.append(pid)
            if len(found) > MOST_PROCESSES:
                raise ValueError("too many processes")
        return found

    def _waits(self, pid: int) -> bool:
        """Whether each thread of a process, but the calling one, waits for others."""
        for task in os.listdir(f"/proc/{pid}/task"):
            if int(task) != threading.get_native_id():
                with (
                    contextlib.suppress(FileNotFoundError, ProcessLookupError),  # it has just ended
                    open(f"/proc/{pid}/task/{task}/syscall") as file,
                ):
                    if not self._is_wait(pid, file.read().split()):
                        return False
        return True

    def _is_wait(self, pid: int, call: list[str]) -> bool:
        """Whether a line of `/proc/*/syscall` is of a call that waits; a page fault is none.

        A thread that runs at this very moment may have woken for a microsecond: its time is what counts.
        """
        if call[0] == "running":
            return True
        if not call[0].isdigit():
            return False
        number = int(call[0])
        if number in self._transfers:
            return not os.readlink(f"/proc/{pid}/fd/{int(call[1], 16)}").startswith("/")
        return number in self._waiting


def _own_seconds() -> float:
    return time.process_time() - time.thread_time()


def _children(pid: int) -> Iterator[int]:
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as file:
            yield from map(int, file.read().split())
