"""The injections of a campaign, drawn from the kinds."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tests.campaign.kinds import BY_NAME, KINDS, Kind


@dataclass(frozen=True)
class Injection:
    """One job and its fault, as it is drawn: the same from the same seed."""

    number: int
    kind: str
    world_size: int
    victim: int
    seed: int
    step_seconds: float
    before: float
    parameters: Mapping[str, Any]

    @property
    def run(self) -> str:
        """The name of the run, by which messages are distinguished."""
        return f"c{self.number:03d}-{self.kind.replace('_', '-')}"

    @property
    def lasts(self) -> float:
        """About how many seconds it takes at most."""
        kind = BY_NAME[self.kind]
        return 20 + self.before + kind.within * bool(kind.expected) + kind.after


def draw(seed: int, counts: Mapping[str, int] | None = None) -> list[Injection]:
    """The injections of a campaign, the kinds mixed, in three classes: those that take longest come first.

    Args:
        seed: of everything that is random.
        counts: by kind, in place of the kinds' own numbers; kinds that are left out have none.
    """
    dice = random.Random(seed)
    wanted = {kind.name: kind.count for kind in KINDS} if counts is None else counts
    found = [_draw_one(dice, kind, number) for kind in KINDS for number in range(wanted.get(kind.name, 0))]
    dice.shuffle(found)
    found.sort(key=lambda each: -(each.lasts > 400) - (each.lasts > 200))
    return [replace(each, number=number) for number, each in enumerate(found)]


def _draw_one(dice: random.Random, kind: Kind, number: int) -> Injection:
    world_size = dice.choice(kind.worlds)
    return Injection(
        number,
        kind.name,
        world_size,
        dice.randrange(world_size),
        dice.randrange(10**6),
        dice.choice((0.2, 0.25, 0.3)),
        dice.uniform(*kind.before),
        {name: dice.choice(list(choices)) for name, choices in kind.parameters.items()},
    )
