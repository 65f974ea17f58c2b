"""The write API: what a script logs is in its box, and nothing that it does wrong stops it."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trainbeacon
from trainbeacon import catalogue
from trainbeacon.blackbox.directory import open_directory
from trainbeacon.blackbox.reader import Box, BoxDirectory

Start = Callable[..., trainbeacon.Beacon]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a beacon whose box lies in the test's folder and that nobody serves."""
    started: list[trainbeacon.Beacon] = []

    def begin(**settings: Any) -> trainbeacon.Beacon:
        beacon = trainbeacon.start(**{"run": "test", "directory": str(tmp_path), "serve": "off", **settings})
        started.append(beacon)
        return beacon

    yield begin
    for beacon in started:
        beacon.finish()


@pytest.fixture
def box(tmp_path: Path) -> Callable[[], Box]:
    """Reads the newest box of the test's folder."""

    def read() -> Box:
        descriptor = open_directory(str(tmp_path))
        try:
            return max(BoxDirectory(descriptor).scan(ring=True), key=lambda box: box.identity.start)
        finally:
            os.close(descriptor)

    return read


def _errors(box: Box, where: str = "value") -> float | None:
    return box.number("trainbeacon_errors_total", where)


def test_logged_numbers_are_in_the_box(start: Start, box: Callable[[], Box]) -> None:
    """Python numbers and NumPy scalars arrive as they are, under the metric of their name."""
    beacon = start()
    beacon.log(
        loss=np.float32(1.5), accuracy=0.25, gradient_norm=2, learning_rate=1e-3, perplexity=np.int64(7)
    )
    assert box().number("training_loss", "train") == 1.5
    assert box().number("training_accuracy_ratio", "train") == 0.25
    assert box().number("training_gradient_norm") == 2.0
    assert box().number("training_learning_rate", "0") == 1e-3
    assert box().number("training_metric", "perplexity", "train") == 7.0


def test_what_was_never_logged_is_not_in_the_box(start: Start, box: Callable[[], Box]) -> None:
    """An unset value is distinguished from any number, NaN included."""
    beacon = start()
    beacon.log(loss=math.nan)
    loss = box().number("training_loss", "train")
    assert loss is not None
    assert math.isnan(loss)
    assert box().number("training_loss", "validation") is None


def test_counters_begin_at_zero(start: Start, box: Callable[[], Box]) -> None:
    """A first event is an increase, because its counter was there before it."""
    start()
    for name in (
        "training_loss_nonfinite_total",
        "training_steps_total",
        "training_checkpoint_failures_total",
    ):
        assert box().number(name) == 0.0


@pytest.mark.parametrize("bad", ["high", {}, [1.0, 2.0], np.zeros(3), object(), 1 + 2j])
def test_what_is_no_number_raises_at_the_desk(start: Start, box: Callable[[], Box], bad: object) -> None:
    """Before the first step the first wrong value raises and names the argument; a second one is counted."""
    beacon = start()
    with pytest.raises(TypeError, match="loss"):
        beacon.log(loss=bad)
    beacon.log(loss=bad, accuracy=0.5)
    assert _errors(box()) == 2.0
    assert box().number("training_accuracy_ratio", "train") == 0.5


def test_after_the_first_step_nothing_raises(
    start: Start, box: Callable[[], Box], caplog: pytest.LogCaptureFixture
) -> None:
    """Misuse on a path that is reached hours into the run is logged once and counted."""
    beacon = start()
    with beacon.step(samples=4):
        pass
    with caplog.at_level(logging.WARNING, "trainbeacon"):
        for _ in range(3):
            beacon.log(loss="oops", split="train")
            beacon.log(loss=1.0, split="trian")
            beacon.log(accuracy=87.5)
            with beacon.phase("fordward"):
                pass
    assert _errors(box()) == 12.0
    assert len([record for record in caplog.records if "oops" in record.message]) == 1
    assert "divide a percentage by 100" in caplog.text
    assert "fordward" in caplog.text


def test_every_training_loss_is_judged(start: Start, box: Callable[[], Box]) -> None:
    """A spike and a NaN between two scrapes are counted although the last loss looks healthy."""
    beacon = start()
    for step in range(100):
        with beacon.step():
            beacon.log(loss={50: 40.0, 60: math.nan, 61: math.inf}.get(step, 2.0 + 0.01 * (step % 7)))
    assert box().number("training_loss_spikes_total") == 1.0
    assert box().number("training_loss_nonfinite_total") == 2.0
    assert box().number("training_loss", "train") == pytest.approx(2.01)


