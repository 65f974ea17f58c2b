"""Traces of jobs are read in the forms that they come in, and played to the shipped rules."""

from __future__ import annotations

import csv
import gzip
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.campaign.trace import synthetic
from tests.campaign.trace.play import Pace, pace_of
from tests.campaign.trace.table import CAUSES, Trace, TraceError, Worker, cause_of, read
from tools import stack

REPOSITORY = Path(__file__).resolve().parents[3]
#: Two workers of two stages; the second computes 0.6 s a step and waits for what the first has sent.
PLAIN = "worker,dp,pp,step,phase,start,end\n" + "".join(
    f"0,0,0,{step},forward-compute,{step},{step + 0.25}\n"
    f"0,0,0,{step},forward-send,{step + 0.25},{step + 0.5}\n"
    f"1,0,1,{step},forward-recv,{step},{step + 0.25}\n"
    f"1,0,1,{step},forward-compute,{step + 0.25},{step + 0.5}\n"
    f"1,0,1,{step},backward-compute,{step + 0.5},{step + 1}\n"
    for step in range(10)
)


def own(trace: Trace) -> list[dict[str, float]]:
    """Seconds of a worker's own in a step, by cause, where there are any."""
    usual = np.median(trace.own, axis=0)
    return [
        {cause: round(float(value), 3) for cause, value in zip(CAUSES, row, strict=True) if value}
        for row in usual
    ]


@pytest.fixture
def table(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a table."""

    def write(text: str) -> Path:
        path = tmp_path / "trace.csv"
        path.write_text(text)
        return path

    return write


def test_a_workers_own_time_is_what_it_computes(table: Callable[[str], Path]) -> None:
    """What it sends, receives and waits for is none of it; a step lasts from the end of the one before."""
    trace = read(table(PLAIN))
    assert [Worker("0", "0", "0"), Worker("1", "1", "0")] == list(trace.workers)
    assert [{"forward": 0.25}, {"forward": 0.25, "backward": 0.5}] == own(trace)
    assert [1.0] * 10 == pytest.approx(list(trace.step_seconds))


def test_steps_may_each_have_a_clock_of_their_own(table: Callable[[str], Path]) -> None:
    """As where a profiler is begun anew for some steps: each lasts from its first operation to its last."""
    lines = [line.split(",") for line in PLAIN.splitlines()[1:]]
    anew = ([*cells[:5], *(str(float(cell) - float(cells[3])) for cell in cells[5:])] for cells in lines)
    trace = read(table("\n".join([PLAIN.splitlines()[0], *map(",".join, anew)])))
    assert [1.0] * 10 == pytest.approx(list(trace.step_seconds))
    assert own(read(table(PLAIN))) == own(trace)


def test_parquet_without_its_library_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is named, and both ways out."""
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(TraceError, match=r"trace.parquet: .*pip install pyarrow.*CSV"):
        read(tmp_path / "trace.parquet")


def _renamed(text: str) -> str:
    return text.replace(
        "worker,dp,pp,step,phase,start,end", "Rank;DP Rank;stage_id;Iteration;op_type;ts;End Time;x"
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\n".join([text.splitlines()[0], *reversed(text.splitlines()[1:])]),
        lambda text: text.replace(",", "\t"),
        lambda text: _renamed(text).replace(",", ";").replace("\r", ""),
        lambda text: text.replace("\n", "\r\n") + "\r\n\r\n",
        lambda text: "\ufeff" + text,
        lambda text: text.replace("worker,", "note,").replace("\n0,", "\nx,").replace("\n1,", "\nx,"),
    ],
    ids=["any order", "tabs", "other names", "other ends of line", "byte order mark", "without workers"],
)
def test_a_table_may_look_otherwise(change: Callable[[str], str], table: Callable[[str], Path]) -> None:
    """Order of rows, separators, names of columns, further columns: the same job comes of it."""
    assert [{"forward": 0.25}, {"forward": 0.25, "backward": 0.5}] == own(read(table(change(PLAIN))))


@pytest.mark.parametrize(
    ("factor", "start", "end"),
    [
        (1e6, "start_us", "end_us"),
        (1e3, "start (ms)", "end (ms)"),
        (1e6, "start", "end"),
        (1e9, "start", "end"),
    ],
)
def test_times_may_have_other_units(
    factor: float, start: str, end: str, table: Callable[[str], Path]
) -> None:
    """By the columns' names, else by what makes a step take a plausible time."""
    rows = list(csv.reader(PLAIN.splitlines()))
    rows[0][5:] = [start, end]
    scaled = [row[:5] + [str(float(cell) * factor) for cell in row[5:]] for row in rows[1:]]
    trace = read(table("\n".join(",".join(row) for row in [rows[0], *scaled])))
    assert 1.0 == pytest.approx(float(np.median(trace.step_seconds)))
    assert {"forward": 0.25} == own(trace)[0]


def test_a_duration_stands_for_an_end_and_files_may_be_packed(tmp_path: Path) -> None:
    """As tools of profilers write them."""
    path = tmp_path / "trace.csv.gz"
    rows = [
        "rank,step,name,ts,dur",
        *(f"{rank},{step},fwd,{step},0.5" for step in range(9) for rank in (0, 1)),
    ]
    with gzip.open(path, "wt") as file:
        file.write("\n".join(rows))
    assert [{"forward": 0.5}] * 2 == own(read(path))


