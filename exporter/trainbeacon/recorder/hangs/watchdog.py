"""Stacks even while something holds the interpreter: `faulthandler`'s timer, which needs no GIL.

A process has one such timer. Ours is armed again and again by the background thread, so it goes off only
when that thread cannot run: the interpreter is held, or the process was stopped. A timer that somebody
else has armed before (a script, pytest) is found by its thread, which blocks every signal, and is left
alone; so is one that takes the place of ours later, by a call that we see. Python 3.10 has none:
there, to write the stacks of threads that run can end the process.

The timer's thread does not survive a fork, and a forked child that ends orderly would wait for it for
ever (tried on 3.11). So the timer is off while the process forks.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from trainbeacon.recorder.core.patch import observe

#: Signals 1-31, but for KILL and STOP, which nobody can block.
_ALL_SIGNALS = 0x7FFF_FFFF & ~(1 << 8 | 1 << 18)
_TASKS = "/proc/self/task"
#: The background thread calls once a second; on a busy machine a good deal later.
LEAST_SECONDS = 5.0
#: A call of the script's waits so long at most for one of ours, which takes 0.1 ms.
_MOST_WAIT_SECONDS = 0.5

#: Whether stacks may be written while threads run, as the timer does, and a handler in C.
DUMPS_ARE_SAFE = sys.version_info >= (3, 11)
# As they were before anybody replaced them: these calls are ours.
_arm_timer, _cancel_timer = faulthandler.dump_traceback_later, faulthandler.cancel_dump_traceback_later
_CALLS = ("dump_traceback_later", "cancel_dump_traceback_later")

_watchdogs: weakref.WeakSet[Watchdog] = weakref.WeakSet()
_forking = threading.local()  # `held`: the watchdogs that this thread has disarmed for its fork


class Watchdog:
    """The timer, with the file that it writes to.

    Args:
        descriptor: of an empty file that is open for reading and appending; closed by `stop`.
        path: where it lies; removed by `stop` if nothing was written.
    """

    def __init__(self, descriptor: int, path: str) -> None:
        self.path = path
        self._descriptor = descriptor
        self._foreign = not DUMPS_ARE_SAFE or not os.path.isdir(_TASKS) or _somebody_else_has_it()
        self._use = threading.Lock()  # the run may end while the background thread looks
        self._tasks: set[str] = set()
        self._armed = False
        self._task = ""  # the timer's thread
        self._deadline = 0.0
        self._next = 0.0
        self._seconds = 0.0
        _watchdogs.add(self)
        self._stops = [observe(faulthandler, name, self._script_calls) for name in _CALLS]

    @property
    def stands_down(self) -> bool:
        """Whether the timer is somebody else's, or cannot be recognised as ours."""
        return self._foreign

    def _script_calls(self, args: Sequence[Any], keywords: Mapping[str, Any]) -> None:
        """The script arms or cancels the timer: it is the script's from now on."""
        entered = self._use.acquire(timeout=_MOST_WAIT_SECONDS)
        self._foreign, self._armed = True, False
        if entered:
            self._use.release()

    def keep(self, seconds: float) -> None:
        """Let it go off in `seconds`, 5 at least, unless called again before. Some 0.1 ms, now and then."""
        with self._use:
            self._keep(time.monotonic(), max(seconds, LEAST_SECONDS))

    def _keep(self, now: float, seconds: float) -> None:
        if self._foreign:
            return
        if now < self._next and seconds >= self._seconds:
            self._find_task()
            return
        if self._was_taken(now):
            self._foreign, self._armed = True, False
            return
        self._seconds = seconds
        self._next = now + seconds / 4
        self._arm(seconds)

    def stop(self) -> None:
        """Disarm, and remove the file if nothing is in it."""
        while self._stops:
            self._stops.pop()()
        with self._use:
            self._cancel()
            self._foreign = True
            if self._descriptor >= 0:
                if os.fstat(self._descriptor).st_size == 0:
                    with contextlib.suppress(OSError):  # gone with its folder
                        os.unlink(self.path)
                os.close(self._descriptor)
                self._descriptor = -1

    def take(self) -> str:
        """What it has written since the last call, empty if it has not gone off."""
        with self._use:
            size = os.fstat(self._descriptor).st_size if self._descriptor >= 0 else 0
            if size == 0:
                return ""
            text = os.pread(self._descriptor, size, 0).decode(errors="replace")
            os.ftruncate(self._descriptor, 0)
            return text

    def _arm(self, seconds: float) -> None:
        self._cancel()
        self._task, self._tasks = "", set(os.listdir(_TASKS))
        self._deadline = time.monotonic() + seconds
        self._armed = True
        _arm_timer(seconds, file=self._descriptor)

    def _cancel(self) -> None:
        if self._armed and not self._was_taken(time.monotonic()):
            _cancel_timer()
        self._armed = False

    def _find_task(self) -> None:
        if self._armed and not self._task:
            new = set(os.listdir(_TASKS)) - self._tasks
            self._task = next(filter(_blocks_all_signals, new), "")

    def _was_taken(self, now: float) -> bool:
        """Whether our timer's thread is gone before its time: somebody armed or cancelled the timer."""
        waits = self._armed and bool(self._task) and now < self._deadline
        return waits and not os.path.exists(os.path.join(_TASKS, self._task))

    def before_fork(self) -> bool:
        """Disarm while the process forks, and let no thread arm it. Returns whether it was armed."""
        self._use.acquire()
        if self._was_taken(time.monotonic()):
            self._foreign, self._armed = True, False
        was_armed = self._armed
        self._cancel()
        return was_armed

    def after_fork(self, *, was_armed: bool) -> None:
        """Arm again, in the parent."""
        try:
            if was_armed:
                self._arm(self._seconds)
        finally:
            self._use.release()


def _somebody_else_has_it() -> bool:
    """Whether a thread looks like a timer's: it blocks every signal, and has no name of its own."""
    name = _status(str(os.getpid())).get("Name")
    return any(_blocks_all_signals(task) and _status(task).get("Name") == name for task in os.listdir(_TASKS))


def _blocks_all_signals(task: str) -> bool:
    blocked = int(_status(task).get("SigBlk", "0"), 16)
    return blocked & _ALL_SIGNALS == _ALL_SIGNALS


def _status(task: str) -> dict[str, str]:
    try:
        with open(os.path.join(_TASKS, task, "status")) as file:
            return {name: value.strip() for name, _, value in (line.partition(":") for line in file)}
    except OSError:  # it ended
        return {}


def _before_fork() -> None:
    _forking.held = [(watchdog, watchdog.before_fork()) for watchdog in list(_watchdogs)]


def _after_fork_in_parent() -> None:
    for watchdog, was_armed in _forking.held:
        watchdog.after_fork(was_armed=was_armed)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_watchdogs.clear
    )