def test_batches_count_steps_samples_and_tokens(start: Start, box: Callable[[], Box]) -> None:
    """Each batch of a plain loop is a step; samples are read off it, tokens as the caller says."""
    beacon = start()
    loader = [(np.zeros((4, 10)), np.zeros(4))] * 3
    for _ in beacon.batches(loader, tokens=lambda batch: batch[0].size):
        beacon.log(loss=1.0)
    assert len(beacon.batches(loader)) == 3
    assert box().number("training_steps_total") == 3.0
    assert box().number("training_samples_total") == 12.0
    assert box().number("training_tokens_total") == 120.0
    assert box().number("training_epochs_total") == 1.0


def test_a_loop_left_by_break_has_done_its_last_step(start: Start, box: Callable[[], Box]) -> None:
    """`if step == max_steps: break` at the end of the body does not lose that step."""
    beacon = start()
    for number, _ in enumerate(beacon.batches([np.zeros(2)] * 10)):
        if number == 4:
            break
    assert box().number("training_steps_total") == 5.0


def test_a_failing_loader_or_token_count_is_the_scripts_own(start: Start, box: Callable[[], Box]) -> None:
    """The loader's exception reaches the script; one in `tokens` is counted and training goes on."""
    beacon = start()

    def loader() -> Iterator[int]:
        yield 1
        raise RuntimeError("disk gone")

    with pytest.raises(RuntimeError, match="disk gone"):
        list(beacon.batches(loader(), tokens=lambda batch: batch.nothing))
    assert _errors(box()) == 1.0


def test_the_most_explicit_source_counts_the_steps(start: Start, box: Callable[[], Box]) -> None:
    """With `step` inside `batches` a step is counted once."""
    beacon = start()
    for _ in beacon.batches([np.zeros(2)] * 5):
        with beacon.step(samples=1):
            pass
    assert box().number("training_steps_total") == 5.0


def test_a_loop_that_only_logs_its_step_number_is_followed(start: Start, box: Callable[[], Box]) -> None:
    """`log(step=...)` alone counts steps, and a resumed run goes on at its number."""
    beacon = start()
    for step in range(1001, 1004):
        beacon.log(loss=1.0, step=step, epoch=2)
    assert box().number("training_step") == 1003.0
    assert box().number("training_steps_total") == 3.0
    assert box().number("training_epoch") == 2.0


def test_evaluation_logs_validation_and_knows_the_best(start: Start, box: Callable[[], Box]) -> None:
    """Inside `evaluate` the split is validation; evaluations since the best loss are counted."""
    beacon = start()
    for loss in (2.0, 1.0, 1.5, 1.6):
        with beacon.evaluate():
            beacon.log(loss=loss, accuracy=0.5)
    beacon.log(loss=9.0)
    assert box().number("training_loss", "validation") == 1.6
    assert box().number("training_loss", "train") == 9.0
    assert box().number("training_evaluations_since_best", "validation") == 2.0


def test_overfitting_is_counted_in_evaluations(start: Start, box: Callable[[], Box]) -> None:
    """The best validation loss, how often it rose since, and in how many evaluations training got better."""
    beacon = start()
    for train, validation in ((4.0, 3.0), (3.0, 2.5), (2.0, 2.6), (1.0, 2.8)):
        for _ in range(600):
            beacon.log(loss=train)
        with beacon.evaluate():
            beacon.log(loss=validation)
    assert box().number("training_best_loss", "validation") == 2.5
    assert box().number("training_loss_rises", "validation") == 2.0
    assert box().number("training_overfitting_evaluations") == 2.0
    with beacon.evaluate():
        beacon.log(loss=2.7)
    assert box().number("training_loss_rises", "validation") == 0.0
    assert box().number("training_overfitting_evaluations") == 3.0


def test_a_level_training_loss_does_not_overfit_after_a_steep_start(
    start: Start, box: Callable[[], Box]
) -> None:
    """Its mean over the first steps is far above what it had come to when validation was best."""
    beacon = start()
    for number in range(200):
        beacon.log(loss=0.25 + 9.0 * 0.95**number)
    for validation in (0.26, 0.28, 0.28, 0.29):
        with beacon.evaluate():
            beacon.log(loss=validation)
        for _ in range(100):
            beacon.log(loss=0.25)
    assert box().number("training_overfitting_evaluations") == 0.0


