"""One rank of a simulated run: its place, its pace, and its share of the run's time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from trainbeacon.simulate.box import SimulatedBox

from .workload import OWN_PHASES

#: The slowest healthy rank needs so much more for its own work than the mean; the fastest as much less.
MOST_PACE = 0.02
#: A healthy pipeline's longest stage takes so much longer than the mean; the shortest as much less.
MOST_STAGE_PACE = 0.05
#: The order of a step; the parts of it.
STEP_ORDER = ("data_wait", "h2d", "forward", "backward", "communication", "optimizer", "other")
#: Share of the backward pass before the first gradients are reduced.
BEFORE_FIRST_COLLECTIVE = 0.25


@dataclass(frozen=True)
class Place:
    """Where a rank runs: node and GPU by their numbers."""

    node: int
    gpu: int


@dataclass
class Rank:
    """A rank. `extra` holds the seconds by phase beyond those of the run's reference."""

    number: int
    place: Place
    pace: float
    box: SimulatedBox
    extra: dict[str, float] = field(default_factory=dict)
    is_alive: bool = True
    #: What it was busy with when it stopped for good, empty while it goes on.
    stuck_in: str = ""
    evidence: int = 0

    def add(self, phase: str, seconds: float) -> None:
        """Account for time spent otherwise than the reference; the wait for others gives way."""
        self.extra[phase] = self.extra.get(phase, 0.0) + seconds
        self.extra["communication"] = self.extra.get("communication", 0.0) - seconds

    def seconds(
        self, phase: str, totals: Mapping[str, float], extra: Mapping[str, float] | None = None
    ) -> float:
        """The time that this rank spends in a phase, given the run's reference and what it has beyond it."""
        own = (self.extra if extra is None else extra).get(phase, 0.0)
        if phase in OWN_PHASES:
            return own + totals[phase] * (1.0 + self.pace)
        if phase == "communication":
            return own + totals[phase] - self.pace * sum(totals[name] for name in OWN_PHASES)
        return own + totals[phase]

    def self_seconds(self, totals: Mapping[str, float], extra: Mapping[str, float]) -> dict[str, float]:
        """Time of the steps in which the rank waited for no other, by cause."""
        spent = {name: self.seconds(name, totals, extra) for name in ("data_wait", "forward", "optimizer")}
        spent["backward"] = BEFORE_FIRST_COLLECTIVE * self.seconds("backward", totals, extra)
        spent["host"] = self.seconds("h2d", totals, extra) + self.seconds("other", totals, extra)
        return spent
