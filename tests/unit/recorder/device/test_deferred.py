"""Numbers that are on a device: training never waits for them, and each is seen, in order, at its step."""

from __future__ import annotations

import math
import os
import threading
import time
import types
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies

import trainbeacon
from tests.serving import wait_for
from trainbeacon.blackbox.directory import open_directory
from trainbeacon.blackbox.reader import Box, BoxDirectory

torch = pytest.importorskip("torch")

from tests.device import Accelerator, Waits, device_tensor  # noqa: E402 - both need torch
from trainbeacon.recorder.api import beacon as api  # noqa: E402
from trainbeacon.recorder.device import deferred as scalars  # noqa: E402
from trainbeacon.recorder.device.deferred import DeferredScalars  # noqa: E402

NAN = float("nan")


class Rank:
    """A recording process whose numbers come from a stand-in for a device."""

    def __init__(self, directory: Path, accelerator: Accelerator) -> None:
        self.directory = directory
        self.device = accelerator
        self.beacon = trainbeacon.start(run="device", directory=str(directory), serve="off")
        self.deferred = self.beacon.recorder.deferred
        self.deferred._copier = accelerator

    def box(self) -> Box:
        """What an exporter would see now."""
        descriptor = open_directory(str(self.directory))
        try:
            (box,) = BoxDirectory(descriptor).scan(ring=True)
            return box
        finally:
            os.close(descriptor)

    def number(self, metric: str, *labels: str) -> float | None:
        return self.box().number(metric, *labels)

    @property
    def lost(self) -> float | None:
        return self.number("trainbeacon_errors_total", "device")

    def read(self, count: float = math.inf) -> None:
        """The device hands over numbers, the helper reads them, training goes on to its next phase."""
        self.device.arrive(count)
        self.deferred.poll()
        self.beacon.recorder.writer.commit()

    def end_step(self) -> None:
        self.beacon.timeline.end_step()


@pytest.fixture
def rank(tmp_path: Path) -> Iterator[Rank]:
    """A rank whose device hands over nothing until told."""
    rank = Rank(tmp_path, Accelerator())
    yield rank
    rank.device.arrive()
    rank.beacon.finish()


