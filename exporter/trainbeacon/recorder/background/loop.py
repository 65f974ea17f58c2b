"""The beacon's own thread: a heartbeat, the rates, the life lock, and the polls of all probes.

It never runs on behalf of the training thread and holds no lock that the training thread takes.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable

from trainbeacon.blackbox import format as layout
from trainbeacon.recorder.background.schedule import Scheduled
from trainbeacon.recorder.core.pace import StepPace
from trainbeacon.recorder.core.recorder import Recorder
from trainbeacon.recorder.core.threads import start_thread
from trainbeacon.recorder.hooks.compiler import skip_in_dynamo

INTERVAL_SECONDS = 1.0
LAST_TURN_SECONDS = 1.0
HEARTBEAT_MARGIN_SECONDS = 0.05


class BackgroundLoop:
    """A daemon thread over one recorder, which takes a turn once a second.

    Args:
        recorder: whose heartbeat it is.
        probes: what is polled, each at its own interval.
        interval: seconds between two turns, with some jitter.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        recorder: Recorder,
        probes: Iterable[Scheduled] = (),
        *,
        interval: float = INTERVAL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._recorder = recorder
        self._probes = [_Turn(each) for each in probes]
        self._interval = interval
        self._clock = clock
        # Of its own: the script may seed the global one, and expects its numbers.
        self._random = random.Random()  # noqa: S311 - jitter
        self._pace = StepPace(recorder.timeline, clock)
        self._over = False
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread; the first turn comes at once. Raises NoThreadError."""
        self._recorder.deferred.wake = self._wake.set
        self._thread = start_thread("trainbeacon", self._run)

    def stop(self) -> None:
        """Have the thread end, and wait for it as long as a turn takes, but not longer than a second.

        One that the end of the interpreter finds at work is cut off in C, which can end in an abort.
        """
        self._over = True
        self._wake.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(LAST_TURN_SECONDS)

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def _run(self) -> None:
        while not self._over:
            self.turn()
            # Jitter, so that the ranks of a node do not wake as one.
            self._rest(self._interval * self._random.uniform(0.9, 1.1))

    def turn(self) -> None:
        """Do all that is due now, whatever part of it fails; for the thread, and for tests."""
        guard, now = self._recorder.guard, self._clock()
        guard("helper", self._beat)
        guard("device", self._recorder.deferred.poll)
        guard("helper", self._measure_rates)
        for each in self._probes:
            if each.is_due(now):
                guard(each.where, each.poll)
        guard("blackbox", self._recorder.writer.hold_lock)
        guard("hooks", skip_in_dynamo)

    def _rest(self, seconds: float) -> None:
        """Sleep until the next turn, but for reading the numbers of a device where many have come."""
        end = time.monotonic() + seconds
        while not self._over and (left := end - time.monotonic()) > 0:
            if self._wake.wait(left):
                self._wake.clear()
                self._recorder.guard("device", self._recorder.deferred.poll)

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
        recorder, pace, made = self._recorder, self._pace.poll(), self._recorder.timeline.last
        if pace is None or made is None:
            return
        _, _, samples, tokens = made
        if samples:
            recorder.set("training_samples_per_second", pace.samples / pace.seconds)
        if tokens:
            recorder.set("training_tokens_per_second", pace.tokens / pace.seconds)


class _Turn:
    """When one probe is due. Intervals of up to a second and a half are every turn's."""

    def __init__(self, scheduled: Scheduled) -> None:
        self.poll = scheduled.poll
        self.where = scheduled.probe.where
        self._interval = scheduled.probe.interval
        self._next = float("-inf")

    def is_due(self, now: float) -> bool:
        if now < self._next:
            return False
        self._next = now + self._interval - 0.5  # turns are a second apart, more or less
        return True
