"""Runs every collector guarded: one that fails loses metrics of its own and nothing else."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.samples import Sample

from trainbeacon import catalogue
from trainbeacon.blackbox.reader import BoxDirectory
from trainbeacon.exporter.collectors.base import Collector, Families, new_family
from trainbeacon.exporter.collectors.gpu import GpuCollector, GpuLink
from trainbeacon.exporter.collectors.health import HealthCollector
from trainbeacon.exporter.collectors.host import HostCollector
from trainbeacon.exporter.collectors.ranks import RanksCollector
from trainbeacon.exporter.collectors.user_metrics import UserMetricsCollector
from trainbeacon.exporter.health import Health

log = logging.getLogger("trainbeacon")


def collectors(
    directory: BoxDirectory, health: Health, *, linger_seconds: float, gpu: bool, mode: str
) -> tuple[Collector, ...]:
    """All collectors, in the order in which they run."""
    ranks = RanksCollector(directory, linger_seconds)
    listed: list[Collector] = [
        ranks,
        HostCollector(ranks.processes),
        UserMetricsCollector(directory.descriptor, ranks.served, health),
        HealthCollector(health, directory, mode),
    ]
    if gpu:
        listed.insert(1, GpuCollector())
    return tuple(listed)


class GuardedCollectors:
    """Presents the collectors to prometheus-client as one; also their success, duration and budgets.

    Threads: several may scrape at once.
    """

    def __init__(
        self, listed: Sequence[Collector], health: Health, boxes: BoxDirectory | None = None
    ) -> None:
        self._collectors = listed
        self._health = health
        self._boxes = boxes
        self._failing: set[str] = set()
        self._gpus = GpuLink()

    def describe(self) -> list[Family]:
        """What could be there, so that registering does not collect and `?name[]=` finds us."""
        return [new_family(metric) for metric in catalogue.ALL]

    def collect(self) -> Iterator[Family]:
        """One scrape."""
        families = Families()
        with self._boxes.one_look() if self._boxes is not None else contextlib.nullcontext():
            self._collect(families)
        self._gpus.apply(families)
        dropped = enforce_budgets(families)
        if dropped:
            self._health.dropped(dropped)
        yield from families

    def _collect(self, families: Families) -> None:
        for collector in self._collectors:
            start = time.perf_counter()
            own = Families()
            success = self._run(collector, own)
            duration = time.perf_counter() - start
            families.add("trainbeacon_collector_success", float(success), collector.name)
            families.add("trainbeacon_collector_duration_seconds", duration, collector.name)
            families.merge(own)  # of one that failed, what it had read by then

    def _run(self, collector: Collector, families: Families) -> bool:
        try:
            collector.collect(families)
        except Exception:  # the boundary: the others must be served
            self._health.error("collector")
            if collector.name not in self._failing:
                log.warning(
                    "collector %s failed; some of its metrics are missing", collector.name, exc_info=True
                )
            self._failing.add(collector.name)
            return False
        self._failing.discard(collector.name)
        return True


def enforce_budgets(families: Families) -> int:
    """Leave out the series beyond the budget of each rank, GPU, node and run. Returns how many.

    Metrics that the user logs go first, and before them those of his own registry, which count into the
    budget of the run.
    """
    spent: Counter[tuple[str, ...]] = Counter()
    dropped = 0
    for metric in sorted(catalogue.ALL, key=lambda metric: metric.name in _DROPPED_FIRST):
        family = families.get(metric.name)
        if family is None:
            continue
        owner_of, budget = _OWNERS[metric.level], catalogue.BUDGETS[metric.level]
        kept = []
        for sample in family.samples:
            owner = owner_of(sample.labels)
            if spent[owner] < budget:
                spent[owner] += 1
                kept.append(sample)
        dropped += len(family.samples) - len(kept)
        family.samples = kept
    return dropped + sum(_fit(family, spent) for family in families.foreign)


def _fit(family: Family, spent: Counter[tuple[str, ...]]) -> int:
    """Keep of the user's own family the ranks that fit whole: half a histogram is worse than none."""
    ranks: dict[tuple[str, str], list[Sample]] = {}
    for sample in family.samples:
        ranks.setdefault((sample.labels["run"], sample.labels["rank"]), []).append(sample)
    before, family.samples = len(family.samples), []
    for (run, _), samples in ranks.items():
        if spent["run", run] + len(samples) <= catalogue.BUDGETS["run"]:
            spent["run", run] += len(samples)
            family.samples += samples
    return before - len(family.samples)


#: Whose budget a series spends, by its labels.
_OWNERS: dict[catalogue.Level, Callable[[Mapping[str, str]], tuple[str, ...]]] = {
    "rank": lambda labels: ("rank", labels["run"], labels["rank"]),
    "gpu": lambda labels: ("gpu", labels["gpu"]),
    "node": lambda labels: ("node",),
    "run": lambda labels: ("run", labels["run"]),
}

#: What a budget takes away first; all else is bounded by the catalogue itself.
_DROPPED_FIRST = ("training_metric", "training_hyperparameter", "training_hyperparameter_info")


def new_registry(
    listed: Sequence[Collector], health: Health, boxes: BoxDirectory | None = None
) -> CollectorRegistry:
    """A registry of our own, apart from prometheus-client's global one.

    Args:
        listed: the collectors, in the order in which they run.
        health: counts what they fail at.
        boxes: what they read the ranks from, once a scrape for all of them.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(GuardedCollectors(listed, health, boxes))
    return registry
