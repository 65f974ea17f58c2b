"""XIDs, the errors that NVIDIA's driver reports of a GPU, counted by class as they come.

NVML tells them to whom waits for them: a thread of our own does. It does not see what came before it
waited (before the first scrape, and for a moment each minute while a GPU is lost and NVML is opened
anew), nor GPUs whose events this user may not have; `training_gpu_xid_watched` is 0 for those.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from trainbeacon.catalogue.hardware import XID_CLASSES
from trainbeacon.exporter.collectors.gpu.nvml import LOST, Code, Sample, address

log = logging.getLogger("trainbeacon")

#: Milliseconds that the thread waits in NVML before it looks whether it should end.
WAIT_MILLISECONDS = 500
_XID_EVENT = 0x08
_PAUSE_SECONDS = 1.0
_NUMBERS: dict[str, tuple[int, ...]] = {
    "application": (13, 31, 43, 45, 68, 69, 137),
    "memory_contained": (63, 92, 94),
    "memory_uncorrectable": (48, 64, 95, 140, 171, 172),
    "nvlink": (74, *range(144, 151), 155),
    "driver": (32, 38, 61, 62, 109, 119, 120, 143),
    "gpu_lost": (79, 167),
}
_CLASS = {number: name for name, numbers in _NUMBERS.items() for number in numbers}


def xid_class(number: int) -> str:
    """The class of an XID; `other` for what NVIDIA may add."""
    return _CLASS.get(number, "other")


@dataclass
class _Log:
    """The XIDs of one GPU since it was first watched."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(XID_CLASSES, 0))
    last: int = 0
    at: float = 0.0


class XidWatch:
    """Counts the XIDs of all GPUs, over any number of times that NVML is opened.

    `start` and `stop` are called by one thread at a time; `stop` waits about half a second for the
    thread to come back from NVML.
    """

    def __init__(self) -> None:
        self.watched: frozenset[int] = frozenset()
        self._logs: dict[int, _Log] = {}
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, nvml: Any, handles: Mapping[int, Any]) -> None:
        """Watch these GPUs; those that cannot be watched are left out of `watched`."""
        try:
            events = nvml.nvmlEventSetCreate()
        except nvml.NVMLError:
            return
        indices = {address(handle): i for i, handle in handles.items() if _registered(nvml, handle, events)}
        for index in indices.values():
            self._logs.setdefault(index, _Log())
        self.watched = frozenset(indices.values())
        self._over = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(nvml, events, indices, self._over), name="trainbeacon-xid", daemon=True
        )
        if indices:
            self._thread.start()
        else:
            self._thread = None
            _free(nvml, events)

    def stop(self) -> None:
        """End the thread, if there is one."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(timeout=2 * WAIT_MILLISECONDS / 1000)  # a sick driver can hold it for ever
            self._thread = None
        self.watched = frozenset()

    def samples(self) -> Iterator[tuple[int, Sample]]:
        """The figures of every GPU that was ever watched, also of one that is lost now."""
        for index, xids in sorted(self._logs.items()):
            for name, count in xids.counts.items():
                yield index, Sample("training_gpu_xid_errors_total", count, (name,))
            if xids.at:
                yield index, Sample("training_gpu_xid_last", xids.last)
                yield index, Sample("training_gpu_xid_last_timestamp_seconds", xids.at)

    def _run(self, nvml: Any, events: Any, indices: Mapping[int, int], over: threading.Event) -> None:
        while not over.is_set():
            try:
                event = nvml.nvmlEventSetWait_v2(events, WAIT_MILLISECONDS)
            except nvml.NVMLError as error:
                if error.value in LOST:  # says so at once, each time: the other GPUs go on
                    over.wait(_PAUSE_SECONDS)
                elif error.value != Code.TIMEOUT:
                    self._give_up(error, over)
            else:
                index = indices.get(address(event.device))
                if index is not None and event.eventType & _XID_EVENT:
                    self._count(index, event.eventData)
        _free(nvml, events)

    def _give_up(self, error: Exception, over: threading.Event) -> None:
        if not over.is_set():
            log.warning("XIDs are no longer watched: %s", error)
            self.watched = frozenset()
            over.set()

    def _count(self, index: int, number: int) -> None:
        xids = self._logs[index]
        xids.counts[xid_class(number)] += 1
        xids.last, xids.at = number, time.time()


def _registered(nvml: Any, handle: Any, events: Any) -> bool:
    try:
        if not nvml.nvmlDeviceGetSupportedEventTypes(handle) & _XID_EVENT:
            return False
        nvml.nvmlDeviceRegisterEvents(handle, _XID_EVENT, events)
    except nvml.NVMLError:  # not supported, not allowed, or lost: the figure `watched` says it
        return False
    return True


def _free(nvml: Any, events: Any) -> None:
    with suppress(nvml.NVMLError):
        nvml.nvmlEventSetFree(events)