class Model(torch.nn.Module):
    """Weights on the device, with gradients as a backward pass would leave them."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(device_tensor([3.0, 4.0]), requires_grad=False)
        self.bias = torch.nn.Parameter(device_tensor([0.0]), requires_grad=False)
        self.weight.grad = device_tensor([6.0, 8.0])
        self.bias.grad = device_tensor([0.0])


class Scaler:
    """An AMP scaler whose scale is on the device; to get it as a number is to wait."""

    def __init__(self, scale: float) -> None:
        self._scale = device_tensor(scale)
        self.factor = 1.0

    def get_scale(self) -> float:
        return float(self._scale.item())

    def update(self) -> None:
        self._scale *= self.factor


@pytest.fixture
def named_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's answer about the GPU, which is not here."""
    gpu = types.SimpleNamespace(uuid="1-2", name="NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: gpu)


# No wait


def test_a_watched_step_never_waits_for_the_device(rank: Rank, named_gpu: None) -> None:
    """Clipping, norms, scaler, learning rate and log read nothing from the device, and all is served."""
    model, scaler = Model(), Scaler(1024.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    rank.beacon.watch(model, optimizer, scaler=scaler)
    with Waits() as waits:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        rank.beacon.log(loss=device_tensor(0.25), accuracy=device_tensor(0.75), f1=device_tensor([0.5]))
        rank.beacon.log(learning_rate=device_tensor(0.25), epoch=device_tensor(3, torch.int64))
        scaler.update()
        with rank.beacon.evaluate():
            rank.beacon.log(loss=device_tensor(2.0))
    assert waits.seen == []
    rank.read()
    box = rank.box()
    assert (box.number("training_loss", "train"), box.number("training_loss", "validation")) == (0.25, 2.0)
    assert (box.number("training_accuracy_ratio", "train"), box.number("training_epoch")) == (0.75, 3.0)
    assert box.number("training_metric", "f1", "train") == 0.5
    assert box.number("training_gradient_norm") == 10.0
    assert box.number("training_gradient_clipped_total") == 1.0
    assert box.number("training_learning_rate", "0") == 0.25
    assert box.number("training_loss_scale") == 1024.0
    assert box.number("training_evaluations_since_best", "validation") == 0.0
    assert box.number("training_parameter_norm") == pytest.approx(math.hypot(1.5, 2.0), rel=1e-5)
    assert box.number("training_update_ratio") == pytest.approx(0.5, rel=1e-5)
    places = ("value", "device", "hooks", "helper")
    assert [box.number("trainbeacon_errors_total", where) for where in places] == [0.0] * 4


def test_without_clipping_the_sampled_norm_takes_the_same_way(rank: Rank, named_gpu: None) -> None:
    """The norm of the gradients themselves is worked out on the device and read later, for its step."""
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    rank.beacon.watch(model, optimizer)
    with Waits() as waits:
        optimizer.step()
    assert waits.seen == []
    rank.read()
    assert rank.number("training_gradient_norm") == 10.0
    assert [entry.gradient_norm for entry in rank.box().ring] == [10.0]


def test_a_wait_would_be_seen() -> None:
    """The proof is none unless a logger that reads its tensors is caught at each of them."""
    loss = device_tensor(0.5)
    with Waits() as waits:
        assert loss.item() == 0.5
        assert float(loss.cpu()) == 0.5
        repr(loss)
        torch.zeros(()).copy_(loss)
    assert [name.split(".")[1] for name in waits.seen] == ["_local_scalar_dense", *["_to_copy"] * 2, "copy_"]


def test_host_numbers_need_no_device(tmp_path: Path) -> None:
    """CPU tensors and plain numbers are served at once, and nothing of CUDA is set up for them."""
    with trainbeacon.start(run="cpu", directory=str(tmp_path), serve="off") as beacon:
        beacon.log(loss=torch.tensor(0.5), accuracy=torch.tensor(0.25), f1=1, epoch=2)
        late = beacon.recorder.deferred
        assert (late.used, late._copier, late.unread) == (False, None, 0)
        assert not torch.cuda.is_initialized()


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"loss": device_tensor([1.0, 2.0])}, "loss has 2 elements"),
        ({"f1": device_tensor(1.0, torch.complex64)}, "f1 must be a number.* not complex"),
        ({"step": device_tensor(3)}, "step is a tensor on a device.*give an int"),
    ],
)
def test_misuse_is_said_at_once_and_without_a_wait(rank: Rank, values: dict[str, Any], text: str) -> None:
    """What cannot be one number raises at call time as for a CPU tensor, and the message reads no device."""
    with Waits() as waits, pytest.raises(TypeError, match=text):
        rank.beacon.log(**values)
    assert waits.seen == []
    assert rank.device.copies == []


def test_a_distributed_tensor_on_a_device_is_not_read(rank: Rank) -> None:
    """Its number would take a collective: the error says what to log instead."""
    loss = device_tensor(1.0)
    loss.full_tensor = lambda: None  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match=r"log loss\.full_tensor\(\)"):
        rank.beacon.log(loss=loss)


def test_a_learning_rate_on_the_device_is_read_later(rank: Rank) -> None:
    """An optimizer that keeps its rates in tensors: the hook does not read them at the step."""

    class Idle(torch.optim.Optimizer):
        def step(self, closure: Any = None) -> None:
            pass

    groups = [{"params": [parameter]} for parameter in Model().parameters()]
    optimizer = Idle(groups, {"lr": device_tensor(0.125)})
    rank.beacon.watch(None, optimizer)
    with Waits() as waits:
        optimizer.step()
    assert waits.seen == []
    rank.read()
    assert [rank.number("training_learning_rate", group) for group in "01"] == [0.125, 0.125]


# Late, at its step, in order


def test_a_number_is_served_once_the_device_has_it(rank: Rank) -> None:
    """Before that the series does not exist: no zero, no old value in its place."""
    rank.beacon.log(loss=device_tensor(0.5), accuracy=device_tensor(0.25))
    rank.read(0)
    assert (rank.number("training_loss", "train"), rank.number("training_accuracy_ratio", "train")) == (
        None,
    ) * 2
    rank.read()
    assert (rank.number("training_loss", "train"), rank.number("training_accuracy_ratio", "train")) == (
        0.5,
        0.25,
    )


