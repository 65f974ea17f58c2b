"""The goodput of a run as it is served: over restarts in one folder, and when its file is bad or slow."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import trainbeacon
from tests.serving import wait_for
from trainbeacon import catalogue
from trainbeacon.blackbox.directory import open_directory
from trainbeacon.blackbox.reader import Box, BoxDirectory
from trainbeacon.recorder.goodput import run_state as statefile


@contextmanager
def attempt(folder: Path, **settings: Any) -> Iterator[trainbeacon.Beacon]:
    """One attempt of the run; what it saves is beside its boxes."""
    with trainbeacon.start(run="r", serve="off", directory=str(folder), **settings) as beacon:
        yield beacon


def box(folder: Path) -> Box:
    descriptor = open_directory(str(folder))
    try:
        return max(BoxDirectory(descriptor).scan(), key=lambda box: box.identity.start)
    finally:
        os.close(descriptor)


def steps(beacon: trainbeacon.Beacon, count: int) -> None:
    for _ in range(count):
        with beacon.step():
            pass


def dies(beacon: trainbeacon.Beacon) -> None:
    """What a killed process leaves: the last written state, and no end."""
    beacon._goodput.end("exited")
    beacon._file_worker.finish(10.0)
    beacon._end("exited")


def number(folder: Path, metric: str, *labels: str) -> Callable[[], float | None]:
    return lambda: box(folder).number(metric, *labels)


def test_counters_begin_at_zero_and_add_up_to_the_life(tmp_path: Path) -> None:
    """Every kind is there from the start, and their sum is the age of the process."""
    with attempt(tmp_path) as beacon:
        begun = {
            k: box(tmp_path).number("training_goodput_seconds_total", k) for k in catalogue.GOODPUT_KINDS
        }
        steps(beacon, 5)
    assert dict.fromkeys(set(catalogue.GOODPUT_KINDS) - {"init"}, 0.0).items() <= begun.items()
    assert 0.0 == box(tmp_path).number("training_lost_steps_total")
    total = sum(
        box(tmp_path).number("training_goodput_seconds_total", kind) or 0.0
        for kind in catalogue.GOODPUT_KINDS
    )
    ended = box(tmp_path).number("training_end_timestamp_seconds")
    assert ended is not None
    assert ended - box(tmp_path).identity.start == pytest.approx(total, abs=0.1)


def test_run_gauges_need_a_place_to_be_kept(tmp_path: Path) -> None:
    """Without a checkpoint's path or a state file there is no history, and none is made up."""
    with attempt(tmp_path) as beacon:
        steps(beacon, 5)
    assert box(tmp_path).number("training_run_seconds", "productive") is None
    assert [] == list(tmp_path.glob("*.json"))


def test_state_is_kept_beside_the_first_checkpoint(tmp_path: Path) -> None:
    """A run whose script says where it saves needs no setting: the next attempt goes on with its accounts."""
    with attempt(tmp_path) as beacon:
        steps(beacon, 5)
        with beacon.checkpoint(tmp_path / "saved" / "last.pt"):
            (tmp_path / "saved").mkdir()
        steps(beacon, 3)
    first = statefile.read(str(tmp_path / "saved" / "trainbeacon-r.json"))
    assert first is not None
    assert (8, 8, [5], True) == (
        first.step,
        first.furthest,
        [step for step, _ in first.points],
        first.finished,
    )
    with attempt(tmp_path) as beacon:
        beacon.resume(5, tmp_path / "saved" / "last.pt")
        steps(beacon, 4)
    second = statefile.read(str(tmp_path / "saved" / "trainbeacon-r.json"))
    assert second is not None
    assert (first.began, 9, 9) == (second.began, second.step, second.furthest)
    assert 3.0 == box(tmp_path).number("training_lost_steps_total")
    assert second.of("idle") > 0.0
    assert 5.0 == box(tmp_path).number("training_checkpoint_step")  # what a crash would go back to


def test_an_attempt_shorter_than_the_reading_of_the_file_counts_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Storage that answers late, and an attempt that is over by then: its repeated steps are reported."""
    with attempt(tmp_path) as beacon:
        steps(beacon, 5)
        with beacon.checkpoint(tmp_path / "last.pt"):
            (tmp_path / "last.pt").touch()
        steps(beacon, 3)
    read = statefile.read

    def slowly(path: str) -> statefile.RunState | None:
        threading.Event().wait(0.3)
        return read(path)

    monkeypatch.setattr(statefile, "read", slowly)
    with attempt(tmp_path) as beacon:
        beacon.resume(5, tmp_path / "last.pt")
        steps(beacon, 4)
    assert 3.0 == box(tmp_path).number("training_lost_steps_total")


@pytest.mark.parametrize(("resumed", "lost"), [(None, 4.0), (0, 10.0), (8, 2.0), (10, 0.0)])
def test_steps_made_again_are_counted(resumed: int | None, lost: float, tmp_path: Path) -> None:
    """From what the script says, or else from the last checkpoint: never more than were made before."""
    state = str(tmp_path / "state.json")
    with attempt(tmp_path, state_file=state) as beacon:
        steps(beacon, 6)
        with beacon.checkpoint(tmp_path / "last.pt"):
            pass
        steps(beacon, 4)
        wait_for(lambda: statefile.read(state), what="state")
        dies(beacon)
    with attempt(tmp_path, state_file=state) as beacon:
        wait_for(lambda: not beacon._goodput._waiting, what="reading")
        if resumed is not None:
            beacon.resume(resumed)
        steps(beacon, 15)
    assert lost == box(tmp_path).number("training_lost_steps_total")


def test_loop_that_numbers_its_steps_says_where_it_resumed(tmp_path: Path) -> None:
    """`log(step=)` is word enough: no call of `resume` is needed, and the numbers are the run's."""
    state = str(tmp_path / "state.json")
    for first in (1, 7):
        with attempt(tmp_path, state_file=state) as beacon:
            wait_for(lambda: not beacon._goodput._waiting, what="reading")
            for step in range(first, first + 10):
                beacon.log(loss=1.0, step=step)
            dies(beacon)
    assert 4.0 == box(tmp_path).number("training_lost_steps_total")
    found = statefile.read(state)
    assert found is not None
    assert (16, 16) == (found.step, found.furthest)


