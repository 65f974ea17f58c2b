"""Facts about runs from the looks at one source: the last one, and an earlier one to take rates from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from trainbeacon.terminal.table import FIELDS, UNSET, Look, Table
from trainbeacon.verdict.facts import Gpu, Node, Rank, Run, RunKey
from trainbeacon.verdict.limits import STEPS_TO_JUDGE

_CAUSES = tuple(name for name in FIELDS["rank"] if name.startswith("self_"))
_RATES = tuple(name for name in FIELDS["rank"] if name.startswith("learning_rate_"))
_REASONS = tuple(name for name in FIELDS["gpu"] if name.startswith("throttled_"))
_KINDS = tuple(name.removeprefix("seconds_") for name in FIELDS["run"] if name.startswith("seconds_"))
Row = Mapping[str, float]
#: Over which Prometheus is asked for rates.
_RATE_SECONDS = 60.0


@dataclass
class Found:
    """What one source shows."""

    runs: dict[RunKey, Run]
    gpus: list[Gpu]
    nodes: list[Node]


def facts_of(source: str, table: Table, look: Look, before: Look | None, *, rates: bool = False) -> Found:
    """The facts of one look.

    `before` is an earlier one for what happens in between, None for means since the start of each process.
    With `rates`, counters are given as rates already.
    """
    runs: dict[RunKey, Run] = {}
    reader = _Ranks(source, table, look, before, rates)
    for key, rank, world in reader.ranks():
        run = runs.get(key)
        if run is None:
            run = runs[key] = Run(key)
        run.ranks.append(rank)
        if world is not None:
            run.world_size = max(run.world_size or 0, int(world))
    _add_runs(runs, table, look)
    _add_groups(runs, table, look, before)
    ranks = [(run.name, rank) for run in runs.values() for rank in run.ranks]
    hosts = {rank.source: rank.host for _, rank in ranks}
    gpus = list(_gpus(source, table, look, {(rank.source, rank.gpu): (name, rank) for name, rank in ranks}))
    nodes = list(_nodes(source, table, look))
    for gpu in gpus:
        gpu.host = hosts.get(gpu.source, "")
    for node in nodes:
        node.host = hosts.get(node.source, "")
    return Found(runs, gpus, nodes)


def rows(table: Table, look: Look, subject: str) -> Iterator[tuple[tuple[str, ...], Row]]:
    """The rows of a subject that were served in that look."""
    names = FIELDS[subject]
    width, values = len(names), look.rows[subject]
    for key, row in table.keys(subject):
        part = values[row * width : (row + 1) * width]
        found = {name: value for name, value in zip(names, part, strict=False) if value != UNSET}
        if found:
            yield key, found


class _Ranks:
    def __init__(self, source: str, table: Table, look: Look, before: Look | None, rates: bool) -> None:
        self._source, self._table = source, table
        self._look, self._before, self._rates = look, before, rates

    def ranks(self) -> Iterator[tuple[RunKey, Rank, float | None]]:
        """Every rank of the look, with its run and the size of its world."""
        names = FIELDS["rank"]
        width = len(names)
        earlier = self._before.rows["rank"] if self._before is not None else None
        for key, row in rows(self._table, self._look, "rank"):
            if "started" not in row and "state" not in row:
                continue
            old: Row = {}
            if earlier is not None:
                at = self._row_of(key) * width
                part = earlier[at : at + width]
                old = {name: value for name, value in zip(names, part, strict=False) if value != UNSET}
                if old.get("started") != row.get("started"):
                    old = {}
            yield (key[0], key[1], key[2]), self._rank(int(key[3]), row, old), row.get("world_size")

    def _row_of(self, key: tuple[str, ...]) -> int:
        return self._table.row_of("rank", key)

    def _rank(self, number: int, row: Row, old: Row) -> Rank:
        get, text = row.get, self._table.texts
        rank = Rank(number, source=self._source)
        rank.state = text[int(row["state"])]["state"] if "state" in row else ""
        rank.phase = text[int(row["phase"])]["phase"] if "phase" in row else ""
        if "place" in row:
            place = text[int(row["place"])]
            rank.host, rank.gpu = place["hostname"], place["gpu"]
            rank.source = place["instance"] or self._source
        rank.phase_since, rank.started, rank.heartbeat = get("phase_since"), get("started"), get("heartbeat")
        rank.last_step_at, rank.step, rank.steps_made = get("last_step_at"), get("step"), get("steps_made")
        rank.epoch, rank.inactive = get("epoch"), get("inactive")
        rank.loss, rank.validation_loss = get("loss_train"), get("loss_validation")
        rank.nonfinite_losses, rank.nonfinite_step = get("nonfinite_losses"), get("nonfinite_step")
        rank.samples_rate, rank.tokens_rate, rank.mfu = get("samples_rate"), get("tokens_rate"), get("mfu")
        rank.learning_rate = max((row[name] for name in _RATES if name in row), default=None)
        rank.loss_scale = get("loss_scale")
        rank.memory = get("allocator_reserved", get("resident"))
        rank.failure_at = get("failure_at")
        if "failure" in row:
            rank.failure, rank.failure_kind = text[int(row["failure"])].values()
        if "nonfinite_at" in row:
            layer, kind = text[int(row["nonfinite_at"])].values()
            rank.nonfinite_at = " ".join(filter(None, (layer, f"({kind})" if kind else "")))
        self._pace(rank, row, old)
        return rank

    def _pace(self, rank: Rank, row: Row, old: Row) -> None:
        """What is counted: over the time between two looks, or since the start of the process."""
        seconds = self._seconds(row, old)
        rank.window = _RATE_SECONDS if self._rates else seconds if old else 0.0
        steps = _grown(row, old, "duration_count")
        if steps:
            taken = _grown(row, old, "duration_sum")
            rank.step_seconds = None if taken is None else taken / steps
            causes = {name.removeprefix("self_"): _grown(row, old, name) for name in _CAUSES}
            rank.causes = {cause: value / steps for cause, value in causes.items() if value is not None}
            if rank.causes and any(row.get(name) for name in _CAUSES):
                rank.own_seconds = sum(rank.causes.values())
        made = row.get("duration_count", 0.0)
        if not self._rates and made >= STEPS_TO_JUDGE and any(row.get(name) for name in _CAUSES):
            rank.life_own_seconds = sum(row.get(name, 0.0) for name in _CAUSES) / made
            rank.life_step_seconds = row.get("duration_sum", 0.0) / made
        waited = _grown(row, old, "data_wait_total")
        if waited is not None and seconds > 0 and rank.state == "running":
            rank.data_wait = min(1.0, waited / seconds)
            life = self._look.at - row.get("started", self._look.at)
            if not self._rates and made >= STEPS_TO_JUDGE and life > 0:
                rank.life_data_wait = min(1.0, row["data_wait_total"] / life)
        if old or self._rates:
            rank.allocator_retries = _grown(row, old, "allocator_retries")
            rank.checkpoint_failures = _grown(row, old, "checkpoint_failures")

    def _seconds(self, row: Row, old: Row) -> float:
        if self._rates:
            return 1.0
        if old and self._before is not None:
            return self._look.at - self._before.at
        return self._look.at - row.get("started", self._look.at)


def _grown(row: Row, old: Row, name: str) -> float | None:
    value = row.get(name)
    if value is None:
        return None
    return max(0.0, value - old.get(name, 0.0))


def _add_runs(runs: Mapping[RunKey, Run], table: Table, look: Look) -> None:
    for key, row in rows(table, look, "run"):
        run = runs.get((key[0], key[1], key[2]))
        if run is None:
            continue
        run.steps_planned, run.elapsed = row.get("steps_planned"), row.get("elapsed")
        run.overfitting_evaluations, run.collisions = (
            row.get("overfitting_evaluations"),
            row.get("collisions"),
        )
        run.goodput = _goodput(row)
        if "info" in row:
            run.owner, run.project = table.texts[int(row["info"])].values()
    for key, row in rows(table, look, "threshold"):
        run = runs.get((key[0], key[1], key[2]))
        if run is not None:
            run.thresholds = {**run.thresholds, key[3]: row["value"]}
    for key, row in rows(table, look, "rank"):
        run = runs.get((key[0], key[1], key[2])) if "checkpoint_at" in row else None
        if run is not None and row["checkpoint_at"] > (run.checkpoint_at or 0.0):
            run.checkpoint_at, run.checkpoint_step = row["checkpoint_at"], row.get("checkpoint_step")


def _goodput(row: Row) -> float | None:
    """Share of the run's time that went into steps that count: of the whole run, else of this process."""
    for prefix in ("seconds_", "process_"):
        parts = {kind: row[prefix + kind] for kind in _KINDS if prefix + kind in row}
        total = sum(parts.values())
        if total > 0 and "productive" in parts:
            return parts["productive"] / total
    return None


