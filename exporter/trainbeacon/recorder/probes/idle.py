"""Do this process and its children do anything? What they wait in, and what processor time they take.

A process that only waits (for a lock, a message, a child, the time) takes next to no processor time and
sits in one of a few system calls. One that waits for the file system sits in others: a slow save ends by
itself, a wait for a message that nobody sends does not. But storage may hang too: a thread that stays in
one call for minutes and moves no byte waits like the others. The state that the kernel gives for a thread
does not tell the two apart: a file system in user space (FUSE: most object stores) is waited for in the same
sleep as a lock. Where the kernel does not tell (gVisor, no `/proc/self/task/*/children`, another processor)
nobody is ever called at rest.
"""

from __future__ import annotations

import contextlib
import os
import platform
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

#: What idle threads may take now and then, in seconds and as a share of the time: more is work.
IDLE_SECONDS, IDLE_SHARE = 0.2, 0.01
#: A child that waited for a processor for such a share of the time works as fast as a full machine lets it.
STARVED_SHARE = 0.05
#: A thread that has moved no byte in the same call of the file system for so long does not work; while it
#: flushes, which the kernel does for it, it has longer.
STORAGE_SECONDS, FLUSH_SECONDS = 120.0, 600.0
#: With more processes than that nobody looks at all of them.
MOST_PROCESSES = 256

_TICK = os.sysconf("SC_CLK_TCK")
#: The kernel's numbers below are those of these machines; -1 where a machine has no such call.
_MACHINES = ("x86_64", "aarch64")
#: Calls in which a thread waits for others: locks, messages, children, the time.
_WAITS = {
    "accept": (43, 202),
    "accept4": (288, 242),
    "clock_nanosleep": (230, 115),
    "connect": (42, 203),
    "epoll_pwait": (281, 22),
    "epoll_pwait2": (441, 441),
    "epoll_wait": (232, -1),
    "futex": (202, 98),
    "futex_wait": (455, 455),
    "futex_waitv": (449, 449),
    "mq_timedreceive": (243, 183),
    "nanosleep": (35, 101),
    "pause": (34, -1),
    "poll": (7, -1),
    "ppoll": (271, 73),
    "pselect6": (270, 72),
    "recvfrom": (45, 207),
    "recvmmsg": (299, 243),
    "recvmsg": (47, 212),
    "restart_syscall": (219, 128),
    "rt_sigsuspend": (130, 133),
    "rt_sigtimedwait": (128, 137),
    "select": (23, -1),
    "semop": (65, 193),
    "semtimedop": (220, 192),
    "sendmsg": (46, 211),
    "sendto": (44, 206),
    "wait4": (61, 260),
    "waitid": (247, 95),
}
#: Calls that wait for others where the file is a pipe or a socket.
_TRANSFERS = {"read": (0, 63), "readv": (19, 65), "write": (1, 64), "writev": (20, 66)}
#: Calls that end once the kernel has written what was written before.
_FLUSHES = {
    "close": (3, 57),
    "fdatasync": (75, 83),
    "fsync": (74, 82),
    "msync": (26, 227),
    "sync": (162, 81),
    "sync_file_range": (277, 84),
    "syncfs": (306, 267),
}


class FileWaits:
    """Which threads wait for the file system, and since when none of their bytes has moved."""

    def __init__(self, flushes: frozenset[int], clock: Callable[[], float] = time.monotonic) -> None:
        self._flushes = flushes
        self._clock = clock
        self._known: dict[tuple[int, int], tuple[str, float]] = {}
        self._looked_at: set[tuple[int, int]] = set()

    def begin(self) -> None:
        """A look at all threads begins; what was not seen in the one before is forgotten."""
        self._known = {thread: self._known[thread] for thread in self._looked_at}
        self._looked_at = set()

    def hangs(self, pid: int, task: int, call: int) -> bool:
        """Whether this thread has waited in that call in vain; 10 us. Raises OSError if it is gone."""
        with open(f"/proc/{pid}/task/{task}/io") as file:
            state = f"{call} {file.read()}"
        now = self._clock()
        before, since = self._known.get((pid, task), ("", now))
        since = since if state == before else now
        self._known[pid, task] = (state, since)
        self._looked_at.add((pid, task))
        return now - since > (FLUSH_SECONDS if call in self._flushes else STORAGE_SECONDS)


