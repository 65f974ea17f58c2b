"""Into which kind each second of a process goes, worked out from its phases and steps.

init        the phases init, resume, compile and warmup, and the first step
data_wait, evaluate, checkpoint: the phases of that name
productive  what is left of the steps that were completed
stalled     of a step, what is beyond ten mean steps, and beyond a minute
other       what is left of a step that was not completed when the run came to its end
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from trainbeacon import catalogue
from trainbeacon.recorder.core.timeline import Timeline

KIND_OF_PHASE = {
    "init": "init",
    "resume": "init",
    "compile": "init",
    "warmup": "init",
    "data_wait": "data_wait",
    "evaluate": "evaluate",
    "checkpoint": "checkpoint",
}
STALL_STEPS = 10
STALL_SECONDS = 60.0

BUSY_PHASES = tuple(name for name in catalogue.PHASES if name not in KIND_OF_PHASE)

_CLOSED = [(catalogue.PHASES.index(name), kind) for name, kind in KIND_OF_PHASE.items()]
_BUSY = [catalogue.PHASES.index(name) for name in BUSY_PHASES]


@dataclass(frozen=True)
class TimeBreakdown:
    """The seconds of one process.

    Attributes:
        steps: how many it has completed.
        seconds: by kind, of what is settled.
        pending: of the step under way, what is settled once it is done.
        mean: productive seconds a step, 0 before the second one.
        phases, at_step: seconds of each phase, up to now and up to the last step.
        limit: seconds of a step beyond which it is stalled.
    """

    steps: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    pending: float = 0.0
    mean: float = 0.0
    phases: tuple[float, ...] = ()
    at_step: tuple[float, ...] = ()
    limit: float = STALL_SECONDS


class TimeAccounting:
    """The accounts of one timeline, looked at from one thread, about once a second."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._stalled = 0.0
        self._wanted: set[int] = set()
        self._long_step: tuple[int, float, float] | None = None  # number, busy at its start, limit

    def account(self) -> TimeBreakdown:
        """The seconds up to now."""
        timeline = self._timeline
        steps, at_step = timeline.step_end  # first: what follows is later than it
        totals = timeline.totals_now()
        seconds = dict.fromkeys(catalogue.GOODPUT_KINDS, 0.0)
        for number, kind in _CLOSED:
            seconds[kind] += totals[number]
        busy, busy_at_step = busy_of(totals), busy_of(at_step)
        if not steps:
            seconds["init"] += busy
            return TimeBreakdown(0, seconds, phases=totals, at_step=at_step)
        warmup = self._busy_at(1, busy_at_step)
        self._close_long_step(steps, busy_at_step)
        done = max(0.0, busy_at_step - warmup - self._stalled)
        mean = done / (steps - 1) if steps > 1 else 0.0
        open_seconds = max(0.0, busy - busy_at_step)
        limit = max(STALL_STEPS * mean, STALL_SECONDS)
        stalled = self._open_stall(steps, busy_at_step, open_seconds, limit)
        seconds["init"] += warmup
        seconds["productive"] = done
        seconds["stalled"] = self._stalled + stalled
        return TimeBreakdown(steps, seconds, open_seconds - stalled, mean, totals, at_step, limit)

    def keep(self, step: int) -> None:
        """Have the end of that step of this process kept for `productive_at`."""
        self._wanted.add(step)
        self._timeline.marks.setdefault(step, None)

    def productive_at(self, step: int, account: TimeBreakdown) -> float:
        """Productive seconds up to the end of a step that was to be kept; a share where it was too late."""
        done = account.seconds["productive"]
        totals = self._timeline.marks.get(step)
        if totals is not None:
            return min(done, self.productive_of(totals))
        return done * (step - 1) / max(1, account.steps - 1) if step > 1 else 0.0

    def productive_of(self, totals: Sequence[float]) -> float:
        """Productive seconds up to the end of a step, of the phase totals at that time."""
        return max(0.0, busy_of(totals) - self._busy_at(1, 0.0) - self._stalled)

    def _busy_at(self, step: int, default: float) -> float:
        """Busy seconds up to the end of a step that was to be kept, `default` where it was too late."""
        totals = self._timeline.marks.get(step)
        return default if totals is None else busy_of(totals)

    def _open_stall(self, steps: int, begin: float, seconds: float, limit: float) -> float:
        """Seconds of the step under way that are stalled."""
        if seconds <= limit:
            return 0.0
        if self._long_step is None:
            self._long_step = (steps + 1, begin, limit)
            self._timeline.marks.setdefault(steps + 1, None)
        return seconds - limit

    def _close_long_step(self, steps: int, busy_at_step: float) -> None:
        """A step that took too long is done after all."""
        if self._long_step is not None and steps >= self._long_step[0]:
            number, begin, limit = self._long_step
            self._long_step = None
            self._stalled += max(0.0, self._busy_at(number, busy_at_step) - begin - limit)
            if number not in self._wanted:
                self._timeline.marks.pop(number, None)


def busy_of(totals: Sequence[float]) -> float:
    """Time in none of the phases that are a kind of their own."""
    return sum([totals[number] for number in _BUSY])
