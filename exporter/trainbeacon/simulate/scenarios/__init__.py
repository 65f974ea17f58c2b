"""The faults that a fleet can be given. To add one: its class in the file of its kind, and its place here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .base import Fault, Injection
from .efficiency import FailingCheckpoint, InputBound, Pauses, SlowCheckpoint
from .hardware import Ecc, ExporterLoss, GpuMemoryLeak, MemoryLeak, Throttling, Xid
from .learning import Divergence, Nan, Overfitting, Plateau, Spike
from .progress import (
    Crash,
    CrashResume,
    Hang,
    Moved,
    OutOfMemory,
    StageImbalance,
    StragglerCompute,
    StragglerData,
    StragglerHost,
    StuckCheckpoint,
    StuckLoader,
)

if TYPE_CHECKING:
    from trainbeacon.simulate.fleet import Fleet

_FAULTS: tuple[type[Fault], ...] = (
    Nan,
    Spike,
    Divergence,
    Overfitting,
    Plateau,
    Hang,
    StuckLoader,
    StuckCheckpoint,
    StragglerData,
    StragglerCompute,
    StragglerHost,
    StageImbalance,
    Crash,
    CrashResume,
    OutOfMemory,
    Moved,
    InputBound,
    SlowCheckpoint,
    FailingCheckpoint,
    Pauses,
    Xid,
    Ecc,
    Throttling,
    MemoryLeak,
    GpuMemoryLeak,
    ExporterLoss,
)
SCENARIOS: dict[str, type[Fault]] = {fault.name: fault for fault in _FAULTS}
#: Between the beginnings of two scenarios of one run.
APART_SECONDS = 300.0

__all__ = ["SCENARIOS", "Fault", "Injection", "Plan", "spread"]


@dataclass(frozen=True)
class Plan:
    """Which scenarios a fleet plays: the first on its first run, the next on the next, and round again.

    `onset` counts from the start of the fleet, and a further scenario of the same run begins `apart` seconds
    after the one before. `lasting` None means to the end.

    Raises:
        ValueError: there is no such scenario.
    """

    names: Sequence[str] = ()
    onset: float = 120.0
    lasting: float | None = None
    apart: float = APART_SECONDS

    def __post_init__(self) -> None:
        unknown = [name for name in self.names if name not in SCENARIOS]
        if unknown:
            raise ValueError(f"no scenario {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")

    @property
    def spares(self) -> int:
        """Nodes that must stand ready beside those of the fleet."""
        return int(any(SCENARIOS[name].needs_spare for name in self.names))

    def arm(self, fleet: Fleet) -> list[Injection]:
        """Have the scenarios played by this fleet; returns the truth, which is kept up to date."""
        return [self._arm(fleet, number, name) for number, name in enumerate(self.names)]

    def _arm(self, fleet: Fleet, number: int, name: str) -> Injection:
        run = fleet.runs[number % len(fleet.runs)]
        turn = number // len(fleet.runs)
        begins = run.born + self.onset + turn * self.apart
        ends = math.inf if self.lasting is None else begins + self.lasting
        fault = SCENARIOS[name](fleet, run, begins, ends, number)
        run.scenarios.append(fault)
        return fault.injection


def spread(
    names: Sequence[str], runs: int, seconds: float, onset: float | None, lasting: float | None
) -> Plan:
    """A plan for a stretch of time that is written at once: the scenarios of each run evenly over it."""
    turns = -(-len(names) // runs) if names else 1
    share = seconds / (turns + 1)
    return Plan(names, onset or share, lasting or min(3600.0, share / 2), share)