@pytest.mark.parametrize("logged", ["before its step ends", "after its step has ended"])
def test_late_numbers_belong_to_their_own_step(rank: Rank, logged: str) -> None:
    """Losses and norms that arrive three steps later stand in the ring at the steps they were logged for."""
    for step in range(1, 7):
        rank.beacon.log(gradient_norm=device_tensor(float(step * 10)))
        if logged == "before its step ends":
            rank.beacon.log(loss=device_tensor(float(step)))
            rank.end_step()
        else:
            rank.end_step()
            rank.beacon.log(loss=device_tensor(float(step)))
        if step > 3:
            rank.read(2)
    rank.read()
    rows = [(entry.step, entry.loss, entry.gradient_norm) for entry in rank.box().ring]
    assert rows == [(step, float(step), float(step * 10)) for step in range(1, 7)]


def test_a_number_that_is_there_before_its_step_ends_waits_for_the_ring(rank: Rank) -> None:
    """A norm read during a long step is served at once, and is in the ring when the step is."""
    rank.beacon.log(gradient_norm=device_tensor(2.0))
    rank.read()
    assert rank.number("training_gradient_norm") == 2.0
    rank.end_step()
    rank.deferred.poll()
    assert [entry.gradient_norm for entry in rank.box().ring] == [2.0]


def test_series_do_not_wait_for_each_other_but_each_keeps_its_order(rank: Rank) -> None:
    """Numbers of another stream may come first; within a series a later one never comes before an earlier."""
    rank.beacon.log(loss=device_tensor(1.0))
    rank.beacon.log(loss=device_tensor(2.0))
    rank.beacon.log(accuracy=device_tensor(0.5))
    loss_1, loss_2, accuracy = rank.device.copies
    loss_2.arrived = accuracy.arrived = True
    rank.read(0)
    assert (rank.number("training_loss", "train"), rank.number("training_accuracy_ratio", "train")) == (
        None,
        0.5,
    )
    loss_1.arrived = True
    rank.read(0)
    assert rank.number("training_loss", "train") == 2.0


def test_a_nan_between_two_looks_is_counted(rank: Rank) -> None:
    """A loss and a norm that were NaN for one step are counted though the gauges are well again."""
    for number in (1.0, NAN, math.inf, 1.0):
        rank.beacon.log(loss=device_tensor(number), gradient_norm=device_tensor(number))
        rank.end_step()
    rank.read()
    assert rank.number("training_loss_nonfinite_total") == 2.0
    assert rank.number("training_gradient_nonfinite_total") == 2.0
    assert rank.number("training_loss", "train") == 1.0


def test_a_plain_number_waits_behind_those_of_the_device(rank: Rank) -> None:
    """A script that logs both kinds under one name has them judged and served in the order it logged them."""
    for step in range(40):
        rank.beacon.log(loss=device_tensor(1.0 + step % 3 / 100))
    rank.beacon.log(loss=50.0, f1=device_tensor(0.1))
    rank.beacon.log(f1=0.9, gradient_norm=device_tensor(1.0))
    rank.beacon.log(gradient_norm=3.0)
    assert rank.number("training_loss", "train") is None
    rank.end_step()
    rank.read()
    assert (rank.number("training_loss", "train"), rank.number("training_loss_spikes_total")) == (50.0, 1.0)
    assert rank.number("training_metric", "f1", "train") == 0.9
    assert [(entry.loss, entry.gradient_norm) for entry in rank.box().ring] == [(50.0, 3.0)]
    rank.beacon.log(loss=2.0, f1=0.8, gradient_norm=4.0)
    assert (rank.number("training_loss", "train"), rank.number("training_gradient_norm")) == (2.0, 4.0)
    assert rank.number("training_metric", "f1", "train") == 0.8


def test_evaluations_are_judged_when_their_loss_is_known(rank: Rank) -> None:
    """Whether an evaluation was the best is decided by its own last loss, in the order of the evaluations."""
    for loss in (3.0, 2.0, 2.5, 2.25):
        with rank.beacon.evaluate():
            rank.beacon.log(loss=device_tensor(9.0))
            rank.beacon.log(loss=device_tensor(loss))
    assert rank.number("training_evaluations_since_best", "validation") is None
    rank.read()
    assert rank.number("training_evaluations_since_best", "validation") == 2.0


def test_an_accuracy_that_is_no_ratio_is_counted_and_left_out(rank: Rank) -> None:
    """A percentage on the device cannot raise at call time: it is counted, and the last ratio stays."""
    for number in (0.5, 97.0):
        rank.beacon.log(accuracy=device_tensor(number))
    rank.read()
    assert (rank.number("training_accuracy_ratio", "train"), rank.lost) == (0.5, 1.0)


