"""The truth table: scripts whose steps, samples, norms and times are measured beside the recording."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import trainbeacon
from trainbeacon.blackbox.reader import Box

torch = pytest.importorskip("torch")

from tests.contract.truth.job import STEPS, Job  # noqa: E402

Beacon = trainbeacon.Beacon


def _hooks_and_step_and_log(beacon: Beacon) -> None:
    job = Job()
    beacon.watch(job.model, job.optimizer)
    for number in range(1, STEPS + 1):
        with beacon.step():
            beacon.log(loss=job.iterate(), step=number)


def _step_around_the_backward_pass_only(beacon: Beacon) -> None:
    job = Job()
    beacon.watch(job.model, job.optimizer)
    for _ in range(STEPS):
        with beacon.step():
            job.backward()
        job.update()


def _everything_in_batches(beacon: Beacon) -> None:
    job = Job()
    beacon.watch(job.model, job.optimizer)
    for number, _ in enumerate(beacon.batches([torch.zeros(4, 8)] * STEPS), start=1):
        with beacon.step():
            beacon.log(loss=job.iterate(), step=number)


def _batches_and_log(beacon: Beacon) -> None:
    for number, _ in enumerate(beacon.batches([torch.zeros(4, 8)] * STEPS)):
        beacon.log(loss=1.0, step=number)


def _log_from_zero(beacon: Beacon) -> None:
    for number in range(STEPS):
        beacon.log(loss=1.0, step=number)


def _log_of_two_axes(beacon: Beacon) -> None:
    for number in range(1, STEPS + 1):
        beacon.log(loss=1.0, step=number)
        if number % 2 == 0:
            beacon.log(accuracy=0.5, step=number // 2)


def _log_that_begins_anew_each_epoch(beacon: Beacon) -> None:
    for _ in range(STEPS // 2):
        for number in range(2):
            beacon.log(loss=1.0, step=number)


def _log_goes_back_to_a_checkpoint(beacon: Beacon) -> None:
    for number in (1, 2, 3, 4, 3, 4):
        beacon.log(loss=1.0, step=number)


def _log_of_every_second_step(beacon: Beacon) -> None:
    for number in range(2, STEPS + 1, 2):
        beacon.log(loss=1.0, step=number)


def _watch_twice_and_a_second_optimizer(beacon: Beacon) -> None:
    job, other = Job(), Job()
    for _ in range(2):
        beacon.watch(job.model, job.optimizer)
    beacon.watch(other.model, other.optimizer)
    for _ in range(STEPS):
        job.iterate()
        other.iterate()


def _watch_that_fails_and_log(beacon: Beacon) -> None:
    beacon.watch(object(), object())
    for number in range(1, STEPS + 1):
        beacon.log(loss=1.0, step=number)


def _closure(beacon: Beacon) -> None:
    job = Job()
    beacon.watch(job.model, job.optimizer)
    for _ in range(STEPS):
        job.optimizer.step(job.backward)


def _accumulation(beacon: Beacon) -> None:
    job = Job()
    beacon.watch(job.model, job.optimizer)
    for number, _ in enumerate(beacon.batches([torch.zeros(4, 8)] * (2 * STEPS))):
        job.backward()
        if number % 2:
            job.update()


def _zipped_loaders(beacon: Beacon) -> None:
    for _ in zip(beacon.batches([1] * STEPS), beacon.batches([2] * STEPS), strict=True):
        beacon.log(loss=1.0)


def _a_look_at_the_first_batch(beacon: Beacon) -> None:
    loader = beacon.batches([torch.zeros(4, 8)] * STEPS)
    next(iter(loader))
    for _ in loader:
        pass


def _validation_outside_of_evaluate(beacon: Beacon) -> None:
    for _ in beacon.batches([torch.zeros(4, 8)] * STEPS):
        pass
    with torch.no_grad():
        for _ in beacon.batches([torch.zeros(4, 8)] * 3):
            pass


def _a_batch_that_fails_and_is_tried_again(beacon: Beacon) -> None:
    for number in range(2):
        try:
            for _ in beacon.batches([torch.zeros(4, 8)] * STEPS):
                if not number:
                    raise MemoryError
        except MemoryError:
            continue


def _zero(beacon: Beacon) -> None:
    from torch.distributed import HashStore, destroy_process_group, init_process_group
    from torch.distributed.optim import ZeroRedundancyOptimizer

    init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        job = Job()
        job.optimizer = ZeroRedundancyOptimizer(job.model.parameters(), torch.optim.SGD, lr=0.1)
        beacon.watch(job.model, job.optimizer)
        for _ in range(STEPS):
            job.iterate()
    finally:
        destroy_process_group()


def _skipped_by_the_scaler(beacon: Beacon) -> None:
    job = Job()
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    beacon.watch(job.model, job.optimizer, scaler=scaler)
    for number, _ in enumerate(beacon.batches([torch.zeros(4, 8)] * (STEPS + 2))):
        loss = job.model(torch.randn(4, 8)).square().mean()
        scaler.scale(loss * float("inf") if number in (1, 3) else loss).backward()
        scaler.step(job.optimizer)
        scaler.update()
        job.optimizer.zero_grad()


@pytest.mark.parametrize(
    "script",
    [
        _hooks_and_step_and_log,
        _step_around_the_backward_pass_only,
        _everything_in_batches,
        _batches_and_log,
        _log_from_zero,
        _log_of_two_axes,
        _log_that_begins_anew_each_epoch,
        _log_goes_back_to_a_checkpoint,
        _log_of_every_second_step,
        _watch_twice_and_a_second_optimizer,
        _watch_that_fails_and_log,
        _closure,
        _accumulation,
        _zipped_loaders,
        _a_look_at_the_first_batch,
        _validation_outside_of_evaluate,
        _a_batch_that_fails_and_is_tried_again,
        pytest.param(_zero, marks=pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")),
        _skipped_by_the_scaler,
    ],
)
def test_steps(script: Callable[[Beacon], None], beacon: Beacon, box: Callable[[], Box]) -> None:
    """A step is counted once, whichever ways report it, and nothing else is one."""
    script(beacon)
    assert float(STEPS) == box().number("training_steps_total")


@pytest.mark.filterwarnings("ignore")  # of the compiler
def test_steps_of_a_compiled_optimizer(beacon: Beacon, box: Callable[[], Box]) -> None:
    """No hook of it is called: its steps are seen by the weights as the next backward pass begins."""
    job = Job()
    beacon.watch(job.model, job.optimizer)
    update = torch.compile(job.optimizer.step, backend="eager")
    for number in range(STEPS):
        job.backward()
        update()
        job.optimizer.zero_grad()
        assert max(0.0, number - 1.0) <= (box().number("training_steps_total") or 0.0)
    beacon.finish()
    assert float(STEPS) == box().number("training_steps_total")


def _hooks_and_log_of_two_axes(beacon: Beacon) -> None:
    job = Job()
    beacon.watch(job.model, job.optimizer)
    for number in range(1, STEPS + 1):
        beacon.log(loss=job.iterate(), step=number)
        beacon.log(accuracy=0.5, step=number // 2)


@pytest.mark.parametrize(
    "script", [_hooks_and_step_and_log, _hooks_and_log_of_two_axes, _log_of_two_axes, _everything_in_batches]
)
def test_number_of_the_last_step(
    script: Callable[[Beacon], None], beacon: Beacon, box: Callable[[], Box]
) -> None:
    """The number that the script logs within a step is that step's."""
    script(beacon)
    assert float(STEPS) == box().number("training_step")


