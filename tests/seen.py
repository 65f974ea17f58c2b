"""What `top` and its like see of a simulated fleet, on the fleet's own clock."""

from __future__ import annotations

from collections.abc import Sequence

from tests.simulated import BEGIN, Simulated
from trainbeacon.terminal.sources.base import FactSource
from trainbeacon.terminal.table import Look
from trainbeacon.terminal.watch import Sight, Watch


class NodeSource(FactSource):
    """One simulated node, as a scrape of it would be read."""

    def __init__(self, name: str, collectors: object, clock: object) -> None:
        super().__init__(name, clock=clock)  # type: ignore[arg-type]
        self._collectors = collectors
        self.broken = ""

    def close(self) -> None:
        """Nothing is open."""

    def _take(self) -> Look:
        if self.broken:
            raise OSError(self.broken)
        look = self._table.new_look(self._clock())
        for family in self._collectors.collect():  # type: ignore[attr-defined]
            for sample in family.samples:
                key = (sample.name, *sample.labels.values())
                self._table.add(look, key, sample.name, sample.labels, float(sample.value))
        return look


class Seen:
    """All nodes of a fleet under one watch."""

    def __init__(self, fleet: Simulated) -> None:
        self._fleet = fleet
        self.sources: Sequence[NodeSource] = [
            NodeSource(node.hostname, node.source(), lambda: fleet.clock.now) for node in fleet.fleet.nodes
        ]
        self._watch = Watch(self.sources, 2.0, clock=lambda: fleet.clock.now)
        # One clock for the fleet: sources of one run are read one after the other.
        self._watch._pool._max_workers = 1

    def at(self, seconds: float, *, every: float = 10.0) -> Sight:
        """Look again and again until that many seconds after the start; what is seen last."""
        now = self._fleet.clock.now - BEGIN
        while (now := min(seconds, now + every)) < seconds:
            self._look(now)
        return self._look(seconds)

    def _look(self, seconds: float) -> Sight:
        self._fleet.clock.now = BEGIN + seconds
        self._watch._due.clear()
        return self._watch.look(60.0)

    def close(self) -> None:
        """End the threads."""
        self._watch.close()