def test_the_scaler_is_followed_from_update_to_update(rank: Rank) -> None:
    """A step that AMP left out halves the scale: counted once, however late and many scales are read."""
    scaler = Scaler(1024.0)
    rank.beacon.watch(None, None, scaler=scaler)
    with Waits() as waits:
        for factor in (1.0, 0.5, 2.0, 1.0, 0.5):
            scaler.factor = factor
            scaler.update()
    assert waits.seen == []
    rank.read()
    assert rank.number("training_optimizer_steps_skipped_total") == 2.0
    assert rank.number("training_loss_scale") == 512.0


# Hangs, losses, the end


def test_a_nan_before_a_hang_is_seen_while_training_stands_still(rank: Rank) -> None:
    """The background loop counts it; a number that never comes holds up nobody else's."""
    rank.beacon.log(loss=device_tensor(NAN), accuracy=device_tensor(0.5))
    never = rank.device.copies[1]
    rank.device.copies[0].arrived = True
    # This thread trains, and calls nothing.
    wait_for(lambda: rank.number("training_loss_nonfinite_total") == 1.0, what="count")
    assert not never.arrived
    assert rank.number("training_accuracy_ratio", "train") is None


def test_what_has_no_room_is_left_out_and_counted(tmp_path: Path) -> None:
    """A device that is far behind costs bounded memory; each number that is not read is counted."""
    rank = Rank(tmp_path, Accelerator(room=4))
    for number in range(10):
        rank.beacon.log(loss=device_tensor(float(number)))
    assert (len(rank.device.copies), rank.deferred.unread) == (4, 4)
    rank.read()
    assert (rank.number("training_loss", "train"), rank.lost) == (3.0, 6.0)
    rank.beacon.log(loss=device_tensor(10.0))
    rank.read()
    assert (rank.number("training_loss", "train"), rank.lost) == (10.0, 6.0)
    rank.beacon.finish()


