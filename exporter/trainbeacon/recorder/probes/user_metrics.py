"""The metrics that the training script made with prometheus-client itself, on their way to /metrics.

Where the script imported prometheus_client and registered something, a thread of our own writes it
beside the black box, at most every five seconds and for at most a thousandth of the time. It is a
thread apart because collecting may run code of the user's, which may take long or raise.
"""

from __future__ import annotations

import contextlib
import copy
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from trainbeacon.blackbox import files, textfile
from trainbeacon.recorder.core.threads import start_thread

INTERVAL_SECONDS = 5.0
SHARE_OF_TIME = 0.001
#: What prometheus_client registers by itself; the process is served from outside already.
_DEFAULTS = ("PROCESS_COLLECTOR", "PLATFORM_COLLECTOR", "GC_COLLECTOR")


class UserMetrics:
    """Writes the default registry's metrics beside one box.

    Args:
        box: path of the box.
        on_error: called with each exception of a collector, or of the writing.
        on_dropped: called with how many more series than ever before had no room.
    """

    def __init__(
        self, box: str, on_error: Callable[[Exception], None], on_dropped: Callable[[int], None]
    ) -> None:
        self._path = textfile.beside(box)
        self._on_error = on_error
        self._on_dropped = on_dropped
        self._dropped = 0
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def poll(self) -> None:
        """Start the thread once there is something to write; for the background thread, once a second."""
        if self._thread is None and _collectors():
            self._thread = start_thread("trainbeacon-user-metrics", self._run)

    def stop(self) -> None:
        """Write no more, and take away what was written; does not wait for the thread."""
        self._over.set()
        if self._thread is not None:
            self._remove()

    def write(self) -> float:
        """Write once; returns the processor seconds that it took."""
        begun = time.thread_time()
        try:
            text = self._encode()
            if not self._over.is_set():
                files.replace(self._path, text)
        except Exception as error:  # noqa: BLE001 - a full disk must not end the thread
            self._on_error(error)
        return time.thread_time() - begun

    def _run(self) -> None:
        while not self._over.is_set():
            cost = self.write()
            self._over.wait(max(INTERVAL_SECONDS, cost / SHARE_OF_TIME))
        self._remove()

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._path)

    def _encode(self) -> bytes:
        """Whole families as long as there is room for them: half a histogram is worse than none."""
        texts: list[bytes] = []
        room, series, dropped = textfile.MOST_BYTES, textfile.MOST_SERIES, 0
        for collector in _collectors():
            for family, text in self._families(collector):
                if len(family.samples) > series or len(text) > room:
                    dropped += len(family.samples)
                    continue
                texts.append(text)
                room, series = room - len(text), series - len(family.samples)
        if dropped > self._dropped:
            self._on_dropped(dropped - self._dropped)
            self._dropped = dropped
        return b"".join(texts)

    def _families(self, collector: Any) -> Iterator[tuple[Any, bytes]]:
        encode = sys.modules["prometheus_client"].generate_latest
        try:
            for family in collector.collect():
                own = copy.copy(family)  # it may be the collector's own object
                created = f"{family.name}_created"
                own.samples = [sample for sample in family.samples if sample.name != created]
                if own.samples:
                    yield own, encode(_One(own))
        except Exception as error:  # noqa: BLE001 - the user's code may raise anything
            self._on_error(error)


class _One:
    """A registry of one family, as `generate_latest` wants it."""

    def __init__(self, family: Any) -> None:
        self._family = family

    def collect(self) -> list[Any]:
        return [self._family]


def _collectors() -> list[Any]:
    """What the script registered in prometheus_client's default registry; nothing if it never imported it."""
    module = sys.modules.get("prometheus_client")
    registered = getattr(getattr(module, "REGISTRY", None), "_collector_to_names", {})
    defaults = {id(getattr(module, name, None)) for name in _DEFAULTS}
    return [collector for collector in list(registered) if id(collector) not in defaults]
