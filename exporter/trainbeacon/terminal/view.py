"""What is shown of the facts: the line of the verdict, the head of a run, rows of ranks and GPUs.

No colours and no widths of screens: a screen, plain text and JSON are made of the same.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainbeacon.terminal.cells import bytes_of, number, percent, rate, short, whole
from trainbeacon.terminal.signs import Signs
from trainbeacon.terminal.watch import UNSEEN, Sight
from trainbeacon.verdict.alerts import severity_order
from trainbeacon.verdict.durations import moment
from trainbeacon.verdict.facts import Facts, Gpu, Rank, Run
from trainbeacon.verdict.judge import Finding

#: The states in the order in which somebody should look at them.
STATES = ("crashed", "failed", UNSEEN, "", "running", "exited", "finished")
OK = "ok"


@dataclass(frozen=True)
class Member:
    """A rank, or a GPU, with what it belongs to."""

    run: Run
    rank: Rank
    severity: str = ""
    """Of the worst finding about it."""


@dataclass(frozen=True)
class Column:
    """A column of the ranks: its title and width, what stands in it, and what it is sorted by."""

    title: str
    width: int
    text: Callable[[Member, float], str]
    order: Callable[[Member, float], object] | None = None
    right: bool = True
    needs: int = 0
    """Width of the screen from which on there is room for it."""
    help: str = ""


def verdict(sight: Sight) -> Finding:
    """The first line: the worst finding that is worth a line, or that nothing is wrong."""
    facts = sight.facts
    worth = [each for each in sight.findings if severity_order(each.severity) <= severity_order("warning")]
    if worth:
        return worth[0]
    if not facts.runs:
        return Finding("", "none", _nothing(facts, complete=sight.complete))
    running = sum(rank.running for run in facts.runs for rank in run.ranks)
    runs = sum(any(rank.running for rank in run.ranks) for run in facts.runs)
    if sight.findings and not running:
        return sight.findings[0]
    what = f"{whole(running)} rank{'s' * (running != 1)} of {runs} run{'s' * (runs != 1)} at work"
    return Finding(
        "", OK if running else "none", f"No fault in sight: {what}." if running else "Nobody trains."
    )


def _nothing(facts: Facts, *, complete: bool) -> str:
    if not complete:
        return "Looking ..."
    places = ", ".join(source.name for source in facts.sources)
    return f"No run in sight in {places}." if places else "No run of yours on this machine."


# Runs


def runs_by_trouble(sight: Sight) -> list[Run]:
    """The runs: those with the worst finding first, then those that train, then by name."""
    worst = _worst_by(sight.findings, lambda each: each.run)
    return sorted(
        sight.facts.runs,
        key=lambda run: (
            worst.get(run.name, 9) if worst.get(run.name, 9) <= severity_order("warning") else 9,
            not any(rank.running for rank in run.ranks),
            -max((rank.started or 0.0 for rank in run.ranks), default=0.0),
            run.key,
        ),
    )


def state_of(run: Run) -> str:
    """The state of a run in a word."""
    states = {rank.state for rank in run.ranks}
    if "running" in states:
        return "running"
    return next(
        (state for state in ("failed", "crashed", UNSEEN, "exited", "finished") if state in states), "?"
    )


def head_of(run: Run, now: float) -> list[tuple[str, str]]:
    """The figures of a run, as names and texts: state, progress, end, loss, pace."""
    alive = [rank for rank in run.ranks if rank.running]
    shown = alive or run.ranks
    step = max((rank.step for rank in shown if rank.step is not None), default=None)
    planned = run.steps_planned
    size = run.world_size or len(run.ranks)
    progress = whole(step)
    if planned and step is not None:
        progress += f"/{whole(planned)} ({percent(min(1.0, step / planned))})"
    epoch = max((rank.epoch for rank in shown if rank.epoch is not None), default=None)
    rates = (_sum(rank.tokens_rate for rank in alive), _sum(rank.samples_rate for rank in alive))
    mfu = [rank.mfu for rank in alive if rank.mfu is not None]
    lost = f", {size - len(run.ranks)} not in sight" if len(run.ranks) < size else ""
    count = f"{len(alive)}/{size}" if alive else str(len(run.ranks))
    unit = "rank" if count == "1" else "ranks"
    return [
        ("state", f"{state_of(run)} {count} {unit}{lost}"),
        ("step", progress),
        ("epoch", whole(epoch)),
        ("ends", end_of(run, now)),
        ("loss", number(loss_of(run))),
        ("val", number(next((r.validation_loss for r in shown if r.validation_loss is not None), None))),
        ("", f"{rate(rates[0])} tok/s" if rates[0] else f"{rate(rates[1])} samples/s" if rates[1] else ""),
        ("step time", short(_median(rank.step_seconds for rank in alive))),
        ("goodput", percent(run.goodput)),
        ("MFU", percent(sum(mfu) / len(mfu)) if mfu else ""),
    ]


def loss_of(run: Run) -> float | None:
    """The training loss: the mean over the ranks, since every rank logs that of its own batch."""
    alive = [rank for rank in run.ranks if rank.running] or run.ranks
    known = [rank.loss for rank in alive if rank.loss is not None]
    return sum(known) / len(known) if known else None


def end_of(run: Run, now: float) -> str:
    """When the run will have made its steps at its present pace, as a time."""
    alive = [rank for rank in run.ranks if rank.running]
    step = min((rank.step for rank in alive if rank.step is not None), default=None)
    pace = _median(rank.step_seconds for rank in alive)
    if not run.steps_planned or step is None or not pace:
        return ""
    # Evaluations and checkpoints take their share as well: what went into other things will do so again.
    share = run.goodput if run.goodput and run.goodput > 0.05 else 1.0
    return moment(now + max(0.0, run.steps_planned - step) * pace / share, now)


# Ranks


def members(sight: Sight, *, run: str = "", words: str = "") -> list[Member]:
    """Every rank of all runs, or of one, that fits the words of a filter."""
    worst = _worst_by(sight.findings, lambda each: (each.run, each.rank))
    wanted = words.lower().split()
    found = []
    for each in sight.facts.runs:
        if run and each.name != run:
            continue
        for rank in each.ranks:
            place = worst.get((each.name, rank.number), 9)
            severity = ("critical", "warning", "info", "none")[place] if place < 4 else ""
            if not wanted or _fits(each, rank, severity, wanted):
                found.append(Member(each, rank, severity))
    return found


def _fits(run: Run, rank: Rank, severity: str, wanted: Sequence[str]) -> bool:
    text = (
        f"{run.name} rank{rank.number} {rank.number} {rank.state} {rank.phase} {rank.host} {severity}".lower()
    )
    return all(word in text for word in wanted)


def worst_first(found: Iterable[Member], now: float, count: int) -> list[Member]:
    """The ranks that somebody should look at first; never more than are shown."""
    return heapq.nsmallest(count, found, key=lambda each: _trouble(each, now))


def sort_by(
    found: Iterable[Member], column: Column, now: float, count: int, *, reverse: bool
) -> list[Member]:
    """The first ranks by a column; what has no value comes last."""
    order = column.order or column.text
    known: list[tuple[Any, ...]] = []
    unknown: list[Member] = []
    for each in found:
        value = order(each, now)
        if value is None or value == "":
            unknown.append(each)
        else:
            known.append((value, each.run.key, each.rank.number, each))
    pick = heapq.nlargest if reverse else heapq.nsmallest
    shown = [each[-1] for each in pick(count, known, key=lambda each: each[:3])]
    return shown + unknown[: count - len(shown)]


def _trouble(member: Member, now: float) -> tuple[object, ...]:
    rank = member.rank
    stalled = rank.running and rank.last_step_at is not None and now - rank.last_step_at > 30
    return (
        severity_order(member.severity) if member.severity else 9,
        STATES.index(rank.state) if rank.state in STATES else 4,
        -(now - (rank.last_step_at or now)) if stalled else 0.0,
        -(rank.lag or 0),
        -round(rank.excess or 0.0, 2),
        member.run.key,
        rank.number,
    )


def _state(member: Member, now: float) -> str:
    rank = member.rank
    return rank.failure_kind or rank.state if rank.state == "failed" else rank.state


def _against_peers(member: Member, now: float) -> str:
    excess = member.rank.excess
    return "" if excess is None else f"{excess * 100:+.0f} %"


def _since(at: float | None, now: float) -> float | None:
    return None if at is None or not math.isfinite(at) else max(0.0, now - at)


def columns(*, many_runs: bool) -> list[Column]:
    """The columns of the ranks, in the order in which they stand; those with larger `needs` go first."""
    return [
        *([Column("RUN", 12, lambda m, now: m.run.name, right=False)] if many_runs else []),
        Column("RANK", 5, lambda m, now: str(m.rank.number), lambda m, now: m.rank.number),
        Column("STATE", 9, _state, lambda m, now: _trouble(m, now), right=False),
        Column("PHASE", 11, _phase, lambda m, now: m.rank.phase, right=False),
        Column("STEP", 8, lambda m, now: whole(m.rank.step), lambda m, now: m.rank.step),
        Column(
            "LAST",
            5,
            lambda m, now: short(_since(m.rank.last_step_at, now)),
            lambda m, now: m.rank.last_step_at,
        ),
        Column("OWN", 6, lambda m, now: short(m.rank.own_seconds), lambda m, now: m.rank.own_seconds),
        Column("PEERS", 6, _against_peers, lambda m, now: m.rank.excess),
        Column("DATA", 5, lambda m, now: percent(m.rank.data_wait), lambda m, now: m.rank.data_wait),
        Column(
            "LAG", 4, lambda m, now: str(m.rank.lag) if m.rank.lag else "", lambda m, now: m.rank.lag or 0
        ),
        Column("MEM", 5, lambda m, now: bytes_of(m.rank.memory), lambda m, now: m.rank.memory),
        Column("LOSS", 8, lambda m, now: number(m.rank.loss), lambda m, now: m.rank.loss, needs=92),
        Column("HOST", 14, lambda m, now: m.rank.host, right=False, needs=108),
        Column("GPU", 4, lambda m, now: m.rank.gpu, right=False, needs=114),
        Column("SLOW AT", 10, lambda m, now: m.rank.cause, right=False, needs=126),
    ]


def _phase(member: Member, now: float) -> str:
    rank = member.rank
    if rank.state == "failed" and rank.failure:
        return rank.failure
    return rank.phase if rank.running or rank.state in ("crashed", UNSEEN) else ""


def fitting(all_columns: Sequence[Column], width: int) -> list[Column]:
    """The columns that have room in so many cells; those on the right go first."""
    kept = [column for column in all_columns if column.needs <= width]
    while len(kept) > 3 and sum(column.width + 1 for column in kept) + 2 > width:
        kept.pop()
    return kept


# GPUs


def gpus_worst_first(facts: Facts, count: int) -> list[Gpu]:
    """GPUs: lost ones, then those in trouble, then the idle ones that ranks work on."""
    return heapq.nsmallest(count, facts.gpus, key=_gpu_trouble)


def _gpu_trouble(gpu: Gpu) -> tuple[object, ...]:
    return (
        gpu.up,
        not gpu.recovery_action,
        not [reason for reason in gpu.throttled if reason != "power_cap"],
        gpu.rank is None,
        round((gpu.utilization if gpu.utilization is not None else 1.0) * 4),
        gpu.source,
        int(gpu.index) if gpu.index.isdecimal() else 0,
    )


def gpu_cells(gpu: Gpu) -> list[tuple[str, int, str]]:
    """A row of a GPU: titles, widths and texts."""
    memory = f"{bytes_of(gpu.memory_used)}/{bytes_of(gpu.memory_total)}" if gpu.memory_total else ""
    power = (
        f"{number(gpu.power and round(gpu.power))}/{number(gpu.power_limit)}W"
        if gpu.power is not None
        else ""
    )
    note = "LOST" if not gpu.up else ", ".join(gpu.throttled)
    return [
        ("GPU", 4, gpu.index),
        ("UTIL", 5, percent(gpu.utilization)),
        ("MEMORY", 10, memory),
        ("TEMP", 5, f"{gpu.temperature:.0f} C" if gpu.temperature is not None else ""),
        ("POWER", 9, power),
        ("RANK", 5, "" if gpu.rank is None else str(gpu.rank)),
        ("HOST", 14, gpu.host or gpu.source),
        ("NOTE", 20, note),
    ]


def age_line(sight: Sight, now: float, signs: Signs) -> str:
    """How old the shown facts are, and which sources do not answer."""
    sources = sight.facts.sources
    known = [now - source.taken_at for source in sources if source.taken_at is not None]
    silent = [source for source in sources if source.error]
    text = f"data {short(max(known))} old" if known else "no data yet"
    if len(sources) > 1:
        text += f", {len(sources)} sources"
    if silent:
        more = f" and {len(silent) - 1} more" if len(silent) > 1 else ""
        text += f", silent: {silent[0].name}{more} ({silent[0].error})"
    return signs.clean(text)


def _worst_by(findings: Sequence[Finding], key: Callable[[Finding], object]) -> Mapping[object, int]:
    worst: dict[object, int] = {}
    for each in findings:
        worst[key(each)] = min(worst.get(key(each), 9), severity_order(each.severity))
    return worst


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return sum(known) if known else None


def _median(values: Iterable[float | None]) -> float | None:
    known = sorted(value for value in values if value is not None)
    return known[len(known) // 2] if known else None
