"""A trace as a table (worker, dp, pp, step, phase, start, end), read into each worker's own time a step.

A row is one operation of one worker. What a worker computes in a step is its own time; what it waits for or
exchanges with others (send, recv, all-reduce, sync) is not. Rows may come in any order. What is kept of
them are a few numbers a worker and step, however many there are.
"""

from __future__ import annotations

import csv
import datetime
import gzip
import importlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

CAUSES = ("data_wait", "forward", "backward", "optimizer", "host")
#: Column names, lower case and without what is no letter or digit, by what they hold.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "worker": ("worker", "workerid", "rank", "globalrank", "rankid", "gpu", "gpuid", "device", "workername"),
    "dp": ("dp", "dprank", "datarank", "dataparallelrank", "dpid", "replica"),
    "pp": (
        "pp",
        "pprank",
        "stage",
        "stageid",
        "pipelinerank",
        "pipelinestage",
        "pipelineparallelrank",
        "ppid",
    ),
    "tp": ("tp", "tprank", "tensorrank", "tensorparallelrank"),
    "host": ("host", "hostname", "node", "nodename", "machine"),
    "step": ("step", "iteration", "iter", "stepid", "stepnum", "globalstep", "stepnumber", "iterationid"),
    "phase": (
        "phase",
        "op",
        "optype",
        "operation",
        "operationtype",
        "event",
        "eventname",
        "name",
        "type",
        "kind",
    ),
    "start": ("start", "starttime", "startts", "begin", "tstart", "ts", "timestamp", "starttimestamp"),
    "end": ("end", "endtime", "endts", "stop", "tend", "finish", "endtimestamp"),
    "duration": ("duration", "dur", "elapsed", "latency"),
}
NEEDED = ("step", "phase", "start")
UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}
#: What rows may be wrong, as a share of all; more, and it is the table that is misunderstood.
MOST_WRONG = 0.01
#: Numbers that are kept: workers times steps.
MOST_CELLS = 10_000_000

_WAITS = re.compile(
    r"send|recv|receive|sync|reduce|gather|scatter|broadcast|barrier|all.?to.?all|a2a|p2p|comm|nccl|bubble|idle|wait"
)
_KINDS = (
    ("data_wait", re.compile(r"data|load|fetch|input|batch")),
    ("optimizer", re.compile(r"optim|^opt|update|^step|adam|clip")),
    ("backward", re.compile(r"back|bwd|wgrad|dgrad|^b$|^w$|^bp")),
    ("forward", re.compile(r"forw|fwd|^f$|^fp|loss|recompute")),
)
_DATA_WAITS = re.compile(
    r"(data|load|input|batch)\w*[ _-]*wait|wait\w*[ _-]*(for[ _-]*)?(data|load|input|batch)"
)


class TraceError(ValueError):
    """A table that cannot be read; the message says where and what is expected."""


@dataclass(frozen=True)
class Worker:
    """One process of the job; stage and replica are empty where the table has no such column."""

    name: str
    stage: str = ""
    replica: str = ""
    tensor: str = ""
    host: str = ""


@dataclass(frozen=True)
class Trace:
    """A job.

    Attributes:
        workers: its processes, in the order of their names.
        own: seconds of each worker's own by step, worker and cause.
        step_seconds: how long each step took.
        skipped: rows that made no sense.
    """

    workers: Sequence[Worker]
    own: np.ndarray
    step_seconds: np.ndarray
    skipped: int = 0


def cause_of(phase: str) -> str | None:
    """What an operation is of a worker's own time; None where it waits for or exchanges with others."""
    text = phase.strip().lower()
    if _DATA_WAITS.search(text):
        return "data_wait"
    if _WAITS.search(text):
        return None
    return next((cause for cause, pattern in _KINDS if pattern.search(text)), "host")


def read(path: Path, unit: str = "") -> Trace:
    """Read a file of comma-, semicolon- or tab-separated values, `.gz` or not, or of Parquet.

    Args:
        path: the file.
        unit: of its times: s, ms, us or ns. By default what the names of the columns say, else what makes the
            times of a step plausible.

    Raises:
        TraceError: it is no such table.
    """
    if path.suffix == ".parquet":
        return _read_parquet(path, unit)
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open(newline="") as file:  # type: ignore[operator]
            return _read(file, unit)
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise TraceError(f"{path}: cannot be read: {error}") from None


