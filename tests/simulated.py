"""A simulated fleet on a clock that the test moves, read as a scrape of its nodes would be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from trainbeacon.simulate.fleet import Fleet, Size
from trainbeacon.simulate.history import VirtualClock
from trainbeacon.simulate.model.run import Run
from trainbeacon.simulate.scenarios import Injection, Plan
from trainbeacon.testing import Series, series

#: When the simulated time begins.
BEGIN = 1_800_000_000.0
#: All runs are past start, compilation and warm-up by then, and have made some steps.
READY = 120.0


class Simulated:
    """A fleet with its clock; `truth` is what is amiss, in the order of the scenarios."""

    def __init__(self, size: Size, plan: Plan, **options: object) -> None:
        self.clock = VirtualClock(BEGIN)
        in_memory = bool(options.pop("in_memory", True))
        self.fleet = Fleet(size, clock=self.clock, in_memory=in_memory, spares=plan.spares, **options)
        self.truth: list[Injection] = plan.arm(self.fleet)
        self._sources = [node.source() for node in self.fleet.nodes]

    @property
    def run(self) -> Run:
        """The first run."""
        return self.fleet.runs[0]

    def at(self, seconds: float) -> dict[Series, float]:
        """What all nodes serve that many seconds after the start, one scrape after the other."""
        self.clock.now = BEGIN + seconds
        return self.now()

    def now(self) -> dict[Series, float]:
        """What all nodes serve now."""
        found: dict[Series, float] = {}
        for node, source in zip(self.fleet.nodes, self._sources, strict=True):
            for family in source.collect():
                for sample in family.samples:
                    labels = (
                        sample.labels if "run" in sample.labels else {**sample.labels, "node": node.hostname}
                    )
                    found[series(sample.name, **labels)] = sample.value
        return found


@contextmanager
def simulated(
    *names: str,
    ranks: int = 4,
    nodes: int = 2,
    runs: int = 1,
    stages: int = 1,
    onset: float = READY,
    **options: object,
) -> Iterator[Simulated]:
    """A fleet that plays these scenarios from `onset` on."""
    lasting = options.pop("lasting", None)
    plan = Plan(names, onset, lasting)  # type: ignore[arg-type]
    fleet = Simulated(Size(ranks, nodes, runs, stages), plan, **options)
    with closing(fleet.fleet):
        yield fleet


def values(scrape: dict[Series, float], name: str, **labels: object) -> dict[str, float]:
    """The values of a metric by rank, or by GPU where it has no rank."""
    wanted = {(label, str(text)) for label, text in labels.items()}
    return {
        one.label("rank") or one.label("gpu"): value
        for one, value in scrape.items()
        if one.name == name and wanted <= one.labels
    }
