"""The worker processes of PyTorch's data loaders: how many live, and the shared memory that they hold.

Loaders are not touched: their workers are children that `multiprocessing` knows, and the kernel tells
the rest.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

#: Seconds between two samples at least.
INTERVAL_SECONDS = 5.0
#: Share of the time that sampling may take: dozens of workers are looked at less often.
TIME_SHARE = 0.001
#: What PyTorch calls the process of a loader's worker since 2.6.
_WORKER = "pt_data_worker"


@dataclass(frozen=True)
class Worker:
    """One worker as the kernel tells of it. A dead one was not waited for yet, and did not exit cleanly."""

    alive: bool
    shared_bytes: float


class LoaderProbe:
    """Samples the loader workers from the background thread. Records nothing before the first one is seen.

    Args:
        record: called with a metric's name, its value and its labels.
        clock: monotonic seconds.
    """

    def __init__(self, record: Callable[..., None], clock: Callable[[], float] = time.monotonic) -> None:
        self._record = record
        self._clock = clock
        self._next = 0.0
        self._seen = False

    def poll(self) -> None:
        """Take a sample if one is due."""
        now = self._clock()
        if now < self._next:
            return
        begun = time.thread_time()
        self._sample()
        spent = time.thread_time() - begun
        self._next = now + max(INTERVAL_SECONDS, spent / TIME_SHARE)

    def _sample(self) -> None:
        workers = [worker for process in _children() if (worker := _worker(process)) is not None]
        self._seen = self._seen or bool(workers)
        if not self._seen:
            return
        alive = sum(worker.alive for worker in workers)
        self._record("training_loader_workers", float(alive), "alive")
        self._record("training_loader_workers", float(len(workers) - alive), "dead")
        shared = sum(worker.shared_bytes for worker in workers) + _shared_bytes("self")
        self._record("training_loader_shared_memory_bytes", shared)


def _children() -> list[Any]:
    """The processes that `multiprocessing` started and that nobody has waited for.

    Its own `active_children` would wait for them, and so take the exit status away from the loader.
    """
    return list(getattr(sys.modules.get("multiprocessing.process"), "_children", ()))


def _worker(process: Any) -> Worker | None:
    """What the kernel says of a child, None if it is no loader's worker, or one that exited cleanly."""
    pid = getattr(getattr(process, "_popen", None), "pid", None)
    if pid is None or not getattr(process, "daemon", False):
        return None
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            if file.read().strip() != _WORKER:
                return None
        # WNOWAIT: the exit status stays for the loader to take.
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except OSError:  # the loader took it this very moment
        return None
    if ended is None:
        return Worker(alive=True, shared_bytes=_shared_bytes(pid))
    return Worker(alive=False, shared_bytes=0.0) if ended.si_status != 0 else None


def _shared_bytes(pid: int | str) -> float:
    """Shared memory in the resident set of a process: pages of tmpfs and of shared mappings."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            _, found, rest = file.read().partition(b"\nRssShmem:")
    except OSError:
        return 0.0
    return float(rest.split(None, 1)[0]) * 1024 if found else 0.0