def _add_groups(runs: Mapping[RunKey, Run], table: Table, look: Look, before: Look | None) -> None:
    """How far each rank is behind the first of its process groups.

    A rank that has begun another collective since the look before is on its way: nodes are not read at the
    same moment.
    """
    groups: dict[tuple[RunKey, str], list[tuple[int, float, float, bool]]] = {}
    earlier = {} if before is None else {key: row.get("begun") for key, row in rows(table, before, "group")}
    for key, row in rows(table, look, "group"):
        begun = row.get("begun")
        if begun is not None:
            of = (key[0], key[1], key[2]), key[4]
            moves = before is not None and earlier.get(key) != begun
            groups.setdefault(of, []).append((int(key[3]), begun, row.get("ended", begun), moves))
    by_number = (
        {key: {rank.number: rank for rank in run.ranks} for key, run in runs.items()} if groups else {}
    )
    for (key, _), members in groups.items():
        first = max(member[1] for member in members)
        for number, begun, ended, moves in members:
            rank = by_number.get(key, {}).get(number)
            if rank is not None:
                rank.lag = max(rank.lag or 0, 0 if moves else int(first - begun))
                rank.waits = rank.waits or (ended < begun and not moves)


def _gpus(
    source: str, table: Table, look: Look, places: Mapping[tuple[str, str], tuple[str, Rank]]
) -> Iterator[Gpu]:
    for key, row in rows(table, look, "gpu"):
        _, instance, index = key
        gpu = Gpu(instance or source, index)
        if "name" in row:
            gpu.name = table.texts[int(row["name"])]["name"]
        gpu.up = row.get("up", 1.0) != 0.0
        for name in ("utilization", "memory_used", "memory_total", "temperature", "power", "power_limit"):
            setattr(gpu, name, row.get(name))
        gpu.clock, gpu.xid, gpu.xid_at = row.get("clock_sm"), row.get("xid"), row.get("xid_at")
        gpu.recovery_action = row.get("recovery_action")
        gpu.throttled = tuple(name.removeprefix("throttled_") for name in _REASONS if row.get(name))
        whose = places.get((gpu.source, index))
        if whose is not None:
            gpu.run, gpu.rank = whose[0], whose[1].number
        yield gpu


def _nodes(source: str, table: Table, look: Look) -> Iterator[Node]:
    for key, row in rows(table, look, "node"):
        node = Node(key[1] or source)
        for name, value in row.items():
            setattr(node, name, value)
        yield node
