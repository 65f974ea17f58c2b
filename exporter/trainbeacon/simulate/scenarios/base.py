"""What a scenario is: one fault of one run, with the truth about it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from trainbeacon.simulate.model.noise import uniform

if TYPE_CHECKING:
    from trainbeacon.simulate.fleet import Fleet
    from trainbeacon.simulate.model.run import Run
    from trainbeacon.simulate.node import Node


@dataclass
class Injection:
    """The truth about one fault; times are Unix times, `struck` is None until it is there."""

    scenario: str
    summary: str
    run: str
    #: The rank at fault, with its place at that time; None where it is the whole run.
    rank: int | None
    hostname: str
    gpu: int | None
    target: str
    planned: float
    ends: float | None
    struck: float | None = None
    over: float | None = None

    def as_json(self) -> dict[str, Any]:
        """The truth for a file."""
        return dict(vars(self))


class Fault:
    """Base of all scenarios. A subclass gives `name` and `summary` and implements `_strike` and `_heal`.

    Attributes:
        whole_run: whether it has no single rank at fault.
        needs_spare: whether a node without ranks must stand ready.
        in_training: whether it waits until the run makes steps.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    whole_run: ClassVar[bool] = False
    needs_spare: ClassVar[bool] = False
    in_training: bool = True

    def __init__(self, fleet: Fleet, run: Run, begins: float, ends: float, chance: int) -> None:
        self.fleet = fleet
        self.begins, self.ends = begins, ends
        self.victim = int(uniform(run.seed, chance, 99) * len(run.ranks))
        rank = None if self.whole_run else run.ranks[self.victim]
        node = None if rank is None else fleet.nodes[rank.place.node]
        self.injection = Injection(
            self.name,
            self.summary,
            run.name,
            None if rank is None else rank.number,
            "" if node is None else node.hostname,
            None if rank is None else rank.place.gpu,
            "",
            begins,
            None if math.isinf(ends) else ends,
        )
        self._chance = (run.seed, chance)

    def begin(self, run: Run) -> None:
        """Strike, and note when."""
        self.injection.struck = run.now
        self._strike(run)

    def end(self, run: Run) -> None:
        """Be over, if it ever was there."""
        if self.injection.struck is not None:
            self.injection.over = run.now
            self._heal(run)

    def _strike(self, run: Run) -> None:
        """Let it happen."""
        raise NotImplementedError

    def _heal(self, run: Run) -> None:
        """Undo it, as an operator would; nothing for what cannot be undone."""

    def between(self, least: float, most: float, what: int = 0) -> float:
        """A number that belongs to the seed."""
        return least + (most - least) * uniform(*self._chance, what)

    def node_of(self, run: Run) -> Node:
        """The node that the victim is on now."""
        return self.fleet.nodes[run.ranks[self.victim].place.node]