def test_a_worker_without_rows_in_a_step_is_not_a_quick_one(table: Callable[[str], Path]) -> None:
    """A gap in the trace counts as what its peers did then."""
    rows = [f"{rank},0,0,{step},forward,{step},{step + 0.5}" for step in range(10) for rank in range(3)]
    kept = [row for row in rows if not row.startswith("2,0,0,4,")]
    trace = read(table("\n".join(["worker,dp,pp,step,phase,start,end", *kept])))
    assert [0.5, 0.5, 0.5] == [float(value) for value in trace.own[4, :, CAUSES.index("forward")]]


@pytest.mark.parametrize(
    ("phase", "cause"),
    [
        ("forward-compute", "forward"),
        ("FWD", "forward"),
        ("backward_compute", "backward"),
        ("B", "backward"),
        ("optimizer-step", "optimizer"),
        ("dataloader", "data_wait"),
        ("wait for data", "data_wait"),
        ("checkpoint", "host"),
        ("forward-send", None),
        ("backward_recv", None),
        ("params-sync", None),
        ("grads-sync", None),
        ("ncclAllReduce", None),
        ("all-to-all", None),
        ("bubble", None),
        ("wait", None),
    ],
)
def test_what_an_operation_is(phase: str, cause: str | None) -> None:
    """The names of common traces, apart into a worker's own and what it has with others."""
    assert cause == cause_of(phase)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file is empty"),
        ("worker,step,phase,start\n", r"no column for end \(or duration\)"),
        ("a,b\n1,2\n", r"no column for step, phase, start, end \(or duration\), worker \(or dp and pp\)"),
        (
            PLAIN.replace("1.5", "x"),
            "rows make no sense, the first: line 8: could not convert string to float: 'x'",
        ),
        ("rank,step,phase,start,end\n0,1,forward,5,4\n", "line 2: it ends at 4, before it starts at 5"),
        ("rank,step,phase,start,end\n0,1,send,1,2\n", "no operation is a worker's own.*found: send"),
        ("rank,step,phase,start_us,end_ms\n", "several units: ms, us"),
    ],
)
def test_what_is_no_such_table_is_refused(text: str, said: str, table: Callable[[str], Path]) -> None:
    """The message says what is wrong, and where."""
    with pytest.raises(TraceError, match=said):
        read(table(text))


def test_a_trace_is_played_so_that_the_rules_see_enough_of_it() -> None:
    """Few steps slowly and over and over, many fast; with less than eight nothing is judged."""

    def trace(steps: int, seconds: float) -> Trace:
        return Trace([Worker("0")], np.ones((steps, 1, 5), np.float32), np.full(steps, seconds))

    assert Pace(1.0, 1) == pace_of(trace(2000, 1.0))
    assert Pace(9.0, 14) == pace_of(trace(10, 30.0))
    assert Pace(0.27, 1) == pace_of(trace(10_000, 5.0))
    with pytest.raises(TraceError, match="it has 7 steps"):
        pace_of(trace(7, 1.0))


@pytest.mark.skipif(stack.find("promtool") is None, reason="promtool is not available here: `make tools`")
def test_the_rules_name_whom_they_should_in_synthetic_jobs() -> None:
    """One job of each kind: a slow rank, a slow stage, work that moves, healthy stages of unequal length."""
    cases = [
        synthetic.Case("slow rank", 2, 4, 24, 2.0, 0.01, 0.2, "backward-compute", rank=6, seed=1),
        synthetic.Case("slow stage", 3, 2, 24, 2.0, 0.01, 0.22, stage=1, seed=2),
        synthetic.Case("moving", 1, 4, 60, 2.0, 0.3, seed=3),
        synthetic.Case("healthy", 4, 2, 24, 2.0, 0.01, seed=4),
    ]
    said = synthetic.play(cases)
    assert [({6: "backward"}, []), ({}, ["1"]), ({}, []), ({}, [])] == [
        (one.causes, [*one.stages]) for one in said
    ]
    assert 0.22 == pytest.approx(said[1].stages["1"], abs=0.02)


def test_the_command_says_whom_it_names_and_what_it_cannot_read(tmp_path: Path) -> None:
    """A line for each finding; 2 for a file that is no trace."""
    if stack.find("promtool") is None:
        pytest.skip("promtool is not available here: `make tools`")
    good, bad = tmp_path / "good.csv", tmp_path / "bad.csv"
    case = synthetic.Case("slow rank", 1, 4, 24, 2.0, 0.01, 0.2, "data-load", rank=2, seed=5)
    good.write_text("\n".join(synthetic.rows(case)))
    bad.write_text("a,b\n")
    done = subprocess.run(
        [sys.executable, "-m", "tests.campaign.trace", str(good), str(bad)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert 2 == done.returncode
    assert f"{bad}: no column for" in done.stderr
    assert "  slow: worker 2 (pp 0, dp 2): the others wait for it in " in done.stdout
    assert "it takes longer than they do at: data_wait" in done.stdout