def _read(file: TextIO, unit: str) -> Trace:
    rows = csv.reader(file, _dialect(file))
    header = next(rows, None)
    if not header:
        raise TraceError("the file is empty; its first line must name the columns")
    return _gather(header, ((rows.line_num, cells) for cells in rows if "".join(cells).strip()), unit)


def _read_parquet(path: Path, unit: str) -> Trace:
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise TraceError(
            f"{path}: Parquet needs pyarrow: `pip install pyarrow`, or write it as CSV"
        ) from None
    try:
        table = parquet.read_table(path)
    except (OSError, ValueError) as error:  # pyarrow's own are of these
        raise TraceError(f"{path}: cannot be read: {error}") from None
    columns = [[_text_of(each) for each in column.to_pylist()] for column in table.columns]
    return _gather(table.column_names, enumerate(zip(*columns, strict=True), start=1), unit)


def _text_of(value: Any) -> str:
    """A cell of Parquet as it would stand in a table of text: nothing for none, seconds for an instant."""
    if value is None:
        return ""
    if isinstance(value, datetime.datetime):
        return repr(value.timestamp())
    return repr(value.total_seconds()) if isinstance(value, datetime.timedelta) else str(value)


def _gather(header: Sequence[str], rows: Iterable[tuple[int, Sequence[str]]], unit: str) -> Trace:
    columns, named_unit = _columns(header)
    gathered = _Gathered()
    for line, cells in rows:
        gathered.take(cells, columns, line)
    return gathered.trace(UNITS[unit or named_unit] if unit or named_unit else None)


def _dialect(file: TextIO) -> type[csv.Dialect]:
    line = file.readline()
    file.seek(0)

    class Dialect(csv.excel):
        delimiter = max(",\t;|", key=line.count)

    return Dialect


def _columns(header: Sequence[str]) -> tuple[dict[str, int], str]:
    """Where each thing stands, and the unit of time where a name ends with one."""
    found: dict[str, int] = {}
    units = set()
    for place, cell in enumerate(header):
        plain = re.sub(r"[^a-z0-9]", "", cell.lower().lstrip("\ufeff"))
        timed = re.fullmatch(r"(.+?)[ _(\[]*(ns|us|ms|s|sec|seconds)[)\]]*", cell.lower().strip())
        for thing, names in COLUMNS.items():
            bare = (
                re.sub(r"[^a-z0-9]", "", timed[1])
                if timed and thing in ("start", "end", "duration")
                else plain
            )
            if plain in names or bare in names:
                found.setdefault(thing, place)
                if plain not in names and timed:
                    units.add(timed[2] if timed[2] in UNITS else "s")
                break
    lacking = [name for name in NEEDED if name not in found]
    if "end" not in found and "duration" not in found:
        lacking.append("end (or duration)")
    if "worker" not in found and not {"dp", "pp"} & found.keys():
        lacking.append("worker (or dp and pp)")
    if lacking:
        has = ", ".join(header)[:200]
        raise TraceError(
            f"no column for {', '.join(lacking)}; the first line has: {has}. "
            "Wanted are worker, dp, pp, step, phase, start, end"
        )
    if len(units) > 1:
        raise TraceError(f"the columns of times have several units: {', '.join(sorted(units))}")
    return found, units.pop() if units else ""


