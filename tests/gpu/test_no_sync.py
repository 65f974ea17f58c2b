"""On a real device: a watched training step has no synchronisation of ours, and its numbers arrive."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import trainbeacon
from tests.serving import wait_for
from trainbeacon.blackbox.directory import open_directory
from trainbeacon.blackbox.reader import Box, BoxDirectory

torch = pytest.importorskip("torch")

DEVICE = "cuda"
STEPS = 30
#: Clock cycles that keep any device busy for a tenth of a second or more.
LONG = 300_000_000

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no device that torch calls cuda"),
]


@pytest.fixture
def beacon(tmp_path: Path) -> Iterator[trainbeacon.Beacon]:
    """A beacon whose box lies in the test's folder and that nobody serves."""
    with trainbeacon.start(run="sync", directory=str(tmp_path), serve="off") as beacon:
        yield beacon


def box_of(directory: Path) -> Box:
    """What an exporter would see now."""
    descriptor = open_directory(str(directory))
    try:
        (box,) = BoxDirectory(descriptor).scan(ring=True)
        return box
    finally:
        os.close(descriptor)


@contextmanager
def no_synchronisation() -> Iterator[None]:
    """Whatever makes the host wait for the device raises, in every thread."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


class Training:
    """A small training on the device, its batches there beforehand."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        layers = torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Dropout(0.1), torch.nn.Linear(32, 1)
        self.model = torch.nn.Sequential(*layers).to(DEVICE)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        self.batches = [(torch.randn(64, 16).to(DEVICE), torch.randn(64, 1).to(DEVICE)) for _ in range(STEPS)]
        self.losses: list[Any] = []
        self.norms: list[Any] = []

    def run(self, beacon: trainbeacon.Beacon | None = None) -> None:
        batches: Any = self.batches if beacon is None else beacon.batches(self.batches)
        for inputs, targets in batches:
            loss = torch.nn.functional.mse_loss(self.model(inputs), targets)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 0.5)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.losses.append(loss.detach().clone())
            self.norms.append(norm.detach().clone())
            if beacon is not None:
                beacon.log(loss=loss, accuracy=(loss > 0).float().mean(), error=loss.detach().sqrt())

    def digest(self) -> str:
        digest = hashlib.sha256()
        for tensor in self.model.state_dict().values():
            digest.update(tensor.cpu().numpy().tobytes())
        return digest.hexdigest()


def test_the_debug_mode_catches_a_naive_logger() -> None:
    """The proof is none unless reading a loss at once raises."""
    loss = torch.ones((), device=DEVICE)
    with no_synchronisation(), pytest.raises(RuntimeError, match="synchroniz"):
        loss.item()


def test_a_watched_step_does_not_synchronise_and_its_numbers_arrive(
    beacon: trainbeacon.Beacon, tmp_path: Path
) -> None:
    """Thirty watched, clipped and logged steps raise nothing; two seconds later each is in the ring."""
    training = Training()
    beacon.watch(training.model, training.optimizer)
    training.run(beacon)  # what torch sets up at the first steps is torch's own
    training.losses.clear()
    training.norms.clear()
    with no_synchronisation():
        training.run(beacon)
    ended = time.monotonic()
    losses, norms = torch.stack(training.losses).tolist(), torch.stack(training.norms).tolist()

    def arrived() -> bool:
        newest = box_of(tmp_path).ring[-1]
        return newest.loss is not None and newest.gradient_norm is not None

    wait_for(arrived, what="the last step's loss and norm")
    assert time.monotonic() - ended < 2.0
    ring = box_of(tmp_path).ring[-STEPS:]
    assert [entry.loss for entry in ring] == losses
    assert [entry.gradient_norm for entry in ring] == norms
    assert beacon.recorder.deferred.unread == 0
    for where in ("value", "device", "hooks", "helper"):
        assert box_of(tmp_path).number("trainbeacon_errors_total", where) == 0.0


def test_sampled_norms_do_not_synchronise(beacon: trainbeacon.Beacon, tmp_path: Path) -> None:
    """Without clipping the norms of gradients, weights and updates are worked out and read without a wait."""
    training = Training()
    inputs, targets = training.batches[0]
    torch.nn.functional.mse_loss(training.model(inputs), targets).backward()
    gradients = [parameter.grad for parameter in training.model.parameters()]
    expected = float(torch.nn.utils.get_total_norm(gradients))
    beacon.watch(training.model, training.optimizer)
    with no_synchronisation():
        training.optimizer.step()
    wait_for(lambda: box_of(tmp_path).number("training_update_ratio") is not None, what="the sample")
    weights = float(torch.nn.utils.get_total_norm(list(training.model.parameters())).detach())
    assert box_of(tmp_path).number("training_gradient_norm") == pytest.approx(expected, rel=1e-5)
    assert box_of(tmp_path).number("training_parameter_norm") == pytest.approx(weights, rel=1e-5)