def test_plain_numbers_behind_a_hung_device_are_bounded_too(
    rank: Rank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script that goes on logging plain numbers behind one that never comes does not grow."""
    monkeypatch.setattr(scalars, "MOST_WAITING", 10)
    rank.beacon.log(loss=device_tensor(1.0))
    for _ in range(50):
        rank.beacon.log(loss=0.5)
    assert rank.deferred.unread == 10
    rank.deferred.poll()
    assert rank.lost == 41.0


def test_a_device_that_fails_loses_its_number_only(rank: Rank) -> None:
    """An error of the device about one number is counted; the next one is read."""
    rank.beacon.log(loss=device_tensor(1.0))
    rank.beacon.log(loss=device_tensor(2.0))
    rank.device.copies[0].failure = RuntimeError("CUDA error: an illegal memory access was encountered")
    rank.read()
    assert (rank.number("training_loss", "train"), rank.lost) == (2.0, 1.0)


def test_many_waiting_numbers_call_the_helper(rank: Rank) -> None:
    """Fast loops are read before the background loop's next turn, so that their numbers find room."""
    calls: list[int] = []
    rank.deferred.wake = lambda: calls.append(rank.deferred.unread)
    for _ in range(3 * scalars.WAKE_EVERY):
        rank.beacon.log(loss=device_tensor(1.0))
    assert calls == [scalars.WAKE_EVERY * turn for turn in (1, 2, 3)]


def test_the_background_loop_comes_when_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call has the numbers read, however far off its next turn is."""
    monkeypatch.setattr(api, "BackgroundLoop", partial(api.BackgroundLoop, interval=3600.0))
    rank = Rank(tmp_path, Accelerator(delayed=False))
    wait_for(
        lambda: rank.number("training_heartbeat_timestamp_seconds"),
        what="the first turn, which comes at once",
    )
    for _ in range(scalars.WAKE_EVERY):
        rank.beacon.log(loss=device_tensor(1.0))
    wait_for(lambda: not rank.deferred.unread, what="reading")
    rank.beacon.finish()


def test_the_last_loss_is_served_after_the_end(tmp_path: Path) -> None:
    """The end of a run waits for numbers under way: the last loss is in the box and in the ring."""
    rank = Rank(tmp_path, Accelerator())
    rank.beacon.log(loss=device_tensor(0.125))
    rank.end_step()
    (copy,) = rank.device.copies
    looks = iter(range(5))
    copy.ready = lambda: next(looks, None) is None and bool(rank.device.arrive() or copy.arrived)
    rank.beacon.finish()
    assert (rank.number("training_loss", "train"), rank.lost) == (0.125, 0.0)
    assert [entry.loss for entry in rank.box().ring] == [0.125]
    assert rank.box().state == "finished"


def test_the_end_waits_a_second_for_a_hung_device(tmp_path: Path) -> None:
    """What has not come by then is counted as lost, and the run is over all the same."""
    rank = Rank(tmp_path, Accelerator())
    rank.beacon.log(loss=device_tensor(0.5), accuracy=device_tensor(0.5))
    begun = time.monotonic()
    rank.beacon.finish()
    assert 1.0 <= time.monotonic() - begun
    assert (rank.number("training_loss", "train"), rank.lost, rank.box().state) == (None, 2.0, "finished")
    rank.beacon.log(loss=device_tensor(0.5))
    assert len(rank.device.copies) == 2


def test_a_forked_child_leaves_the_numbers_to_the_parent(rank: Rank) -> None:
    """A loader's worker that logs starts no copy, and the parent's numbers are read once, by the parent."""
    rank.beacon.log(loss=device_tensor(0.5))
    child = os.fork()
    if child == 0:
        rank.beacon.log(loss=device_tensor(9.0))
        rank.deferred.read("train", device_tensor(9.0), lambda _: None)
        rank.beacon.finish()
        os._exit(10 * rank.deferred.unread + len(rank.device.copies))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    rank.read()
    assert rank.number("training_loss", "train") == 0.5


def test_counts_are_exact_while_two_threads_share_the_work() -> None:
    """Plain and device numbers against a reader that never rests: none is lost, doubled or overtaken."""
    seen: list[float] = []
    lost: list[BaseException] = []
    late = DeferredScalars(lost.append, Accelerator(delayed=False))
    over = threading.Event()

    def helper() -> None:
        while not over.is_set():
            late.poll()

    thread = threading.Thread(target=helper)
    thread.start()
    count = 1500
    for number in range(count):
        if number % 3 == 0:
            late.read("loss", device_tensor(float(number)), seen.append)
        elif late.waits("loss"):
            late.read("loss", float(number), seen.append)
        else:
            seen.append(float(number))
    late.drain(5.0)
    over.set()
    thread.join()
    assert seen == [float(number) for number in range(count)]
    assert lost == []


class AnyOrder:
    """Whatever is logged, arrives and is read in whatever order."""

    SERIES = ("loss", "accuracy")

    def __init__(self) -> None:
        self.device = Accelerator(room=6)
        self.lost: list[BaseException] = []
        self.deferred = DeferredScalars(self.lost.append, self.device)
        self.logged: dict[str, list[float]] = {name: [] for name in self.SERIES}
        self.seen: dict[str, list[float]] = {name: [] for name in self.SERIES}
        self.count = 0

    def log(self, series: str, *, on_device: bool) -> None:
        """What a recorder does with a number, or a number that finds no room."""
        number, self.count = float(self.count), self.count + 1
        refused = self.deferred._refused
        if on_device or self.deferred.waits(series):
            self.deferred.read(
                series, device_tensor(number) if on_device else number, self.seen[series].append
            )
        else:
            self.seen[series].append(number)
        if self.deferred._refused == refused:
            self.logged[series].append(number)

    def arrive(self, place: int) -> None:
        """One of those under way arrives."""
        waiting = [copy for copy in self.device.copies if not copy.arrived]
        if waiting:
            waiting[place % len(waiting)].arrived = True


@given(data=strategies.data())
def test_every_number_is_applied_once_and_in_order(data: strategies.DataObject) -> None:
    """Whatever is logged and arrives in whatever order: a series is a prefix of what was logged."""
    run = AnyOrder()
    for _ in range(data.draw(strategies.integers(0, 40))):
        act = data.draw(strategies.sampled_from(["device", "device", "plain", "arrive", "arrive", "poll"]))
        if act == "poll":
            run.deferred.poll()
        elif act == "arrive":
            run.arrive(data.draw(strategies.integers(0, 10)))
        else:
            run.log(data.draw(strategies.sampled_from(run.SERIES)), on_device=act == "device")
        for name in run.SERIES:
            assert run.seen[name] == run.logged[name][: len(run.seen[name])]
    run.device.arrive()
    run.deferred.drain(0.0)
    assert run.seen == run.logged
    assert len(run.lost) == run.count - sum(len(numbers) for numbers in run.logged.values())
    assert run.device.under_way == 0
