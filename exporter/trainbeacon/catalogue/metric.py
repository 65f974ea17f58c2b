"""What a metric is: the types that the lists of this package are made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod
from typing import Literal

Type = Literal["counter", "gauge", "histogram", "info"]
Level = Literal["rank", "gpu", "node", "run"]
Stability = Literal["stable", "experimental"]
Source = Literal["ranks", "gpu", "host", "health", "notify"]

#: Longest name and value of a label that is served, in bytes of UTF-8. The chart's monitor has the same
#: limits, and Prometheus refuses the whole target beyond them.
LABEL_NAME_BYTES = 128
LABEL_VALUE_BYTES = 512

#: The identity labels that every series of a level carries, before the metric's own labels.
LEVEL_LABELS: dict[Level, tuple[str, ...]] = {
    "rank": ("run", "rank"),
    "gpu": ("gpu",),
    "node": (),
    "run": ("run",),
}


@dataclass(frozen=True)
class Label:
    """A label of a metric: a closed set of `values`, or at most `bound` values chosen by the user."""

    name: str
    meaning: str
    values: tuple[str, ...] = ()
    limit: int = 0

    @property
    def bound(self) -> int:
        """The greatest number of values that this label can take on one target."""
        return len(self.values) or self.limit


@dataclass(frozen=True)
class Metric:
    """One metric family. `unit` is empty for plain numbers; ratios are 0 to 1.

    `survives` says whether the value is still served from the black box of a process that ended;
    what describes only a living process (rates, the present phase) is not.
    """

    group: str
    name: str
    type: Type
    unit: str
    help: str
    labels: tuple[Label, ...] = ()
    level: Level = "rank"
    source: Source = "ranks"
    survives: bool = True
    stability: Stability = "stable"
    since: str = "0.1.0"
    buckets: tuple[float, ...] = ()

    @cached_property
    def label_names(self) -> tuple[str, ...]:
        """All labels of a series, identity labels first."""
        return LEVEL_LABELS[self.level] + tuple(label.name for label in self.labels)

    @property
    def series(self) -> int:
        """The greatest number of series for one rank, GPU, node or run."""
        bounds = [label.bound for label in self.labels]
        if self.type == "info":  # one series a name, whatever its other labels say
            return max(bounds)
        if self.type == "histogram":  # the buckets, +Inf, _sum and _count
            return len(self.buckets) + 3
        return prod(bounds)

    def closed_label_values(self) -> Iterator[tuple[str, ...]]:
        """Every combination of label values, for a metric whose labels are all closed sets."""
        return product(*(label.values for label in self.labels))


def facts(**meanings: str) -> tuple[Label, ...]:
    """Labels of an info metric that has one series: the text may be anything."""
    return tuple(Label(name, meaning, limit=1) for name, meaning in meanings.items())
