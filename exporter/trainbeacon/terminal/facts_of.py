"""Facts about runs from the looks at one source: the last one, and an earlier one to take rates from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from trainbeacon.terminal.table import FIELDS, UNSET, Look, Table
from trainbeacon.verdict.facts import PEER_LABELS, Gpu, Node, Rank, Run, RunKey
from trainbeacon.verdict.limits import STEPS_TO_JUDGE

_CAUSES = tuple(name.removeprefix("self_") for name in FIELDS["rank"] if name.startswith("self_"))
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


Numbers = list[float | None]
#: Where each field of a rank stands in its row.
_AT = {name: place for place, name in enumerate(FIELDS["rank"])}
_CAUSES_AT = tuple(_AT[f"self_{cause}"] for cause in _CAUSES)
_RATES_AT = tuple(_AT[name] for name in FIELDS["rank"] if name.startswith("learning_rate_"))
#: Fields that are facts as they are.
_PLAIN = tuple(
    (fact, _AT[name])
    for fact, name in {
        **{
            name: name
            for name in ("phase_since", "started", "heartbeat", "last_step_at", "step", "steps_made")
        },
        **{
            name: name for name in ("epoch", "inactive", "nonfinite_losses", "nonfinite_step", "samples_rate")
        },
        **{name: name for name in ("tokens_rate", "mfu", "loss_scale", "failure_at")},
        "loss": "loss_train",
        "validation_loss": "loss_validation",
    }.items()
)
_STATE, _PHASE, _PLACE, _FAILURE, _NONFINITE = (
    _AT[name] for name in ("state", "phase", "place", "failure", "nonfinite_at")
)
_STARTED, _WORLD, _RESERVED, _RESIDENT = (
    _AT[name] for name in ("started", "world_size", "allocator_reserved", "resident")
)
_COUNT, _SUM, _WAITED, _RETRIES, _FAILURES = (
    _AT[name]
    for name in (
        "duration_count",
        "duration_sum",
        "data_wait_total",
        "allocator_retries",
        "checkpoint_failures",
    )
)
_SAVED, _SAVED_STEP = _AT["checkpoint_at"], _AT["checkpoint_step"]


class _Ranks:
    """Ranks of one look, read by position: there may be thousands, with dozens of numbers each."""

    def __init__(self, source: str, table: Table, look: Look, before: Look | None, rates: bool) -> None:
        self._source, self._table = source, table
        self._look, self._before, self._rates = look, before, rates

    def ranks(self) -> Iterator[tuple[RunKey, Rank, float | None]]:
        """Every rank of the look, with its run and the size of its world."""
        width = len(FIELDS["rank"])
        values = self._look.rows["rank"]
        earlier = self._before.rows["rank"] if self._before is not None else None
        for key, place in self._table.keys("rank"):
            at = place * width
            row: Numbers = [None if value == UNSET else value for value in values[at : at + width]]
            if not row or (row[_STARTED] is None and row[_STATE] is None):
                continue
            old: Numbers = []
            if earlier is not None and at < len(earlier) and earlier[at + _STARTED] == row[_STARTED]:
                old = [None if value == UNSET else value for value in earlier[at : at + width]]
            yield (key[0], key[1], key[2]), self._rank(int(key[3]), row, old), row[_WORLD]

    def _rank(self, number: int, row: Numbers, old: Numbers) -> Rank:
        rank = Rank(number, source=self._source)
        for fact, at in _PLAIN:
            setattr(rank, fact, row[at])
        rank.state = self._text(row[_STATE]).get("state", "")
        rank.phase = self._text(row[_PHASE]).get("phase", "")
        if row[_PLACE] is not None:
            place = self._text(row[_PLACE])
            rank.host, rank.gpu = place["hostname"], place["gpu"]
            rank.source = place["instance"] or self._source
            rank.peers = tuple(place[label] for label in PEER_LABELS)
        rates = [rate for rate in (row[at] for at in _RATES_AT) if rate is not None]
        rank.learning_rate = max(rates, default=None)
        rank.memory = row[_RESIDENT] if row[_RESERVED] is None else row[_RESERVED]
        if row[_FAILURE] is not None:
            rank.failure, rank.failure_kind = self._text(row[_FAILURE]).values()
        if row[_NONFINITE] is not None:
            layer, kind = self._text(row[_NONFINITE]).values()
            rank.nonfinite_at = " ".join(filter(None, (layer, f"({kind})" if kind else "")))
        self._pace(rank, row, old)
        return rank

    def _text(self, number: float | None) -> Mapping[str, str]:
        return {} if number is None else self._table.texts[int(number)]

    def _pace(self, rank: Rank, row: Numbers, old: Numbers) -> None:
        """What is counted: over the time between two looks, or since the start of the process."""
        seconds = self._seconds(row, old)
        rank.window = _RATE_SECONDS if self._rates else seconds if old else 0.0
        own = [row[at] or 0.0 for at in _CAUSES_AT]
        counts_own = any(own)
        steps = _grown(row, old, _COUNT)
        if steps:
            taken = _grown(row, old, _SUM)
            rank.step_seconds = None if taken is None else taken / steps
            if counts_own:
                rank.causes = {
                    cause: (_grown(row, old, at) or 0.0) / steps
                    for cause, at in zip(_CAUSES, _CAUSES_AT, strict=True)
                }
                rank.own_seconds = sum(rank.causes.values())
        waited = _grown(row, old, _WAITED)
        if waited is not None and seconds > 0 and rank.state == "running":
            rank.data_wait = min(1.0, waited / seconds)
        if old or self._rates:
            rank.allocator_retries = _grown(row, old, _RETRIES)
            rank.checkpoint_failures = _grown(row, old, _FAILURES)
        made = row[_COUNT] or 0.0
        life = self._look.at - (row[_STARTED] or self._look.at)
        if made >= STEPS_TO_JUDGE and life > 0 and not self._rates:
            rank.life_step_seconds = (row[_SUM] or 0.0) / made
            if counts_own:
                rank.life_own_seconds = sum(own) / made
            all_waits = row[_WAITED]
            rank.life_data_wait = None if all_waits is None else min(1.0, all_waits / life)

    def _seconds(self, row: Numbers, old: Numbers) -> float:
        if self._rates:
            return 1.0
        if old and self._before is not None:
            return self._look.at - self._before.at
        return self._look.at - (row[_STARTED] or self._look.at)


def _grown(row: Numbers, old: Numbers, at: int) -> float | None:
    value = row[at]
    if value is None:
        return None
    return max(0.0, value - ((old[at] or 0.0) if old else 0.0))


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
    width, values = len(FIELDS["rank"]), look.rows["rank"]
    for key, place in table.keys("rank"):
        at = place * width
        saved = values[at + _SAVED] if at < len(values) else UNSET
        run = None if saved == UNSET else runs.get((key[0], key[1], key[2]))
        if run is not None and saved > (run.checkpoint_at or 0.0):
            step = values[at + _SAVED_STEP]
            run.checkpoint_at, run.checkpoint_step = saved, None if step == UNSET else step


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
