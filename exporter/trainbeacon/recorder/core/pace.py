"""How fast steps are made: over whole steps, so that a step of minutes gives one rate at every moment."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from trainbeacon.recorder.core.timeline import Progress, Timeline

WINDOW_SECONDS = 10.0
#: A rank that has made no step for so many of its steps, and for longer than the window, makes none.
STALLED_STEPS = 3
#: Readings that are kept, of which two make a rate.
_MOST_READINGS = 64


@dataclass(frozen=True)
class Pace:
    """What was made between the ends of two steps: how many of each in how many seconds."""

    seconds: float
    steps: float
    samples: float
    tokens: float


class StepPace:
    """Reads a timeline about once a second, from one thread.

    The pace is that of the whole steps of about the last ten seconds, of the last step where it took longer,
    and 0 where none has ended for `STALLED_STEPS` steps and more than ten seconds. The first step is left
    out: it warms up and compiles.

    Args:
        timeline: what is read.
        clock: monotonic seconds, as the timeline's.
    """

    def __init__(self, timeline: Timeline, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeline = timeline
        self._clock = clock
        self._readings: deque[Progress] = deque(maxlen=_MOST_READINGS)

    def poll(self) -> Pace | None:
        """The pace now; None before the second step has ended."""
        readings, last = self._readings, self._timeline.last
        if last is None:
            return None
        if not readings and self._timeline.first is not None:
            readings.append(self._timeline.first)
        if last[0] > readings[-1][0]:
            readings.append(last)
        else:  # samples that a step was given after its end
            readings[-1] = last if last[1] == readings[-1][1] else readings[-1]
        while len(readings) > 2 and last[0] - readings[1][0] >= WINDOW_SECONDS:
            readings.popleft()
        if len(readings) < 2:
            return None
        return self._between(readings[0], last)

    def _between(self, before: Progress, last: Progress) -> Pace:
        seconds = last[0] - before[0]
        silent = self._clock() - last[0]
        a_step = seconds / max(1, last[1] - before[1])
        if silent > max(WINDOW_SECONDS, STALLED_STEPS * a_step):
            return Pace(silent, 0.0, 0.0, 0.0)
        return Pace(seconds, last[1] - before[1], last[2] - before[2], last[3] - before[3])