def test_batches_inside_an_evaluation_count_nothing(start: Start, box: Callable[[], Box]) -> None:
    """A validation loader wrapped by habit adds no steps, samples or epochs to the training."""
    beacon = start()
    with beacon.evaluate():
        assert len(list(beacon.batches([np.zeros(3)] * 4))) == 4
    assert box().number("training_steps_total") == 0.0
    assert box().number("training_samples_total") is None


def test_a_checkpoint_is_timed_counted_and_sized(
    start: Start, box: Callable[[], Box], tmp_path: Path
) -> None:
    """A good checkpoint leaves its step, time and size; one that raises is a failure and raises on."""
    beacon = start()
    beacon.log(step=7)
    path = tmp_path / "model.pt"
    with beacon.checkpoint(path):
        path.write_bytes(b"x" * 1000)
    with pytest.raises(OSError, match="full"), beacon.checkpoint(path):
        raise OSError("full")
    assert box().number("training_checkpoints_total") == 2.0
    assert box().number("training_checkpoint_failures_total") == 1.0
    assert box().number("training_checkpoint_step") == 7.0
    assert wait_for(lambda: box().number("training_checkpoint_bytes")) == 1000.0


def wait_for(read: Callable[[], Any], seconds: float = 120.0) -> Any:
    """The first true value of `read`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = read()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


def test_names_of_the_user_are_bounded(start: Start, box: Callable[[], Box]) -> None:
    """A script that invents a name at each step fills its 40 names; the rest is dropped and counted."""
    beacon = start()
    for number in range(60):
        beacon.log(**{f"metric_{number}": 1.0})
    names = {labels[0] for name, labels in box().values if name == "training_metric"}
    assert len(names) == 40
    assert box().number("trainbeacon_series_dropped_total") == 20.0


def test_run_level_series_come_from_rank_zero_only(
    start: Start, box: Callable[[], Box], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another rank logs its own loss, but no user metrics, thresholds, hyperparameters or run info."""
    for name, value in {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    beacon = start(thresholds={"stall_seconds": 60}, hyperparameters={"lr": 0.1}, steps_planned=10)
    beacon.log(loss=1.0, f1=0.5)
    levels = {catalogue.BY_NAME[name].level for name, _ in box().values if name in catalogue.BY_NAME}
    assert levels == {"rank"}
    assert box().identity.rank == 1
    assert box().number("training_loss", "train") == 1.0


def test_hyperparameters_thresholds_and_tags_are_described(start: Start, box: Callable[[], Box]) -> None:
    """Numbers become gauges, all becomes text, secrets are refused."""
    start(
        hyperparameters={"lr": 0.5, "optimizer": "adamw", "hf_token": "s3cr3t"},
        thresholds={"accuracy_min": 0.9, "metric:f1_min": 0.5},
        tags={"team": "nlp"},
        steps_planned=100,
    )
    infos = dict.fromkeys(box().infos)
    assert ("training_hyperparameter_info", ("optimizer", "adamw")) in infos
    assert ("training_run_tag_info", ("team", "nlp")) in infos
    assert box().number("training_hyperparameter", "lr") == 0.5
    assert box().number("training_threshold", "metric:f1_min") == 0.5
    assert box().number("training_steps_planned") == 100.0
    assert "s3cr3t" not in repr(infos)


def test_with_without_an_exception_is_finished(start: Start, box: Callable[[], Box]) -> None:
    """Leaving `with` in peace is the end of a good run; so is sys.exit(0)."""
    with start():
        pass
    assert box().state == "finished"
    with pytest.raises(SystemExit), start(run="other"):
        sys.exit(0)
    assert box().state == "finished"


def test_with_an_exception_is_failed(start: Start, box: Callable[[], Box]) -> None:
    """The class of the exception is recorded and the exception goes on its way."""
    with pytest.raises(ZeroDivisionError), start():
        _ = 1 / 0
    assert box().state == "failed"
    assert ("training_failure_info", ("ZeroDivisionError", "other")) in box().infos
    assert box().number("training_failure_timestamp_seconds")


def test_a_second_start_closes_the_first_run(start: Start, tmp_path: Path) -> None:
    """A notebook that runs its cell again leaves one live run."""
    start(run="first")
    start(run="second")
    descriptor = open_directory(str(tmp_path))
    states = {box.identity.run: box.state for box in BoxDirectory(descriptor).scan()}
    os.close(descriptor)
    assert states == {"first": "finished", "second": "running"}


def test_calls_after_the_end_do_nothing(start: Start, box: Callable[[], Box]) -> None:
    """A callback that comes late neither fails nor changes the box."""
    beacon = start()
    beacon.log(loss=1.0)
    beacon.finish()
    beacon.log(loss=5.0)
    with beacon.step(), beacon.phase("forward"), beacon.evaluate(), beacon.checkpoint():
        pass
    beacon.watch(None, None)
    assert list(beacon.batches([1, 2])) == [1, 2]
    beacon.finish()
    assert box().number("training_loss", "train") == 1.0


def test_switched_off_it_does_nothing(start: Start, tmp_path: Path) -> None:
    """TRAINBEACON_ENABLED=0: the same script runs, no file and no thread is there."""
    before = threading.active_count()
    beacon = start(enabled=False)
    with beacon:
        for _ in beacon.batches([np.zeros(2)]):
            beacon.log(loss="not even checked")
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() <= before


def test_without_a_box_training_goes_on(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A directory that cannot be used costs one warning that names it, nothing else."""
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING, "trainbeacon"):
        beacon = start(directory=str(tmp_path / "file"), serve="process")
        with beacon:
            for _ in beacon.batches([np.zeros(2)] * 3):
                beacon.log(loss=1.0)
    assert "no black box" in caplog.text
    assert str(tmp_path / "file") in caplog.text


def _run_script(body: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    script = f"""
        import os, sys, trainbeacon
        beacon = trainbeacon.start(run="script", directory={str(tmp_path)!r}, serve="off")
        beacon.log(loss=3.0, step=1)
    """
    code = textwrap.dedent(script) + textwrap.dedent(body)
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.parametrize(
    ("body", "state"),
    [
        ("beacon.finish()", "finished"),
        ("pass", "exited"),
        ("raise ValueError('boom')", "failed"),
        ("os._exit(3)", "crashed"),
        ("sys.stdout.flush(); os.kill(os.getpid(), 9)", "crashed"),
    ],
)
def test_every_end_of_a_process_is_told_apart(
    body: str, state: str, tmp_path: Path, box: Callable[[], Box]
) -> None:
    """A bare `start` and whatever comes then: the box says how it ended, with the last step."""
    _run_script(body, tmp_path)
    assert wait_for(lambda: box().state == state)
    assert not box().alive
    assert box().number("training_step") == 1.0


def test_the_scripts_own_exception_is_still_printed(tmp_path: Path) -> None:
    """Recording the failure does not swallow the traceback."""
    result = _run_script("raise ValueError('boom')", tmp_path)
    assert result.returncode == 1
    assert "ValueError: boom" in result.stderr


def test_the_run_leaves_no_thread_and_no_hook(start: Start) -> None:
    """After `finish` the process is as before: the same excepthook, no thread of ours."""
    hook = sys.excepthook
    start().finish()
    assert sys.excepthook is hook
    assert wait_for(lambda: not any(thread.name == "trainbeacon" for thread in threading.enumerate()))


def test_a_name_invented_at_each_step_does_not_grow_memory(
    start: Start, box: Callable[[], Box], caplog: pytest.LogCaptureFixture
) -> None:
    """Thousands of names cost one warning and a bounded table; what has room goes on being recorded."""
    beacon = start()
    beacon.log(f1=0.5)
    for number in range(5000):
        beacon.log(f1=0.5 + number, **{f"loss at step {number}": 1.0})
    assert len(beacon._slots["train"]) <= 1000
    assert caplog.text.count("left out") == 1
    assert box().number("training_metric", "f1", "train") == 4999.5


def test_failure_that_is_trained_on_after_is_taken_back(start: Start, box: Callable[[], Box]) -> None:
    """While the run goes on it is running, with no exception and no end."""
    beacon = start()
    beacon.on_exception(MemoryError("tried again with a smaller batch"))
    assert "failed" == box().state
    with beacon.step():
        pass
    wait_for(lambda: "running" == box().state)
    assert [] == [name for name, _ in box().infos if name == "training_failure_info"]
    assert box().number("training_end_timestamp_seconds") is None
    assert box().number("training_failure_timestamp_seconds") is None