@pytest.mark.parametrize(
    "script",
    [_a_look_at_the_first_batch, _validation_outside_of_evaluate, _a_batch_that_fails_and_is_tried_again],
)
def test_samples(script: Callable[[Beacon], None], beacon: Beacon, box: Callable[[], Box]) -> None:
    """Only what was trained on is counted."""
    script(beacon)
    assert 4.0 * STEPS == box().number("training_samples_total")


def _clip_in_two_calls(job: Job) -> None:
    for part in job.model:
        torch.nn.utils.clip_grad_norm_(part.parameters(), 0.01)


def _clip_with_a_norm(job: Job) -> None:
    gradients = [parameter.grad for parameter in job.model.parameters()]
    torch.nn.utils.clip_grads_with_norm_(
        job.model.parameters(), 0.01, torch.nn.utils.get_total_norm(gradients)
    )


def _clip_values(job: Job) -> None:
    torch.nn.utils.clip_grad_value_(job.model.parameters(), 0.001)


def _clip_in_one_call(job: Job) -> None:
    torch.nn.utils.clip_grad_norm_(job.model.parameters(), 0.01)


@pytest.mark.parametrize("closure", [False, True], ids=["plain", "closure"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "clip", [_clip_in_one_call, _clip_in_two_calls, _clip_with_a_norm, _clip_values, lambda job: None]
)
def test_gradient_norm(
    clip: Callable[[Job], None], dtype: Any, closure: bool, beacon: Beacon, box: Callable[[], Box]
) -> None:
    """It is that of the step, before clipping, joint over all parameters, in a closure too."""
    job = Job(dtype)
    beacon.watch(job.model, job.optimizer)

    def compute() -> Any:
        loss = job.backward()
        job.take_norm()
        clip(job)
        return loss

    if closure:
        job.optimizer.step(compute)
    else:
        compute()
        job.optimizer.step()
    assert pytest.approx(job.norms[0], rel=1e-5) == box().number("training_gradient_norm")
    assert 1.0 == box().number("training_gradient_norm_step")
    assert 0.0 == box().number("trainbeacon_errors_total", "hooks")


def _scale_in_place(job: Job) -> None:
    for parameter in job.model.parameters():
        parameter.grad.mul_(0.01)


def _put_others_in_their_place(job: Job) -> None:
    for parameter in job.model.parameters():
        parameter.grad = parameter.grad * 0.01


@pytest.mark.parametrize("clip", [_scale_in_place, _put_others_in_their_place])
def test_norm_that_cannot_be_known(
    clip: Callable[[Job], None], beacon: Beacon, box: Callable[[], Box]
) -> None:
    """A script that clips by code of its own is served no norm: that after clipping is none."""
    job = Job()
    beacon.watch(job.model, job.optimizer)
    job.backward()
    clip(job)
    job.update()
    assert 1.0 == box().number("training_steps_total")
    assert box().number("training_gradient_norm") is None


def test_steps_that_were_clipped(beacon: Beacon, box: Callable[[], Box]) -> None:
    """Two calls for two parts of a model clip one step."""
    job = Job()
    beacon.watch(job.model, job.optimizer)
    for _ in range(STEPS):
        job.backward()
        _clip_in_two_calls(job)
        job.update()
    assert float(STEPS) == box().number("training_gradient_clipped_total")


def test_durations_hold_no_pause_and_no_start(beacon: Beacon, box: Callable[[], Box]) -> None:
    """An evaluation before the first step, one between two, and a slow start are in no step's duration."""
    time.sleep(0.3)
    with beacon.evaluate():
        time.sleep(0.3)
    begun = time.monotonic()
    pauses = 0.0
    for number in range(4):
        with beacon.step():
            time.sleep(0.02)
        if number == 2:
            paused = time.monotonic()
            with beacon.evaluate():
                time.sleep(0.3)
            pauses = time.monotonic() - paused
    spent = time.monotonic() - begun - pauses
    assert pytest.approx(spent, abs=0.1) == box().number("training_step_duration_seconds", "sum")


def test_phases_of_another_thread_are_not_the_training_threads(
    beacon: Beacon, box: Callable[[], Box], tmp_path: Path
) -> None:
    """What a thread beside saves and evaluates changes neither phase, blocked time, nor what is logged."""
    inside, over = threading.Event(), threading.Event()

    def beside() -> None:
        with beacon.evaluate(), beacon.phase("checkpoint"), beacon.checkpoint(tmp_path / "c"):
            beacon.log(loss=2.0)
            inside.set()
            over.wait(20)

    thread = threading.Thread(target=beside)
    thread.start()
    inside.wait(20)
    with beacon.step():
        beacon.log(loss=1.0)
    assert box().phase not in ("evaluate", "checkpoint")
    assert (1.0, 2.0) == (box().number("training_loss", "train"), box().number("training_loss", "validation"))
    over.set()
    thread.join(20)
    assert 0.0 == box().number("training_checkpoint_seconds_total")


def test_a_forward_pass_that_raises_ends_its_phase(beacon: Beacon, box: Callable[[], Box]) -> None:
    """As one does that is out of memory and tried again."""
    job = Job()
    beacon.watch(job.model, job.optimizer)
    job.iterate()
    with pytest.raises(RuntimeError):
        job.model(torch.zeros(4, 3))
    assert "other" == box().phase


def test_nested_evaluations_are_one(beacon: Beacon, box: Callable[[], Box]) -> None:
    """What is logged after the inner one is still of the validation data."""
    with beacon.evaluate():
        with beacon.evaluate():
            beacon.log(loss=3.0)
        beacon.log(loss=2.0)
    assert box().number("training_loss", "train") is None
    assert 2.0 == box().number("training_best_loss", "validation")


def test_many_hyperparameters_raise_no_alert(tmp_path: Path, box: Callable[[], Box]) -> None:
    """Of `vars(args)` with a hundred entries those come first that runs are compared by."""
    given = {f"option_{number}": number for number in range(110)} | {"learning_rate": 0.1, "batch_size": 8}
    with trainbeacon.start(
        run="truth", directory=str(tmp_path), serve="off", hyperparameters=given, probes_off=["goodput"]
    ):
        assert 0.1 == box().number("training_hyperparameter", "learning_rate")
        assert 8.0 == box().number("training_hyperparameter", "batch_size")
        assert 0.0 == box().number("trainbeacon_series_dropped_total")
