"""The beacon's own thread: the rates it works out, and that nothing stops it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.serving import wait_for
from trainbeacon.config.settings import Config
from trainbeacon.identity import Identity
from trainbeacon.recorder.background import helper as module
from trainbeacon.recorder.background.helper import Helper
from trainbeacon.recorder.core.recorder import Recorder
from trainbeacon.testing import FakeClock


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    config = Config.load({"run": "r", "directory": str(tmp_path)}, environ={})
    made = Recorder(config, Identity(run="r", run_id="1", hostname="h", attempt=0, launcher=""))
    yield made
    made.writer.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    made = FakeClock()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=made))
    return made


def rate(recorder: Recorder, name: str = "training_samples_per_second") -> float:
    return float(recorder.writer.slots[recorder.at(name)])


def train(recorder: Recorder, samples: int) -> None:
    recorder.timeline.pending_samples = samples
    recorder.timeline.end_step()


def test_rate_is_that_of_the_last_ten_seconds(recorder: Recorder, clock: FakeClock) -> None:
    """A job that doubles its speed shows the new speed after ten seconds, whatever it did before."""
    helper = Helper(recorder, lambda: None)
    helper._measure_rates()
    for speed in (100, 200):
        for _ in range(12):
            train(recorder, speed)
            clock.advance(1)
            helper._measure_rates()
        assert speed == pytest.approx(rate(recorder))


def test_rate_of_a_job_that_stands_still_falls_to_nothing(recorder: Recorder, clock: FakeClock) -> None:
    """Ten seconds after the last step the rate is 0, not the last one seen."""
    helper = Helper(recorder, lambda: None)
    helper._measure_rates()
    train(recorder, 50)
    for _ in range(12):
        clock.advance(1)
        helper._measure_rates()
    assert 0.0 == rate(recorder)


def test_without_samples_there_is_no_rate(recorder: Recorder, clock: FakeClock) -> None:
    """A loop that does not say how many samples a step has shows no rate rather than 0."""
    helper = Helper(recorder, lambda: None)
    for _ in range(3):
        clock.advance(1)
        helper._measure_rates()
    assert rate(recorder) != rate(recorder)


def test_history_does_not_grow(recorder: Recorder, clock: FakeClock) -> None:
    """A job of weeks keeps the readings of ten seconds."""
    helper = Helper(recorder, lambda: None)
    for _ in range(1000):
        clock.advance(1)
        helper._measure_rates()
    assert len(helper._history) <= 12


def test_failing_job_and_keeper_do_not_stop_the_heartbeat(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each turn does all of its work, whatever part of it fails; errors are counted where they happened."""
    monkeypatch.setattr(module, "INTERVAL_SECONDS", 0.01)
    looks, done = [], threading.Event()

    def look() -> None:
        looks.append(1)
        raise OSError("no exporter")

    def fail() -> None:
        raise OSError("checkpoint is gone")

    helper = Helper(recorder, look)
    helper.submit(fail)
    helper.submit(done.set)
    helper.start()
    assert done.wait(10)
    wait_for(lambda: len(looks) >= 3, what="turns")
    helper.stop()
    slots = recorder.writer.slots
    assert 1.0 == slots[recorder.at("trainbeacon_errors_total", "helper")]
    assert 3.0 <= slots[recorder.at("trainbeacon_errors_total", "exporter")]
    helper._thread.join(10)
    assert not helper._thread.is_alive()
