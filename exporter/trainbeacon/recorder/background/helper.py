"""The beacon's own thread: a heartbeat, the rates, the life lock and an eye on the exporter, once a second.

It never runs on behalf of the training thread and holds no lock that the training thread takes.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable

from trainbeacon.blackbox import format as layout
from trainbeacon.recorder.core.recorder import Recorder
from trainbeacon.recorder.hooks.compiler import keep_out_of_graphs
from trainbeacon.recorder.probes.user_metrics import UserMetrics

INTERVAL_SECONDS = 1.0
RATE_WINDOW_SECONDS = 10.0
HEARTBEAT_MARGIN_SECONDS = 0.05

_RATES = (
    ("training_samples_total", "training_samples_per_second"),
    ("training_tokens_total", "training_tokens_per_second"),
)


class Helper:
    """A daemon thread over one recorder. Each turn calls `watch_exporter` and looks at `user_metrics`.

    Attributes:
        looks: what else is done in each turn; some 0.1 ms each at most.
    """

    def __init__(
        self,
        recorder: Recorder,
        watch_exporter: Callable[[], None],
        user_metrics: UserMetrics | None = None,
    ) -> None:
        self._recorder = recorder
        self._watch_exporter = watch_exporter
        self._user_metrics = user_metrics
        self.looks: list[Callable[[], None]] = []
        self._jobs: deque[Callable[[], None]] = deque(maxlen=100)
        self._history: deque[tuple[float, list[float]]] = deque()
        self._over = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trainbeacon", daemon=True)

    def start(self) -> None:
        """Begin; the first turn comes at once."""
        self._recorder.late.wake = self._wake.set
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end; does not wait for it."""
        self._over = True
        self._wake.set()
        if self._user_metrics is not None:
            self._user_metrics.stop()

    def submit(self, job: Callable[[], None]) -> None:
        """Have something done soon that may touch files, outside the training thread."""
        self._jobs.append(job)

    def _run(self) -> None:
        guard = self._recorder.guard
        while not self._over:
            guard("helper", self._beat)
            guard("device", self._recorder.late.poll)
            guard("helper", self._measure_rates)
            for look in self.looks:
                guard("helper", look)
            guard("blackbox", self._recorder.writer.hold_lock)
            guard("hooks", keep_out_of_graphs)
            guard("exporter", self._watch_exporter)
            if self._user_metrics is not None:
                guard("helper", self._user_metrics.look)
            while self._jobs:
                guard("helper", self._jobs.popleft())
            # Jitter, so that the ranks of a node do not wake as one.
            self._rest(INTERVAL_SECONDS * random.uniform(0.9, 1.1))  # noqa: S311

    def _rest(self, seconds: float) -> None:
        """Sleep until the next turn, but for reading the numbers of a device where many have come."""
        end = time.monotonic() + seconds
        while not self._over and (left := end - time.monotonic()) > 0:
            if self._wake.wait(left):
                self._wake.clear()
                self._recorder.guard("device", self._recorder.late.poll)

    def _beat(self) -> None:
        recorder = self._recorder
        now, wall = time.monotonic(), time.time()
        recorder.timeline.wall_offset = wall - now
        recorder.timeline.heartbeat = now  # before readers can see it: see Timeline._stamp
        # A little back: a phase that closes this very moment has read its clock already, and its
        # total must not come out below what a reader makes of the open phase and this heartbeat.
        recorder.set(layout.HEARTBEAT, now - HEARTBEAT_MARGIN_SECONDS)
        recorder.set("training_heartbeat_timestamp_seconds", wall)

    def _measure_rates(self) -> None:
        recorder = self._recorder
        now = time.monotonic()
        totals = [recorder.writer.step[recorder.at(counter)] for counter, _ in _RATES]
        history = self._history
        history.append((now, totals))
        while len(history) > 2 and now - history[1][0] >= RATE_WINDOW_SECONDS:
            history.popleft()
        then, before = history[0]
        for (_, gauge), total, old in zip(_RATES, totals, before, strict=True):
            if total == total and now > then:  # NaN: nothing was counted yet
                recorder.set(gauge, (total - (old if old == old else 0.0)) / (now - then))
