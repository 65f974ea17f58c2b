"""What is kept of a run: the content of the report, as JSON beside it, and what another is compared with."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from trainbeacon.verdict.alerts import severity_order
from trainbeacon.verdict.facts import Facts, Run
from trainbeacon.verdict.judge import Finding

FORMAT = 1
#: Points of a curve that are kept: more cannot be seen on paper.
MOST_POINTS = 400
PRODUCTIVE = "productive"
#: The outcome of a run of which there are no samples any more and no end.
OUT_OF_SIGHT = "out of sight"


@dataclass(frozen=True)
class Point:
    """One value of a curve: Unix time, step (None where it is not known), value."""

    at: float
    step: float | None
    value: float


@dataclass(frozen=True)
class Mark:
    """Something that happened at one time."""

    at: float
    kind: str
    """restart, checkpoint or alert."""
    text: str


@dataclass(frozen=True)
class Incident:
    """An alert while it fired, as seen in steps of the query."""

    alert: str
    severity: str
    begins: float
    ends: float | None
    """None: it still fires."""
    who: str = ""


@dataclass
class Record:
    """One run. Times are Unix seconds; None and empty mean: not known."""

    run: str
    source: str
    taken_at: float
    begins: float | None = None
    ends: float | None = None
    verdict: str = ""
    action: str = ""
    severity: str = ""
    outcome: str = ""
    world_size: int | None = None
    step: float | None = None
    samples_per_step: float | None = None
    findings: list[dict[str, str]] = field(default_factory=list)
    ranks: list[dict[str, Any]] = field(default_factory=list)
    curves: dict[str, list[Point]] = field(default_factory=dict)
    marks: list[Mark] = field(default_factory=list)
    incidents: list[Incident] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    """Time of the run by what it went into."""
    hardware: list[str] = field(default_factory=list)
    hyperparameters: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    windows: dict[str, list[float]] = field(default_factory=dict)
    """Means over equal stretches of the run after its warm-up, by metric."""
    gaps: list[str] = field(default_factory=list)
    format: int = FORMAT

    @property
    def gpu_hours_lost(self) -> dict[str, float]:
        """GPU-hours that did not become progress, by what they went into."""
        world = self.world_size or 1
        return {
            kind: seconds * world / 3600
            for kind, seconds in sorted(self.seconds.items(), key=lambda each: -each[1])
            if kind != PRODUCTIVE and seconds > 0
        }

    def as_json(self) -> str:
        """The record as text; what is no finite number is null."""
        return json.dumps(_finite(asdict(self)), indent=1, allow_nan=False)


def read(path: Path) -> Record:
    """A record from its file. Raises ValueError, OSError."""
    found = json.loads(path.read_text("utf-8"))
    if not isinstance(found, dict) or found.get("format") != FORMAT or "run" not in found:
        raise ValueError(
            f"{path} is no report of this version: give the .json that `trainbeacon report` writes"
        )
    known = {each.name for each in fields(Record)}
    parts: dict[str, Any] = {name: value for name, value in found.items() if name in known}
    parts["curves"] = {
        name: [Point(**each) for each in points] for name, points in parts.get("curves", {}).items()
    }
    parts["marks"] = [Mark(**each) for each in parts.get("marks", ())]
    parts["incidents"] = [Incident(**each) for each in parts.get("incidents", ())]
    return Record(**parts)


def add_facts(record: Record, facts: Facts, findings: Sequence[Finding]) -> None:
    """Take over what is known of the run at this moment."""
    run = next((each for each in facts.runs if record.run in (each.key[2], each.name)), None)
    if run is not None:
        _add_run(record, run, facts)
    mine = [each for each in findings if each.run in ("", record.run) or each.run.endswith("/" + record.run)]
    record.findings = [
        {"alert": each.alert, "severity": each.severity, "sentence": each.sentence, "action": each.action}
        for each in mine
    ]


def _add_run(record: Record, run: Run, facts: Facts) -> None:
    record.world_size = run.world_size or len(run.ranks) or None
    record.step = max((rank.step for rank in run.ranks if rank.step is not None), default=None)
    starts = [rank.started for rank in run.ranks if rank.started]
    record.begins = record.begins or min(starts, default=None)
    record.environment.update(
        {name: text for name, text in (("owner", run.owner), ("project", run.project)) if text}
    )
    for rank in sorted(run.ranks, key=lambda rank: -(rank.excess or 0.0)):
        record.ranks.append(
            {
                "rank": rank.number,
                "host": rank.host,
                "gpu": rank.gpu,
                "state": rank.state,
                "step": rank.step,
                "own_seconds": rank.own_seconds if rank.own_seconds is not None else rank.life_own_seconds,
                "excess": rank.lasting_excess if rank.lasting_excess is not None else rank.excess,
                "cause": rank.cause,
                "data_wait": rank.life_data_wait if rank.life_data_wait is not None else rank.data_wait,
                "memory": rank.memory,
                "failure": rank.failure,
            }
        )
    record.hardware += sorted({gpu.name for gpu in facts.gpus if gpu.name and gpu.run in ("", run.name)})
    record.outcome = record.outcome or _outcome(run)


def _outcome(run: Run) -> str:
    """How the run ended, and who ended first."""
    states = {rank.state for rank in run.ranks}
    if "running" in states:
        return "running"
    failed = [rank for rank in run.ranks if rank.state == "failed" and rank.failure_at]
    if failed:
        first = min(failed, key=lambda rank: rank.failure_at or math.inf)
        why = first.failure or "an exception"
        return f"failed: rank {first.number} on {first.host or 'its host'} ended first, by {why}"
    if "crashed" in states:
        lost = [str(rank.number) for rank in run.ranks if rank.state == "crashed"]
        return f"lost: rank {', '.join(lost[:8])} is gone without an end that it reported"
    return "finished" if "finished" in states else ""


def conclude(record: Record) -> None:
    """The first line: what is wrong now, else what was, else that nothing was."""
    worth = [
        each for each in record.findings if severity_order(each["severity"]) <= severity_order("warning")
    ]
    past = sorted(record.incidents, key=lambda each: (severity_order(each.severity), each.begins))
    worst = next((each for each in past if severity_order(each.severity) <= severity_order("warning")), None)
    if worth:
        first = worth[0]
        record.verdict, record.action, record.severity = first["sentence"], first["action"], first["severity"]
    elif worst is not None:
        from trainbeacon.verdict.judge import finding

        words = finding(worst.alert, worst.who)
        count = len(record.incidents)
        more = f" ({count} incidents in all)" if count > 1 else ""
        record.verdict, record.action = f"It had trouble. {words.sentence}{more}", words.action
        record.severity = worst.severity
    elif record.findings and record.outcome != "running":
        first = record.findings[0]
        record.verdict, record.action, record.severity = first["sentence"], first["action"], "none"
    elif record.ranks or record.curves:
        ranks = record.world_size or len(record.ranks)
        record.verdict = f"No fault in sight: run {record.run} of {ranks} rank(s)" + (
            f", step {record.step:.0f}." if record.step is not None else "."
        )
        record.severity = "none"
        if record.outcome == OUT_OF_SIGHT:
            record.verdict = (
                f"Out of sight: run {record.run} has no samples any more and no end. {record.verdict}"
            )
            record.action = "See whether Prometheus still scrapes its exporters: trainbeacon doctor."
    else:
        record.verdict, record.severity = f"Nothing is known of a run {record.run} here.", "none"
    lost = record.gpu_hours_lost
    if lost and not worth:
        kind, hours = next(iter(lost.items()))
        record.action = record.action or f"Most of what was lost went into {kind}: {hours:.2f} GPU-hours."


def thinned(points: Sequence[Point]) -> list[Point]:
    """At most `MOST_POINTS`, the mean of each stretch, and whatever is no number."""
    size = math.ceil(len(points) / MOST_POINTS)
    if size <= 1:
        return list(points)
    found = []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        found.append(Point(part[-1].at, part[-1].step, sum(each.value for each in part) / len(part)))
    return found


def _finite(found: Any) -> Any:
    if isinstance(found, float):
        return found if math.isfinite(found) else None
    if isinstance(found, Mapping):
        return {name: _finite(value) for name, value in found.items()}
    return [_finite(each) for each in found] if isinstance(found, (list, tuple)) else found