def test_a_number_is_that_of_the_moment_it_was_logged(beacon: trainbeacon.Beacon, tmp_path: Path) -> None:
    """Behind a long kernel on a stream of its own log() returns at once; an overwrite does not show."""
    beacon.log(loss=torch.ones((), device=DEVICE))  # gets the memory
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        loss = torch.full((), 0.625, device=DEVICE)
        torch.cuda._sleep(LONG)
        begun = time.monotonic()
        beacon.log(loss=loss)
        seconds = time.monotonic() - begun
        loss.zero_()
    still_busy = not stream.query()
    del loss
    beacon.timeline.end_step()
    assert still_busy
    assert seconds < 0.05
    stream.synchronize()
    wait_for(lambda: beacon.recorder.deferred.unread == 0, what="the number")
    beacon.timeline.end_step()
    assert box_of(tmp_path).number("training_loss", "train") == 0.625


@pytest.mark.parametrize(
    ("dtype", "number"),
    [("float64", 0.1), ("float32", 0.5), ("bfloat16", 3.0), ("float16", -2.0), ("int64", 2**40), ("bool", 1)],
)
def test_every_kind_of_number_arrives_to_the_bit(
    beacon: trainbeacon.Beacon, tmp_path: Path, dtype: str, number: float
) -> None:
    """Numbers of any type are copied as they are."""
    value = torch.tensor([number], device=DEVICE, dtype=getattr(torch, dtype))
    with no_synchronisation():
        beacon.log(some=value)
    wait_for(lambda: box_of(tmp_path).number("training_metric", "some", "train") is not None, what="it")
    assert box_of(tmp_path).number("training_metric", "some", "train") == float(number)


def test_the_scale_of_amp_is_read_without_a_wait(beacon: trainbeacon.Beacon, tmp_path: Path) -> None:
    """An overflow halves the scale and counts one skipped step, with no read of the scale on the host.

    The scaler's own `step` asks the device whether to skip, so it stays outside.
    """
    training = Training()
    scaler = torch.amp.GradScaler("cuda", init_scale=1024.0)
    beacon.watch(training.model, None, scaler=scaler)
    inputs, targets = training.batches[0]
    for factor in (1.0, float("inf"), 1.0):
        loss = torch.nn.functional.mse_loss(training.model(inputs), targets)
        scaler.scale(loss * factor).backward()
        scaler.unscale_(training.optimizer)
        with no_synchronisation():
            scaler.update()
        training.optimizer.zero_grad()
    wait_for(lambda: box_of(tmp_path).number("training_loss_scale") == 512.0, what="the scale")
    assert box_of(tmp_path).number("training_optimizer_steps_skipped_total") == 1.0


def test_weights_are_bit_identical_with_and_without(tmp_path: Path) -> None:
    """Watching, sampling and logging on the device change no bit of the training."""
    alone = Training(seed=3)
    alone.run()
    watched = Training(seed=3)
    with trainbeacon.start(run="bits", directory=str(tmp_path), serve="off") as beacon:
        beacon.watch(watched.model, watched.optimizer)
        watched.run(beacon)
    assert watched.digest() == alone.digest()
    assert torch.stack(watched.losses).tolist() == torch.stack(alone.losses).tolist()


def test_logging_inside_a_captured_graph_is_refused_and_harmless(
    beacon: trainbeacon.Beacon, tmp_path: Path
) -> None:
    """A CUDA graph is captured and replayed as if nothing had been logged; the number is counted as lost."""
    value = torch.zeros((), device=DEVICE)
    beacon.log(some=value)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value += 1.0
        beacon.log(some=value)
    graph.replay()
    graph.replay()
    wait_for(lambda: box_of(tmp_path).number("trainbeacon_errors_total", "device") == 1.0, what="the count")
    assert value.item() == 2.0
    assert box_of(tmp_path).number("training_metric", "some", "train") == 0.0


def test_a_graph_is_captured_while_the_helper_asks_for_numbers(
    beacon: trainbeacon.Beacon, tmp_path: Path
) -> None:
    """A captured graph is whole although another thread asks all the while after what the device owes."""
    late, over = beacon.recorder.deferred, threading.Event()
    value, one = torch.zeros((), device=DEVICE), torch.ones((), device=DEVICE)
    captured, other = torch.cuda.Stream(), torch.cuda.Stream()
    value += 0.0  # loads the kernel
    beacon.log(some=value)  # gets the memory
    torch.cuda.synchronize()

    def ask() -> None:
        while not over.is_set():
            late.poll()

    thread = threading.Thread(target=ask)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(other):
        torch.cuda._sleep(10 * LONG)
        beacon.log(some=one)
    thread.start()
    try:
        with torch.cuda.stream(captured):
            graph.capture_begin()
            for _ in range(1000):
                value += 1.0
            graph.capture_end()
        still_owed = not other.query()
    finally:
        over.set()
        thread.join()
    graph.replay()
    torch.cuda.synchronize()
    assert still_owed
    assert value.item() == 1000.0
    wait_for(lambda: box_of(tmp_path).number("training_metric", "some", "train") == 1.0, what="the number")
    assert box_of(tmp_path).number("trainbeacon_errors_total", "device") == 0.0


def test_the_last_loss_is_served_after_the_end(tmp_path: Path) -> None:
    """finish() waits for what the device still works at: the last loss is in the box."""
    with trainbeacon.start(run="end", directory=str(tmp_path), serve="off") as beacon:
        torch.cuda._sleep(LONG)
        beacon.log(loss=torch.full((), 0.125, device=DEVICE))
    assert box_of(tmp_path).number("training_loss", "train") == 0.125
