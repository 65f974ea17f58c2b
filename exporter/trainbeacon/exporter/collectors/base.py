"""What every collector is made of: the families of one scrape, built from the catalogue only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric as Family

from trainbeacon import catalogue
from trainbeacon.identity import short


class Families:
    """The metric families that one collector fills in one scrape.

    Every name must be in the catalogue, with as many label values as the catalogue says, identity
    labels (`run`, `rank`, `gpu`) first: anything else is an error of ours and raises.
    """

    def __init__(self) -> None:
        self._families: dict[str, Family] = {}
        #: What is not in the catalogue: metrics of the user's own, each name once.
        self.foreign: list[Family] = []

    def add(self, name: str, value: float, *labels: str) -> None:
        """Add one sample of a counter or a gauge."""
        self._family(name).add_sample(name, _labels(catalogue.BY_NAME[name], labels), value)

    def add_info(self, name: str, *labels: str) -> None:
        """Add one series of an info metric; its value is always 1."""
        family = self._family(name)
        family.add_sample(name, _labels(catalogue.BY_NAME[name], labels), 1.0)

    def add_histogram(self, name: str, counts: Sequence[float], total: float, *labels: str) -> None:
        """Add a histogram from its uncumulated bucket counts, the one beyond the last bound included."""
        metric = catalogue.BY_NAME[name]
        family = self._family(name)
        if len(counts) != len(metric.buckets) + 1:
            raise ValueError(f"{name} has {len(metric.buckets) + 1} buckets, not {len(counts)}")
        base = _labels(metric, labels)
        cumulated = 0.0
        for bound, count in zip((*metric.buckets, float("inf")), counts, strict=True):
            cumulated += count
            le = "+Inf" if bound == float("inf") else str(float(bound))
            family.add_sample(f"{name}_bucket", {**base, "le": le}, cumulated)
        family.add_sample(f"{name}_sum", base, total)
        family.add_sample(f"{name}_count", base, cumulated)

    def add_foreign(self, family: Family) -> None:
        """Add a whole family of the user's own; every sample has the labels `run` and `rank`."""
        self.foreign.append(family)

    def merge(self, other: Families) -> None:
        """Take over all samples of another collector."""
        for name, family in other._families.items():
            mine = self._families.get(name)
            if mine is None:
                self._families[name] = family
            else:
                mine.samples.extend(family.samples)
        self.foreign += other.foreign

    def get(self, name: str) -> Family | None:
        """The family of that name, if any sample was added to it."""
        return self._families.get(name)

    def __iter__(self) -> Iterator[Family]:
        """The families in the order of the catalogue, so that two scrapes read alike; then the user's."""
        for metric in catalogue.ALL:
            family = self._families.get(metric.name)
            if family is not None:
                yield family
        yield from self.foreign

    def _family(self, name: str) -> Family:
        family = self._families.get(name)
        if family is None:
            family = self._families[name] = new_family(catalogue.BY_NAME[name])
        return family


_TYPES = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
    # OpenMetrics' own info type leaves `_info` off the family's name, which may then be that of another
    # family (training_hyperparameter): a parser refuses that.
    "info": GaugeMetricFamily,
}


#: What the name of a family lacks of its metric's, by type: it belongs to the samples.
NAME_SUFFIXES = {"counter": "_total"}


def new_family(metric: catalogue.Metric) -> Family:
    """An empty family for a metric of the catalogue."""
    name = metric.name.removesuffix(NAME_SUFFIXES.get(metric.type, ""))
    unit = metric.unit if metric.unit and name.endswith(f"_{metric.unit}") else ""
    family: Family = (
        _TYPES[metric.type](name, metric.help, unit=unit) if unit else _TYPES[metric.type](name, metric.help)
    )
    return family


def is_ours(family: Family) -> bool:
    """Whether a family is one of the catalogue, and so has its names, types and plain samples."""
    return f"{family.name}{NAME_SUFFIXES.get(family.type, '')}" in catalogue.BY_NAME


def label_value(text: str) -> str:
    """The text as it is served: one that is too long is cut, and ends with what tells it from its like.

    Prometheus counts bytes, and refuses the whole target for one label that is too long.
    """
    if 4 * len(text) <= catalogue.LABEL_VALUE_BYTES or len(text.encode()) <= catalogue.LABEL_VALUE_BYTES:
        return text
    tail = f"...{short(text)}"
    kept = text.encode()[: catalogue.LABEL_VALUE_BYTES - len(tail)]
    return kept.decode(errors="ignore") + tail  # no half a character at the cut


def _labels(metric: catalogue.Metric, values: Sequence[str]) -> dict[str, str]:
    names = metric.label_names
    if len(values) != len(names):
        raise ValueError(f"{metric.name} has the labels {names}, not {values}")
    return dict(zip(names, values))  # noqa: B905 - their lengths are equal


@dataclass(frozen=True)
class RankProcess:
    """A live training process on this node, in the exporter's own pid namespace."""

    run: str
    rank: str
    pid: int


class Collector(Protocol):
    """One source of metrics. `collect` may raise: the registry guards it, and only its metrics are lost."""

    name: str

    def collect(self, families: Families) -> None:
        """Read the source now and add its samples; called from several threads at once."""
