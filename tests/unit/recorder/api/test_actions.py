"""A run that acts on what is seen of it, with real small models of PyTorch."""

from __future__ import annotations

import gc
import math
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import trainbeacon
from tests.serving import wait_for
from trainbeacon import Event, TrainingStopped
from trainbeacon.recorder.api import actions as intervention
from trainbeacon.recorder.api import beacon as api
from trainbeacon.recorder.api.actions import KINDS

Start = Callable[..., trainbeacon.Beacon]
NAN = float("nan")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a beacon that nobody serves."""
    started: list[trainbeacon.Beacon] = []

    def begin(**settings: Any) -> trainbeacon.Beacon:
        own = {"run": "test", "directory": str(tmp_path), "serve": "off"}
        started.append(trainbeacon.start(**{**own, **settings}))
        return started[-1]

    yield begin
    for beacon in started:
        beacon.finish()


class Job:
    """A model that learns a line and whose loss turns bad at one step, in one of three ways of counting."""

    def __init__(self, beacon: trainbeacon.Beacon, way: str, bad_step: int = 0, bad: float = NAN) -> None:
        torch.manual_seed(0)
        self.beacon, self.way, self.bad_step, self.bad = beacon, way, bad_step, bad
        self.model = torch.nn.Linear(1, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.steps = 0
        if way == "hooks":
            beacon.watch(self.model, self.optimizer)

    def train(self, steps: int) -> None:
        batches = [torch.full((8, 1), 1.0 + 0.1 * (step % 3)) for step in range(steps)]
        for inputs in self.beacon.batches(batches) if self.way == "batches" else batches:
            if self.way == "step":
                with self.beacon.step():
                    self._step(inputs)
            else:
                self._step(inputs)

    def _step(self, inputs: torch.Tensor) -> None:
        self.steps += 1
        bad = self.steps == self.bad_step
        loss = torch.nn.functional.mse_loss(self.model(inputs), 2 * inputs)
        self.optimizer.zero_grad()
        self.beacon.log(loss=loss * self.bad if bad else loss)
        loss.backward()
        if self.way == "hooks":
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()


def steps_with(beacon: trainbeacon.Beacon, loss: float) -> None:
    for _ in range(10):
        with beacon.step():
            beacon.log(loss=loss)


@pytest.mark.parametrize("way", ["hooks", "batches", "step"])
def test_a_run_stops_itself_at_a_loss_that_is_no_number(start: Start, way: str) -> None:
    """With "stop" the loop ends in the very step whose loss was NaN, with an exception that says why."""
    beacon = start()
    beacon.on("nonfinite_loss", "stop")
    job = Job(beacon, way, bad_step=5)
    with pytest.raises(TrainingStopped, match="nonfinite_loss at step 5: nan") as caught:
        job.train(20)
    assert 5 == job.steps == beacon.timeline.step
    event = caught.value.event
    assert ("nonfinite_loss", 5, "train") == (event.kind, event.step, event.split)
    assert math.isnan(event.value)
    assert bool(torch.isfinite(job.model.weight).all())
    job.train(3)  # whoever catches it may go on: it was raised once
    assert 8 == job.steps


@pytest.mark.parametrize("way", ["hooks", "batches", "step"])
def test_a_run_lowers_its_learning_rate_at_a_spike(start: Start, way: str) -> None:
    """A callback acts in the training thread, once, and the next step is made with what it set."""
    beacon = start()
    job = Job(beacon, way, bad_step=40, bad=1e6)
    seen: list[tuple[Event, threading.Thread, int]] = []

    def calm(event: Event) -> None:
        seen.append((event, threading.current_thread(), job.steps))
        for group in job.optimizer.param_groups:
            group["lr"] *= 0.1

    beacon.on("loss_spike", calm)
    job.train(60)
    [(event, thread, steps)] = seen
    assert ("loss_spike", 40, 40) == (event.kind, event.step, steps)
    assert event.value > 0.1
    assert threading.main_thread() is thread
    assert 0.01 == pytest.approx(job.optimizer.param_groups[0]["lr"])
    if way == "hooks":
        at = beacon.recorder.at("training_learning_rate", "0")
        assert 0.01 == pytest.approx(beacon.recorder.writer.slots[at])


def test_gradients_that_are_no_numbers(start: Start) -> None:
    """The norm that clipping works out is listened to as well."""
    beacon = start()
    beacon.on("nonfinite_gradient", "stop")
    job = Job(beacon, "hooks")
    job.model.bias.register_hook(lambda gradient: gradient * NAN if job.steps == 3 else gradient)
    with pytest.raises(TrainingStopped) as caught:
        job.train(10)
    event = caught.value.event
    assert ("nonfinite_gradient", 3, "") == (event.kind, event.step, event.split)
    assert 3 == job.steps


def test_callback_that_raises_stops_nothing(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """Its exception is counted and logged, the next listener is called all the same, and training goes on."""
    beacon = start()
    heard: list[int] = []
    beacon.on("nonfinite_loss", lambda event: [][1])
    beacon.on("nonfinite_loss", lambda event: heard.append(event.step))
    Job(beacon, "batches", bad_step=2).train(5)
    assert [2] == heard
    assert 5 == beacon.timeline.step
    assert 1.0 == beacon.recorder.writer.slots[beacon.recorder.at("trainbeacon_errors_total", "hooks")]
    assert "list index out of range" in caplog.text


def test_callback_may_stop_the_run_itself(start: Start) -> None:
    """A callback that raises TrainingStopped after its third event ends the run."""
    beacon = start()
    heard: list[Event] = []

    def third(event: Event) -> None:
        heard.append(event)
        if len(heard) == 3:
            raise TrainingStopped(event)

    beacon.on("nonfinite_loss", third)
    with pytest.raises(TrainingStopped):
        steps_with(beacon, NAN)
    assert [1, 2, 3] == [event.step for event in heard]


def test_a_loop_that_skips_bad_batches_does_not_swallow_the_stop(start: Start) -> None:
    """`except Exception: continue` is no place for a stop to vanish in; the run counts as failed by it."""

    def careless(beacon: trainbeacon.Beacon) -> None:
        for _ in range(10):
            try:
                steps_with(beacon, NAN)
            except Exception:
                continue

    beacon = start()
    beacon.on("nonfinite_loss", "stop")
    with pytest.raises(TrainingStopped), beacon:
        careless(beacon)
    assert 1 == beacon.timeline.step


def test_a_stop_waits_where_nobody_could_catch_it(start: Start) -> None:
    """After `break` the loop is over: the stop comes with the next step, not out of a generator's end."""
    beacon = start()
    beacon.on("nonfinite_loss", "stop")
    for _ in beacon.batches([torch.zeros(1)] * 3):
        beacon.log(loss=NAN)
        break
    gc.collect()  # an exception in there would be an unraisable one
    assert 1 == beacon.timeline.step
    with pytest.raises(TrainingStopped, match="at step 1"):
        steps_with(beacon, 1.0)


