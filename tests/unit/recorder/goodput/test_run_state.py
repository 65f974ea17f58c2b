"""What a run knows of its earlier attempts: how it is kept, and that a bad file does no harm."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainbeacon.recorder.goodput import run_state as statefile
from trainbeacon.recorder.goodput.run_state import Attempt, RunState, StateError

STATE = RunState(
    began=1000.0,
    written=1500.0,
    seconds={"productive": 300.0, "init": 100.0, "idle": 70.0, "lost": 20.0},
    pending=10.0,
    step=120,
    furthest=130,
    points=((40, 100.0), (80, 200.0)),
    attempt=Attempt("box", 1400.0, 20, {"forward": 40.0}, {"forward": 30.0}, 60.0),
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """The next attempt finds the run as the last one left it, and no other file beside it."""
    path = str(tmp_path / "state.json")
    statefile.write(path, STATE)
    assert STATE == statefile.read(path)
    assert ["state.json"] == os.listdir(tmp_path)


def test_no_file_is_no_run(tmp_path: Path) -> None:
    """A first attempt finds nothing, which is no error."""
    assert statefile.read(str(tmp_path / "none")) is None


def test_failed_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up in the middle costs the newest state, not the run's history."""
    path = str(tmp_path / "state.json")
    statefile.write(path, STATE)

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(OSError, match="space"):
        statefile.write(path, RunState(began=1.0, written=2.0))
    assert STATE == statefile.read(path)
    assert ["state.json"] == os.listdir(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 100,
        b"[]",
        b"null",
        b'{"trainbeacon": 2}',
        b"[" * 60_000,
        b"x" * 70_000,
        b'{"trainbeacon": 1, "began": NaN}',
    ],
    ids=lambda content: repr(content[:12]),
)
def test_content_that_makes_no_sense_is_refused(content: bytes, tmp_path: Path) -> None:
    """A truncated, foreign or huge file is distinguished from none, and never raises anything else."""
    (tmp_path / "state.json").write_bytes(content)
    with pytest.raises(StateError):
        statefile.read(str(tmp_path / "state.json"))


@given(
    st.sampled_from(sorted(asdict(STATE))),
    st.one_of(st.none(), st.text(), st.floats(), st.integers(), st.lists(st.integers()), st.booleans()),
)
def test_one_wrong_field_never_does_harm(
    tmp_path_factory: pytest.TempPathFactory, name: str, value: object
) -> None:
    """Whatever one field says, reading gives a state with finite numbers of seconds, or refuses."""
    path = tmp_path_factory.getbasetemp() / "hostile.json"
    path.write_text(json.dumps({**json.loads(STATE.to_bytes()), name: value}))
    try:
        found = statefile.read(str(path))
    except StateError:
        return
    assert found is not None
    resumed = found.taken_up(2000.0).resumed(found.last_checkpoint)
    assert all(0.0 <= seconds < float("inf") for seconds in resumed.seconds.values())


def test_a_folder_or_a_pipe_is_no_file(tmp_path: Path) -> None:
    """What would block or cannot be read is refused at once."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StateError):
        statefile.read(str(tmp_path / "pipe"))
    with pytest.raises(IsADirectoryError):
        statefile.read(str(tmp_path))


def test_resuming_moves_what_was_trained_beyond_to_lost() -> None:
    """From the last checkpoint at step 80: 40 steps of 300 - 200 seconds, and the step that was under way."""
    history = STATE.taken_up(1600.0).resumed(80)
    assert {"productive": 200.0, "init": 100.0, "idle": 170.0, "lost": 130.0} == history.seconds
    assert (80, 130, 0.0) == (history.step, history.furthest, history.pending)


def test_no_second_is_lost_or_counted_twice_by_resuming() -> None:
    """The sum over all kinds only grows by the pause between the attempts, wherever the run goes on."""
    for step in range(0, 140, 7):
        history = STATE.taken_up(1600.0).resumed(step)
        assert sum(history.seconds.values()) == pytest.approx(sum(STATE.seconds.values()) + 10.0 + 100.0)


@pytest.mark.parametrize(
    ("step", "productive"), [(0, 0.0), (20, 50.0), (60, 150.0), (100, 250.0), (500, 300.0)]
)
def test_between_checkpoints_the_time_goes_with_the_steps(step: int, productive: float) -> None:
    """A checkpoint that was saved without the beacon's knowledge still tells how much is lost."""
    assert productive == STATE.productive_at(step)


def test_file_is_beside_the_checkpoint_and_each_runs_own(tmp_path: Path) -> None:
    """Two runs that save into one folder keep two files, whatever letters their names have."""
    names = ["a", "a b", "a_b", "ä", "x" * 500, "x" * 501, "../../etc"]
    paths = {statefile.beside(tmp_path / "last.pt", name) for name in names}
    assert len(names) == len(paths)
    assert {str(tmp_path)} == {os.path.dirname(path or "") for path in paths}
    assert statefile.beside("s3://bucket/last.pt", "a") is None
