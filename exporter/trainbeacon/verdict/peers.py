"""How long a rank's own work takes beside that of its peers, by the arithmetic of the straggler rules."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

from trainbeacon.verdict.facts import Rank, Run

#: Seconds of looking after which the pace of ranks differs from noise.
SECONDS_TO_COMPARE = 30.0
#: Share of a step from which on it is worth saying what a rank takes longer at.
LEAST_EXCESS = 0.01


def compare(run: Run) -> None:
    """Fill in `excess`, `lasting_excess` and `cause` of every rank, where its peers are known."""
    groups: dict[tuple[str, ...], list[Rank]] = {}
    for rank in run.ranks:
        if rank.running:
            groups.setdefault(rank.peers, []).append(rank)
    for alive in groups.values():
        _compare_peers(alive)


def _compare_peers(alive: list[Rank]) -> None:
    ranks = [rank for rank in alive if rank.own_seconds is not None]
    steps = [rank.step_seconds for rank in ranks if rank.step_seconds]
    if len(ranks) < 2 or not steps:
        return
    usual, step = _usual(rank.own_seconds for rank in ranks), median(steps)
    for rank in ranks:
        rank.excess = ((rank.own_seconds or 0.0) - usual) / step
        if rank.window >= SECONDS_TO_COMPARE:
            rank.lasting_excess = rank.excess
    _compare_lives([rank for rank in alive if rank.lasting_excess is None])
    slow = [rank for rank in ranks if rank.causes and (rank.excess or 0.0) > LEAST_EXCESS]
    if slow:
        usual_of = {cause: _usual(rank.causes.get(cause) for rank in ranks) for cause in slow[0].causes}
    for rank in slow:
        rank.cause = max(rank.causes, key=lambda cause: rank.causes[cause] - usual_of.get(cause, 0.0))


def _compare_lives(ranks: list[Rank]) -> None:
    known = [rank for rank in ranks if rank.life_own_seconds is not None]
    steps = [rank.life_step_seconds for rank in known if rank.life_step_seconds]
    if len(known) < 2 or not steps:
        return
    usual, step = _usual(rank.life_own_seconds for rank in known), median(steps)
    for rank in known:
        rank.lasting_excess = ((rank.life_own_seconds or 0.0) - usual) / step


def _usual(values: Iterable[float | None]) -> float:
    """The median, of two the smaller one: there a median would lie between the slow and the quick."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return 0.0
    return known[0] if len(known) == 2 else median(known)
