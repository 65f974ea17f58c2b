"""Where the record of a run comes from: a file, Prometheus, or black boxes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainbeacon.report import boxes
from trainbeacon.report import prometheus as server
from trainbeacon.report.record import Record, read
from trainbeacon.stack.discover import served


def record_of(
    named: str, *, prometheus: str | None, hours: float, directories: Sequence[str] | None
) -> Record:
    """The record of a run by its name, or of a file. Blocks for some seconds; raises ValueError, OSError."""
    if named.endswith(".json"):
        return read(Path(named))
    if prometheus:
        record = server.record_of(named, prometheus, hours)
        if not record.curves and not record.ranks:
            raise ValueError(f"Prometheus knows no run {named} in the last {hours:g} hours: --hours")
        return record
    folders = directories or [each.directory for each in served()]
    known = boxes.runs_of(folders)
    if named not in known:
        there = ", ".join(sorted(known)) or "none"
        raise ValueError(
            f"no black box of a run {named} here (runs here: {there}); --prometheus URL, or --directory"
        )
    return boxes.record_of(named, known[named])