@pytest.mark.parametrize(
    ("kind", "action", "text"),
    [
        ("nonfinite_los", "stop", "'nonfinite_loss'"),
        ("rank_lost", "stop", "is not known"),
        ("stalled", "halt", '"stop"'),
        ("stalled", None, '"stop"'),
    ],
)
def test_misuse_raises_at_the_desk(start: Start, kind: str, action: Any, text: str) -> None:
    """A name that is not known, or an action that is none, raises at once and names what may be meant."""
    with pytest.raises(ValueError, match=text):
        start().on(kind, action)


def test_misuse_after_the_first_step_does_not_raise(start: Start) -> None:
    """Nothing of ours ends a run that is on its way: it is counted."""
    beacon = start()
    with beacon.step():
        pass
    beacon.on("nonsense", "stop")
    assert 1.0 == beacon.recorder.writer.slots[beacon.recorder.at("trainbeacon_errors_total", "value")]


def test_a_stalled_run_calls_from_a_thread_of_its_own(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the training thread is stalled the callback runs elsewhere, once; the stop waits."""
    monkeypatch.setattr(api, "BackgroundLoop", partial(api.BackgroundLoop, interval=0.02))
    beacon = start(thresholds={"stall_seconds": 0.3})
    heard: list[tuple[Event, str]] = []
    beacon.on("stalled", lambda event: heard.append((event, threading.current_thread().name)))
    beacon.on("stalled", "stop")
    with beacon.step():
        pass

    def stuck() -> None:
        with beacon.step():
            wait_for(lambda: heard, what="callback")
            time.sleep(0.3)  # a second one would have come

    with pytest.raises(TrainingStopped, match="stalled at step 1"):
        stuck()
    [(event, thread)] = heard
    assert ("stalled", 1, "trainbeacon-stalled") == (event.kind, event.step, thread)
    assert 0.3 <= event.value


def test_evaluation_is_no_stall(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Phases that make no steps for good reason have ten times as long."""
    ahead = 0.0
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + ahead)
    monkeypatch.setattr(intervention, "time", clock)
    beacon = start(thresholds={"stall_seconds": 1000}, probes_off=["evidence"])
    heard: list[Event] = []
    beacon.on("stalled", heard.append)
    with beacon.step():
        pass
    assert beacon._interventions is not None
    with beacon.evaluate():
        ahead = 5000.0
        beacon._interventions.poll()
        assert [] == heard
    ahead = 7000.0
    beacon._interventions.poll()
    wait_for(lambda: heard, what="stall")


def test_nobody_listens_nothing_is_kept(start: Start) -> None:
    """Without `on` there is nothing to call at a step's end; a beacon that is off ignores it."""
    beacon = start()
    assert (None, None) == (beacon.timeline.after_step, beacon.recorder.listener)
    silent = start(enabled=False)
    silent.on("nonfinite_loss", "stop")
    with silent.step():
        silent.log(loss=NAN)
    assert set(KINDS) == {"nonfinite_loss", "nonfinite_gradient", "loss_spike", "stalled"}
    assert intervention.TrainingStopped is trainbeacon.TrainingStopped
