"""How things are timed: in turns, in short repetitions, told as medians, quartiles and ratios pair by pair.

Machines are shared and noisy, so a figure of one thing alone means little. Every round times each case
once, in an order that rotates, and a ratio is that of two cases of the same round.
"""

from __future__ import annotations

import gc
import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any, TypeVar

#: Does a case `count` times and returns the seconds that it took.
Case = Callable[[int], float]

PACKAGES = (
    "trainbeacon", "prometheus-client", "h11", "torch", "numpy", "psutil",
    "tensorboard", "mlflow-skinny", "wandb", "traceml-ai",
)  # fmt: skip


Amount = TypeVar("Amount")


class Effort(Enum):
    """How much to measure. The figures of a smoke run mean nothing: it only shows that everything runs."""

    FULL = "full"
    QUICK = "quick"
    SMOKE = "smoke"

    def choose(self, full: Amount, quick: Amount, smoke: Amount) -> Amount:
        """The amount for this effort."""
        return {Effort.FULL: full, Effort.QUICK: quick, Effort.SMOKE: smoke}[self]


@dataclass(frozen=True)
class Summary:
    """A distribution, in the unit of what was given."""

    median: float
    quartiles: tuple[float, float]
    least: float
    most: float
    count: int


def summary(values: Sequence[float]) -> Summary:
    """Median, quartiles, extremes."""
    if len(values) > 2:
        low, middle, high = statistics.quantiles(values, n=4)
    else:
        low, middle, high = min(values), statistics.median(values), max(values)
    rounded = [significant(value) for value in (middle, low, high, min(values), max(values))]
    return Summary(rounded[0], (rounded[1], rounded[2]), rounded[3], rounded[4], len(values))


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the values lie below."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def significant(value: float, digits: int = 5) -> float:
    """Rounded to some digits, so that raw data stay small."""
    return float(f"{value:.{digits}g}")


def in_turns(cases: Mapping[str, tuple[Case, int]], rounds: int) -> dict[str, list[float]]:
    """Microseconds for one execution of each case in each round; the first round is thrown away."""
    names = list(cases)
    times: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds + 1):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                case, count = cases[name]
                microseconds = case(count) / count * 1e6
                if number:
                    times[name].append(significant(microseconds))
    finally:
        gc.enable()
    return times


def compared(times: Mapping[str, Sequence[float]], base: str) -> dict[str, Any]:
    """Each case with its distribution, and the ratio of the base to it, pair by pair."""
    told: dict[str, Any] = {}
    for name, values in times.items():
        ratios = [slow / fast for slow, fast in zip(times[base], values, strict=True)]
        told[name] = {
            "microseconds": asdict(summary(values)),
            f"{base}/this": asdict(summary(ratios)),
            "raw": list(values),
        }
    return told


def repeat(work: Callable[[], Any]) -> Case:
    """The case that calls `work`, in processor time of this thread: others on the machine do not count.

    What the loop and the call themselves take is in the figure.
    """

    def case(count: int) -> float:
        start = time.thread_time()
        for _ in range(count):
            work()
        return time.thread_time() - start

    return case


def surroundings() -> dict[str, Any]:
    """Machine, load and versions, for the raw data."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "load_average": load(),
    }


def load() -> list[float]:
    """Load averages of 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            lines = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        lines = []
    return lines[0] if lines else platform.processor()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        if package != "trainbeacon":
            return ""
        import trainbeacon

        return trainbeacon.__version__
