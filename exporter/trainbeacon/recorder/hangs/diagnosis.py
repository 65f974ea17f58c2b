"""What holds up a stalled run, by the present state of its ranks: one of five classes.

The recorded rule `run:training_hang:class` says the same from the series of all nodes; this one sees the
black boxes of one node.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from trainbeacon.blackbox.box import newest
from trainbeacon.blackbox.reader import Box

LOST = "rank_lost"
MISSING = "rank_missing"
INPUT = "input_stuck"
STORAGE = "checkpoint_stuck"
MISMATCHED = "collectives_mismatched"
UNKNOWN = "unknown"
#: In the order of the numbers of `run:training_hang:class`, from 1.
CLASSES = (LOST, MISSING, INPUT, STORAGE, MISMATCHED)

#: A running rank without a sign of life for so long is stopped, or something holds its interpreter.
SILENT_SECONDS = 15.0
_ENQUEUED = "training_collectives_enqueued_total"
_COMPLETED = "training_collectives_completed_total"


@dataclass(frozen=True)
class RankView:
    """One rank as its box has it. `groups` maps a process group to its enqueued and completed counts."""

    rank: int
    state: str = "running"
    silent_seconds: float = 0.0
    phase: str = ""
    groups: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def lost(self) -> bool:
        """Whether the rank is not there to take part: it ended, or gives no sign of life."""
        return self.state != "running" or self.silent_seconds > SILENT_SECONDS

    @property
    def waits(self) -> bool:
        """Whether it has begun a collective that has not ended."""
        return any(completed < enqueued for enqueued, completed in self.groups.values())


@dataclass(frozen=True)
class HangDiagnosis:
    """A class of hang, the ranks at fault as far as they are known, and a sentence."""

    kind: str
    ranks: tuple[int, ...]
    text: str


def judge(ranks: Sequence[RankView]) -> HangDiagnosis:
    """Who holds up a run that is known to be stalled."""
    gone = [rank for rank in ranks if rank.lost]
    if gone:
        crashed = [rank for rank in gone if rank.state == "crashed"] or gone
        said = (
            f"{_named(crashed)}: {crashed[0].state if crashed[0].state != 'running' else 'no sign of life'}"
        )
        return HangDiagnosis(LOST, _numbers(crashed), said)
    group, absent = _missing(ranks)
    if absent:
        number = max(rank.groups[group][0] for rank in ranks if group in rank.groups)
        waited = (
            f"{_named(absent)} in phase {absent[0].phase} did not join collective {number:.0f} of {group}"
        )
        return HangDiagnosis(_by_phase(absent) or MISSING, _numbers(absent), waited)
    waiting = [rank for rank in ranks if rank.waits]
    if waiting:
        agreed = (
            "every rank waits in a collective: they disagree about which comes next, or the network is down"
        )
        return HangDiagnosis(MISMATCHED, (), agreed)
    kind = _by_phase(ranks)
    if kind is not None:
        return HangDiagnosis(kind, _numbers(ranks), f"{_named(ranks)} in phase {ranks[0].phase}")
    return HangDiagnosis(UNKNOWN, (), "no collective is open, and no phase explains it")


def _missing(ranks: Sequence[RankView]) -> tuple[str, list[RankView]]:
    """A group in which some wait, and the ranks of it that wait nowhere."""
    for group in sorted({group for rank in ranks for group in rank.groups}):
        members = [rank for rank in ranks if group in rank.groups]
        if any(rank.groups[group][1] < rank.groups[group][0] for rank in members):
            absent = [rank for rank in members if not rank.waits]
            if absent:
                return group, absent
    return "", []


def _by_phase(ranks: Sequence[RankView]) -> str | None:
    phases = {rank.phase for rank in ranks}
    if phases == {"data_wait"}:
        return INPUT
    return STORAGE if phases == {"checkpoint"} else None


def _numbers(ranks: Iterable[RankView]) -> tuple[int, ...]:
    return tuple(sorted(rank.rank for rank in ranks))


def _named(ranks: Sequence[RankView]) -> str:
    numbers = _numbers(ranks)
    shown = ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")
    return f"rank {shown}" if len(numbers) == 1 else f"ranks {shown}"


def view(box: Box) -> RankView:
    """A rank as its black box has it now."""
    groups = {
        labels[0]: (enqueued, box.number(_COMPLETED, *labels) or 0.0)
        for (metric, labels), enqueued in box.values.items()
        if metric == _ENQUEUED
    }
    return RankView(
        rank=box.identity.rank,
        state=box.state,
        silent_seconds=box.silence(time.time()),
        phase=box.phase or "",
        groups=groups,
    )


def views(boxes: Iterable[Box], run: str) -> list[RankView]:
    """The ranks of a run, each by its newest box."""
    chosen = newest((box for box in boxes if box.identity.run == run), time.time())
    return [view(chosen[key]) for key in sorted(chosen)]