class ProcessActivity:
    """What this process and its descendants have done since `begin`; to be asked by one thread.

    Args:
        leave_out: ids of children that do not belong to the training.
        clock: monotonic seconds.
    """

    def __init__(self, leave_out: set[int], clock: Callable[[], float] = time.monotonic) -> None:
        self._leave_out = leave_out
        tells = all(map(os.path.exists, ("/proc/thread-self/children", "/proc/thread-self/syscall")))
        machine = platform.machine() if tells else ""
        self._waits_in = _numbers(_WAITS, machine)
        self._transfers_in = _numbers(_TRANSFERS, machine)
        self._files = FileWaits(_numbers(_FLUSHES, machine), clock)
        self._own = self._begun = 0.0
        self._family: dict[int, int] | None = None
        self._waited: dict[int, float] = {}

    def begin(self) -> None:
        """Count from now."""
        self._begun = time.monotonic()
        self._own = _own_seconds()
        self._family = None

    def used_cpu(self) -> bool:
        """Whether this process took processor time worth the name; 2 us, the calling thread left out."""
        return _own_seconds() - self._own > self._idle_seconds()

    def at_rest(self) -> bool:
        """Whether all it does is wait for others, as far as the kernel says; some 40 us a thread.

        The first call after `begin` begins to count what the children take.
        """
        try:
            family = self._ticks()
            if self._family is None:
                self._family = family
                self._waited = {pid: _seconds_runnable(pid) for pid in family}
            if family.keys() != self._family.keys():  # one began or ended: something goes on
                return False
            taken = sum(family.values()) - sum(self._family.values())
            if taken > self._idle_seconds() * _TICK or self._starves(family):
                return False
            self._files.begin()
            waits = [self._waits(pid) for pid in (os.getpid(), *family)]  # each is looked at
            return all(waits)
        except (OSError, ValueError, IndexError):  # not readable, or it ended just now
            return False

    def _starves(self, family: Iterable[int]) -> bool:
        """Whether a child wants to run and seldom may: it takes no time, and yet it works."""
        least = max(IDLE_SECONDS, STARVED_SHARE * (time.monotonic() - self._begun))
        return any(_seconds_runnable(pid) - self._waited.get(pid, 0.0) > least for pid in family)

    def _idle_seconds(self) -> float:
        return max(IDLE_SECONDS, IDLE_SHARE * (time.monotonic() - self._begun))

    def _ticks(self) -> dict[int, int]:
        """Processor time of every descendant that lives."""
        found: dict[int, int] = {}
        open_ends = [os.getpid()]
        while open_ends:
            for pid in children(open_ends.pop()):
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
        own = threading.get_native_id()
        waits = True
        for task in map(int, os.listdir(f"/proc/{pid}/task")):
            if task != own:
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                    waits = self._thread_waits(pid, task) and waits
        return waits

    def _thread_waits(self, pid: int, task: int) -> bool:
        """Whether a thread waits for others, or for storage that hangs; a page fault counts as storage.

        A thread that runs at this very moment may have woken for a microsecond: its time is what counts.
        """
        with open(f"/proc/{pid}/task/{task}/syscall") as file:
            call = file.read().split()
        if call[0] == "running" or self._is_wait(pid, call):
            return True
        return self._files.hangs(pid, task, int(call[0]))

    def _is_wait(self, pid: int, call: list[str]) -> bool:
        """Whether a line of `/proc/*/syscall` is of a call that waits for others."""
        number = int(call[0])
        if number in self._transfers_in:
            return not os.readlink(f"/proc/{pid}/fd/{int(call[1], 16)}").startswith("/")
        return number in self._waits_in


def _numbers(calls: Mapping[str, tuple[int, ...]], machine: str) -> frozenset[int]:
    """The numbers of some calls on a machine; none where it is not known."""
    known = _MACHINES.index(machine) if machine in _MACHINES else None
    return frozenset() if known is None else frozenset(numbers[known] for numbers in calls.values())


def _seconds_runnable(pid: int) -> float:
    """Seconds for which the first thread of a process has waited for a processor; 0 where nobody says."""
    try:
        with open(f"/proc/{pid}/schedstat") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def _own_seconds() -> float:
    return time.process_time() - time.thread_time()


def children(pid: int) -> Iterator[int]:
    """The ids of a process's children. Raises FileNotFoundError if it is gone."""
    for task in os.listdir(f"/proc/{pid}/task"):
        with (
            contextlib.suppress(FileNotFoundError, ProcessLookupError),  # a thread that has just ended
            open(f"/proc/{pid}/task/{task}/children") as file,
        ):
            yield from map(int, file.read().split())