def test_run_that_was_finished_begins_anew_under_its_name(tmp_path: Path) -> None:
    """The same script started once more is a new run: what the old one did is not lost work."""
    state = str(tmp_path / "state.json")
    with attempt(tmp_path, state_file=state) as beacon:
        steps(beacon, 10)
    began = box(tmp_path).identity.start
    with attempt(tmp_path, state_file=state) as beacon:
        wait_for(lambda: not beacon._goodput._waiting, what="reading")
        steps(beacon, 3)
    found = statefile.read(state)
    assert found is not None
    assert (3, 3) == (found.step, found.furthest)
    assert found.began > began
    assert 0.0 == box(tmp_path).number("training_lost_steps_total")


def test_bad_file_is_counted_and_replaced(tmp_path: Path) -> None:
    """A state that makes no sense costs the history and nothing else."""
    (tmp_path / "state.json").write_bytes(b"\0" * 1000)
    with attempt(tmp_path, state_file=str(tmp_path / "state.json")) as beacon:
        wait_for(lambda: not beacon._goodput._waiting, what="reading")
        steps(beacon, 2)
    assert 1.0 == box(tmp_path).number("trainbeacon_errors_total", "helper")
    assert 2 == json.loads((tmp_path / "state.json").read_text())["step"]


def test_folder_that_does_not_exist_is_not_made(tmp_path: Path) -> None:
    """A path that cannot be written is counted; training and its counters go on."""
    with attempt(tmp_path, state_file=str(tmp_path / "no" / "state.json")) as beacon:
        steps(beacon, 2)
    assert not (tmp_path / "no").exists()
    assert (box(tmp_path).number("trainbeacon_errors_total", "helper") or 0.0) >= 1.0
    assert 2.0 == box(tmp_path).number("training_steps_total")


def test_file_system_that_hangs_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the state cannot be written the heart beats, steps are made, and the end waits a bounded time."""
    goes_on = threading.Event()
    monkeypatch.setattr(statefile, "write", lambda *_: goes_on.wait())
    monkeypatch.setattr("trainbeacon.recorder.api.beacon.LAST_FILES_SECONDS", 0.2)
    try:
        with attempt(tmp_path, state_file=str(tmp_path / "state.json")) as beacon:
            steps(beacon, 2)
            first = box(tmp_path).last_sign
            wait_for(lambda: box(tmp_path).last_sign > first + 1.5, what="heartbeat")
    finally:
        goes_on.set()  # here already, while it hangs


def test_switched_off_it_serves_and_writes_nothing(tmp_path: Path) -> None:
    """`probes_off=["goodput"]` leaves no series and no file."""
    with attempt(tmp_path, probes_off=["goodput"], state_file=str(tmp_path / "state.json")) as beacon:
        steps(beacon, 2)
        with beacon.checkpoint(tmp_path / "last.pt"):
            pass
    assert box(tmp_path).number("training_goodput_seconds_total", "productive") is None
    assert [] == list(tmp_path.glob("*.json"))


@pytest.mark.parametrize("says", ["resume", "log"])
@pytest.mark.parametrize(("job", "lost"), [("another", 0.0), ("first", 5.0)])
def test_run_that_begins_again_after_a_kill(
    job: str, lost: float, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At step 0 in another job it is a new run; in the same job, whose restart it is, the steps are lost."""
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "first")
    state = str(tmp_path / "state.json")
    with attempt(tmp_path, state_file=state) as beacon:
        steps(beacon, 5)
        dies(beacon)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", job)
    with attempt(tmp_path, state_file=state) as beacon:
        wait_for(lambda: not beacon._goodput._waiting, what="reading")
        if says == "resume":
            beacon.resume(0)
        for step in range(1, 8):
            if says == "resume":
                steps(beacon, 1)
            else:
                beacon.log(step=step, loss=1.0)
    assert lost == box(tmp_path).number("training_lost_steps_total")
    assert 7.0 == box(tmp_path).number("training_step")
    kinds = [
        box(tmp_path).number("training_goodput_seconds_total", k) or 0.0 for k in catalogue.GOODPUT_KINDS
    ]
    life = (box(tmp_path).number("training_end_timestamp_seconds") or 0.0) - box(tmp_path).identity.start
    assert sum(kinds) <= life + 0.1
