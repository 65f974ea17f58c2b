"""Which processes of a job only help a rank: what they import may call `start`, and must record nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from trainbeacon.recorder.core.group import place_in_group
from trainbeacon.recorder.core.recorder import log

#: Where `multiprocessing` and what is made after it (the `multiprocess` package, Celery) keep the process.
_PROCESSES = ("multiprocessing.process", "multiprocess.process", "billiard.process")
#: What the processes of executors run.
_POOLS = (
    "concurrent.futures.process",
    "loky.process_executor",
    "joblib.externals.loky.process_executor",
)
#: What `torch.multiprocessing.spawn` runs: ranks, also where they are daemons.
_RANKS = "torch.multiprocessing.spawn"


def is_worker() -> bool:
    """Whether this process was started to help another one: a loader's worker, a pool's, a Ray actor's.

    A process whose group of torch.distributed is initialised is a rank, whoever started it. So is one that
    `torch.multiprocessing.spawn` made, and a process of the script's own that calls `start` itself, and not
    by importing a module in which that call stands.
    """
    if place_in_group() is not None:
        return False
    for process in _processes():
        if hasattr(process, "_inheriting"):  # imports the main script, before it does anything
            return True
        target = getattr(getattr(process, "_target", None), "__module__", "")
        if target == _RANKS:
            return False
        if process.daemon or target in _POOLS:
            log.warning(
                "nothing is recorded in %s: it is taken for a worker of another process. "
                "Give start(enabled=True) where it trains a run of its own",
                process.name,
            )
            return True
    return (_is_child() or _is_in_ray()) and _is_being_imported()


def _processes() -> Iterator[Any]:
    modules: Iterator[Any] = (sys.modules.get(name) for name in _PROCESSES)
    return (module.current_process() for module in modules if module is not None)


def _is_child() -> bool:
    return any(getattr(process, "_parent_pid", None) is not None for process in _processes())


def _is_in_ray() -> bool:
    """Whether Ray runs tasks or an actor here."""
    ray: Any = sys.modules.get("ray._private.worker")
    worker = getattr(ray, "global_worker", None)
    return worker is not None and getattr(worker, "mode", None) == getattr(ray, "WORKER_MODE", 1)


def _is_being_imported() -> bool:
    """Whether `start` stands at the top of a module that is being imported."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False
