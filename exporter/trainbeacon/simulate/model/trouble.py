"""What is amiss with a run or a GPU at the moment: scenarios write it, the model obeys it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

#: Turns the loss of (split, step) into another one.
Reshape = Callable[[str, int, float], float]


@dataclass
class GpuTrouble:
    """What is amiss with one GPU."""

    throttle: str = ""
    #: Share of its clock that is left.
    clock: float = 1.0
    heat_celsius: float = 0.0
    lost: bool = False
    corrected_a_second: float = 0.0


@dataclass
class Trouble:
    """What is amiss with one run; everything neutral in a healthy one."""

    #: Seconds that a step of this rank takes longer, by phase.
    extra: dict[int, dict[str, float]] = field(default_factory=dict)
    #: Seconds that every rank waits longer for its data, a step.
    data_wait: float = 0.0
    checkpoint_factor: float = 1.0
    checkpoint_fails: bool = False
    evaluate_factor: float = 1.0
    #: Of the evaluations that are due, one in so many is made.
    evaluate_one_in: int = 1
    compile_factor: float = 1.0
    #: First step with a NaN by rank, and of all other ranks.
    nonfinite_from: dict[int, int] = field(default_factory=dict)
    nonfinite_everywhere_from: int | None = None
    reshapes: list[Reshape] = field(default_factory=list)
    #: Each says how many leaps of the loss there were up to a step.
    spikes: list[Callable[[int], int]] = field(default_factory=list)
    #: Multiplies the gradient norm of a step.
    norm: Callable[[int], float] = lambda step: 1.0
    #: Ranks whose process grows: bytes a second, and since when.
    leaks: dict[int, tuple[float, float]] = field(default_factory=dict)
    gpu_leaks: dict[int, tuple[float, float]] = field(default_factory=dict)
    gpus: dict[int, GpuTrouble] = field(default_factory=dict)

    def slowest_extra(self) -> float:
        """Seconds that every rank waits a step for the slowest one."""
        return max((sum(phases.values()) for phases in self.extra.values()), default=0.0)

    def first_nonfinite(self, rank: int) -> int | None:
        """The step in which a rank first sees a NaN, if it does."""
        return self.nonfinite_from.get(rank, self.nonfinite_everywhere_from)
