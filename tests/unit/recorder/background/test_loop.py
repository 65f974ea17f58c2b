"""The beacon's own thread: the rates it works out, and that nothing stops it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.serving import wait_for
from trainbeacon.config.settings import Config
from trainbeacon.identity import Identity
from trainbeacon.recorder.background.loop import BackgroundLoop
from trainbeacon.recorder.background.schedule import Probe, Scheduled
from trainbeacon.recorder.core import timeline
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
    """The clock of the loop and of the steps."""
    made = FakeClock(1e9)  # later than the heartbeats, which are real
    monkeypatch.setattr(timeline, "time", SimpleNamespace(monotonic=made))
    return made


def rate(recorder: Recorder, name: str = "training_samples_per_second") -> float:
    return float(recorder.writer.slots[recorder.at(name)])


def train(recorder: Recorder, samples: int) -> None:
    recorder.timeline.pending_samples = samples
    recorder.timeline.end_step()


def test_rate_is_that_of_the_last_ten_seconds(recorder: Recorder, clock: FakeClock) -> None:
    """A job that doubles its speed shows the new speed after ten seconds, whatever it did before."""
    loop = BackgroundLoop(recorder, clock=clock)
    loop.turn()
    for speed in (100, 200):
        for _ in range(12):
            clock.advance(1)
            train(recorder, speed)
            loop.turn()
        assert speed == pytest.approx(rate(recorder))


@pytest.mark.parametrize("seconds", [0.0625, 0.25, 7.0, 30.0, 400.0])
def test_rate_is_the_same_at_every_moment_of_a_step(
    recorder: Recorder, clock: FakeClock, seconds: float
) -> None:
    """However long a step takes, the rate is what whole steps give: never 0 in a step, never three times."""
    loop = BackgroundLoop(recorder, clock=clock)
    seen, done, begun = set(), clock.now, clock.now
    while clock.now < begun + max(3 * seconds, 15.0):
        clock.advance(min(0.5, seconds))
        if clock.now - done >= seconds - 1e-6:
            done = clock.now
            train(recorder, 8190)
        if int(clock.now * 2) % 2:
            loop.turn()
        if rate(recorder) == rate(recorder):
            seen.add(round(rate(recorder) * seconds / 8190, 3))
    assert {1.0} == seen


def test_rate_is_absent_before_the_second_step(recorder: Recorder, clock: FakeClock) -> None:
    """The first step warms up and compiles: no rate is made of it, nor 0."""
    loop = BackgroundLoop(recorder, clock=clock)
    train(recorder, 50)
    clock.advance(5)
    loop.turn()
    assert rate(recorder) != rate(recorder)


@pytest.mark.parametrize(("seconds", "bound"), [(0.5, 12), (30.0, 92)])
def test_rate_of_a_job_that_stands_still_falls_to_nothing(
    recorder: Recorder, clock: FakeClock, seconds: float, bound: int
) -> None:
    """Ten seconds after the last step, or three steps where that is longer, the rate is 0."""
    loop = BackgroundLoop(recorder, clock=clock)
    for _ in range(4):
        clock.advance(seconds)
        train(recorder, 50)
        loop.turn()
    assert 50 / seconds == pytest.approx(rate(recorder))
    for _ in range(bound):
        clock.advance(1)
        loop.turn()
    assert 0.0 == rate(recorder)


def test_without_samples_there_is_no_rate(recorder: Recorder, clock: FakeClock) -> None:
    """A loop that does not say how many samples a step has shows no rate rather than 0."""
    loop = BackgroundLoop(recorder, clock=clock)
    for _ in range(3):
        clock.advance(1)
        loop.turn()
    assert rate(recorder) != rate(recorder)


def test_nothing_that_fails_stops_the_heartbeat(recorder: Recorder) -> None:
    """Each turn does all of its work, whatever part of it fails; errors are counted where they happened."""
    turns: list[int] = []

    def fails() -> None:
        turns.append(1)
        raise OSError("no exporter")

    probes = [
        Scheduled(Probe(where, lambda parts: fails, where=where), fails) for where in ("helper", "exporter")
    ]
    loop = BackgroundLoop(recorder, probes, interval=0.01)
    loop.start()
    wait_for(lambda: len(turns) >= 6, what="turns")
    loop.stop()
    slots = recorder.writer.slots
    for where in ("helper", "exporter"):
        assert 3.0 <= slots[recorder.at("trainbeacon_errors_total", where)]
    wait_for(lambda: not loop.is_alive, what="the end of the thread")


def test_probe_is_polled_at_its_interval(recorder: Recorder, clock: FakeClock) -> None:
    """What asks every fifteen seconds is not called in each turn."""
    calls: list[float] = []
    poll = lambda: calls.append(clock())  # noqa: E731
    loop = BackgroundLoop(recorder, [Scheduled(Probe("slow", lambda parts: poll, 15.0), poll)], clock=clock)
    start = clock()
    for _ in range(31):
        loop.turn()
        clock.advance(1)
    assert [0.0, 15.0, 30.0] == [call - start for call in calls]


def test_loop_leaves_the_random_numbers_of_the_script_alone(recorder: Recorder) -> None:
    """A seeded script gets the same numbers whether it is recorded or not."""
    random.seed(7)
    expected = [random.random() for _ in range(3)]
    random.seed(7)
    turns: list[int] = []
    poll = lambda: turns.append(1)  # noqa: E731
    loop = BackgroundLoop(recorder, [Scheduled(Probe("any", lambda parts: poll), poll)], interval=0.001)
    loop.start()
    wait_for(lambda: len(turns) > 20, what="turns")
    loop.stop()
    assert expected == [random.random() for _ in range(3)]
