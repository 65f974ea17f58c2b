"""When a rank is stalled: no step for longer than usual, with patience for phases that take long."""

from __future__ import annotations

import math

#: Phases that make no steps for good reason; for so many times as long as the others.
SLOW_PHASES = ("init", "resume", "compile", "warmup", "evaluate", "checkpoint")
PATIENCE_FACTOR = 10
#: A stall is at least so many mean steps long.
MEAN_STEPS = 10


class StallClock:
    """Reports each stall of a rank once.

    Args:
        seconds: without a step, at least; a slow phase has ten times as long.
        now: monotonic time at which the process began.
    """

    def __init__(self, seconds: float, now: float) -> None:
        self._seconds = seconds
        self._steps = -1.0
        self._since = now
        self._reported = False

    def limit(self, phase: str, mean_step: float) -> float:
        """Seconds that this phase may take without a step."""
        ordinary = max(self._seconds, MEAN_STEPS * mean_step)
        return ordinary * PATIENCE_FACTOR if phase in SLOW_PHASES else ordinary

    def poll(
        self, now: float, steps: float, phase: str, phase_start: float, mean_step: float
    ) -> float | None:
        """Seconds without progress if a stall is found that was not reported yet, else None.

        Args:
            now: monotonic time, as `phase_start` is.
            steps: steps made so far.
            phase: the present one.
            phase_start: when it began.
            mean_step: mean duration of a step in seconds, 0 where none was made.
        """
        if steps != self._steps:
            self._steps, self._since, self._reported = steps, now, False
        slow = phase in SLOW_PHASES
        # What a slow phase took does not count against the phase after it.
        since = phase_start if slow else self._since
        stalled_for = now - since
        if stalled_for <= self.limit(phase, mean_step):
            if slow:
                self._since = now
            return None
        if self._reported or not math.isfinite(stalled_for):
            return None
        self._reported = True
        return stalled_for