class _Gathered:
    """What is kept of the rows that were read."""

    def __init__(self) -> None:
        self._own: dict[int, dict[Worker, list[float]]] = {}
        self._spans: dict[int, list[float]] = {}
        self._workers: dict[Worker, Worker] = {}
        self._causes: dict[str, int | None] = {}
        self._cells = self._rows = self._wrong = 0
        self._first_wrong = ""

    def take(self, cells: Sequence[str], columns: Mapping[str, int], line: int) -> None:
        """One row."""
        self._rows += 1
        try:
            step = int(float(cells[columns["step"]]))
            start = float(cells[columns["start"]])
            end = (
                float(cells[columns["end"]])
                if "end" in columns
                else start + float(cells[columns["duration"]])
            )
            phase = cells[columns["phase"]]
            worker = self._worker(cells, columns)
            if not start <= end < float("inf"):
                raise ValueError(f"it ends at {end:g}, before it starts at {start:g}")
        except (ValueError, IndexError) as error:
            self._wrong += 1
            self._first_wrong = self._first_wrong or f"line {line}: {error}"
            return
        span = self._spans.setdefault(step, [start, end])
        span[0], span[1] = min(span[0], start), max(span[1], end)
        if phase not in self._causes:
            cause = cause_of(phase)
            self._causes[phase] = None if cause is None else CAUSES.index(cause)
        row = self._own.setdefault(step, {})
        own = row.get(worker)
        if own is None:
            self._cells += 1
            if self._cells > MOST_CELLS:
                raise TraceError(f"line {line}: more than {MOST_CELLS} workers times steps: cut the trace")
            own = row[worker] = [0.0] * len(CAUSES)
        at = self._causes[phase]
        if at is not None:
            own[at] += end - start

    def _worker(self, cells: Sequence[str], columns: Mapping[str, int]) -> Worker:
        def cell(name: str) -> str:
            return cells[columns[name]].strip() if name in columns else ""

        stage, replica, tensor = cell("pp"), cell("dp"), cell("tp")
        name = cell("worker") or "-".join(
            f"{label}{text}" for label, text in (("dp", replica), ("pp", stage), ("tp", tensor)) if text
        )
        worker = Worker(name, stage, replica, tensor, cell("host"))
        return self._workers.setdefault(worker, worker)

    def trace(self, unit: float | None) -> Trace:
        """What it comes to."""
        if self._wrong > MOST_WRONG * self._rows:
            raise TraceError(
                f"{self._wrong} of {self._rows} rows make no sense, the first: {self._first_wrong}"
            )
        if not self._own or all(at is None for at in self._causes.values()):
            raise TraceError(
                "no operation is a worker's own; phases are such as forward, backward, optimizer, data; "
                f"found: {', '.join(sorted(self._causes)[:12]) or 'no rows'}"
            )
        steps = sorted(self._own)
        workers = sorted(self._workers, key=lambda worker: _natural(worker.name + " " + worker.stage))
        at = {worker: place for place, worker in enumerate(workers)}
        own = np.full((len(steps), len(workers), len(CAUSES)), np.nan, dtype=np.float32)
        for row, step in enumerate(steps):
            for worker, seconds in self._own[step].items():
                own[row, at[worker]] = seconds
        lengths = _lengths(np.array([self._spans[step] for step in steps]))
        scale = unit or _plausible(float(np.median(lengths)))
        return Trace(workers, _filled(own, workers) * scale, np.maximum(lengths, 1e-9) * scale, self._wrong)


def _lengths(spans: np.ndarray) -> np.ndarray:
    """How long each step took, of its first start and last end.

    Steps may overlap, as one worker begins the next while another ends the last. Where each step has a clock
    of its own, that begins anew, it took from the first to the last.
    """
    starts, ends = spans[:, 0], spans[:, 1]
    if len(spans) > 1 and np.median(np.diff(starts)) < 0.5 * np.median(ends - starts):
        return np.asarray(ends - starts)
    before = np.concatenate([[-np.inf], np.maximum.accumulate(ends)[:-1]])
    return np.asarray(ends - np.maximum(starts, np.minimum(before, ends)))


def _filled(own: np.ndarray, workers: Sequence[Worker]) -> np.ndarray:
    """Where a worker has no row in a step, what the others of its stage took then, or else it took before."""
    lacking = np.isnan(own).any(axis=2)
    for stage in {worker.stage for worker in workers} if lacking.any() else ():
        members = [place for place, worker in enumerate(workers) if worker.stage == stage]
        for row in np.flatnonzero(lacking[:, members].any(axis=1)):
            there = [place for place in members if not lacking[row, place]]
            usual = np.median(own[row, there], axis=0) if there else np.zeros(len(CAUSES))
            for place in members:
                if lacking[row, place]:
                    own[row, place] = usual
    return own


def _plausible(step: float) -> float:
    """The unit in which a step of that length takes between a millisecond and ten minutes; seconds first."""
    return next((unit for unit in (1.0, 1e-3, 1e-6, 1e-9) if 1e-3 <= step * unit <= 600), 1.0)


def _natural(text: str) -> list[tuple[int, str]]:
    parts: Iterator[str] = iter(re.findall(r"\d+|\D+", text))
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
