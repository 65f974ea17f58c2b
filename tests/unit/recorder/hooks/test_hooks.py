"""Watching a model: what the hooks see, and that training does not notice them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import trainbeacon
from tests.boxes import only_box
from trainbeacon.blackbox.reader import Box
from trainbeacon.recorder.numerics import gradients, layers
from trainbeacon.recorder.probes import inputs as input_data

torch = pytest.importorskip("torch")


@pytest.fixture
def beacon(tmp_path: Path) -> Iterator[trainbeacon.Beacon]:
    """A beacon whose box lies in the test's folder and that nobody serves."""
    with trainbeacon.start(run="test", directory=str(tmp_path), serve="off") as beacon:
        yield beacon


@pytest.fixture
def box(tmp_path: Path) -> Callable[[], Box]:
    return partial(only_box, tmp_path)


def _model(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Dropout(0.1), torch.nn.Linear(16, 1)
    )


def _data(steps: int = 5) -> list[tuple[Any, Any]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(8, 6, generator=generator), torch.randn(8, 1, generator=generator)) for _ in range(steps)
    ]


def _train(
    model: Any, optimizer: Any, batches: Any, clip: float | None = None, log: Any = None
) -> list[float]:
    norms = []
    for inputs, targets in batches:
        loss = torch.nn.functional.mse_loss(model(inputs), targets)
        loss.backward()
        if clip is not None:
            norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), clip)))
        optimizer.step()
        optimizer.zero_grad()
        if log is not None:
            log(loss=loss)
    return norms


def _digest(model: Any) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def test_the_first_optimizer_counts_the_steps(beacon: trainbeacon.Beacon, box: Callable[[], Box]) -> None:
    """Two batches accumulated make one step; a second optimizer adds none."""
    model = _model()
    first = torch.optim.SGD(model[0].parameters(), lr=0.1)
    second = torch.optim.SGD(model[3].parameters(), lr=0.1)
    beacon.watch(model, [first, second])
    for number, (inputs, targets) in enumerate(beacon.batches(_data(6))):
        torch.nn.functional.mse_loss(model(inputs), targets).backward()
        if number % 2:
            first.step()
            second.step()
    assert box().number("training_steps_total") == 3.0
    assert box().number("training_samples_total") == 48.0


def test_learning_rates_of_all_groups_are_seen(beacon: trainbeacon.Beacon, box: Callable[[], Box]) -> None:
    """A schedule's change shows with the next step, for each parameter group."""
    model = _model()
    groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[3].parameters(), "lr": 0.2}]
    optimizer = torch.optim.SGD(groups)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    beacon.watch(model, optimizer)
    _train(model, optimizer, _data(1))
    schedule.step()
    _train(model, optimizer, _data(1))
    assert box().number("training_learning_rate", "0") == pytest.approx(0.05)
    assert box().number("training_learning_rate", "1") == pytest.approx(0.1)


def test_the_gradient_norm_is_the_one_before_clipping(
    beacon: trainbeacon.Beacon, box: Callable[[], Box]
) -> None:
    """What clip_grad_norm_ returned is served, and each step that it scaled down is counted."""
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    beacon.watch(model, optimizer)
    norms = _train(model, optimizer, beacon.batches(_data(5)), clip=0.01)
    assert box().number("training_gradient_norm") == pytest.approx(norms[-1])
    assert box().number("training_gradient_clipped_total") == 5.0
    assert [entry.gradient_norm for entry in box().ring] == pytest.approx(norms)


def test_clip_grad_norm_imported_beforehand_is_seen_too(
    beacon: trainbeacon.Beacon, box: Callable[[], Box]
) -> None:
    """A script that holds the function itself, not the module, is read all the same."""
    from torch.nn.utils import clip_grad_norm_ as held

    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    beacon.watch(model, optimizer)
    model(_data(1)[0][0]).sum().backward()
    norm = held(model.parameters(), 1e9)
    optimizer.step()
    assert box().number("training_gradient_norm") == pytest.approx(float(norm))
    assert box().number("training_gradient_clipped_total") == 0.0


def test_without_clipping_the_norms_are_sampled(beacon: trainbeacon.Beacon, box: Callable[[], Box]) -> None:
    """Gradient norm, parameter norm and update ratio of the first step are those that torch works out."""
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    beacon.watch(model, optimizer)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    model(_data(1)[0][0]).sum().backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    optimizer.step()
    after = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    old = torch.cat([tensor.flatten() for tensor in before])
    assert box().number("training_gradient_norm") == pytest.approx(float(gradient.norm()), rel=1e-5)
    assert box().number("training_parameter_norm") == pytest.approx(float(after.norm()), rel=1e-5)
    assert box().number("training_update_ratio") == pytest.approx(
        float((after - old).norm() / old.norm()), rel=1e-4
    )


def test_gradients_that_are_not_finite_are_counted(
    beacon: trainbeacon.Beacon, box: Callable[[], Box]
) -> None:
    """A NaN norm is served as NaN, counted, and not called clipped."""
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    beacon.watch(model, optimizer)
    (model(_data(1)[0][0]).sum() * float("nan")).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    assert box().number("training_gradient_nonfinite_total") == 1.0
    assert box().number("training_gradient_clipped_total") == 0.0


def test_the_phases_of_a_watched_step_are_told_apart(
    beacon: trainbeacon.Beacon, box: Callable[[], Box]
) -> None:
    """Forward, backward and optimizer time is where the time was spent; the first step is warm-up."""

    class Slow(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, tensor: Any) -> Any:
            _spin(0.02)
            return tensor.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            _spin(0.05)
            return gradient

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = _model()

        def forward(self, inputs: Any) -> Any:
            return Slow.apply(self.inner(inputs))

    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    beacon.watch(model, optimizer)
    _train(model, optimizer, beacon.batches(_data(4)))

    def seconds(phase: str) -> float:
        return box().number("training_phase_seconds_total", phase) or 0.0

    assert seconds("warmup") >= 0.07
    assert seconds("forward") >= 0.06
    assert seconds("backward") >= 0.15
    assert seconds("forward") < seconds("backward")


def _spin(seconds: float) -> None:
    import time

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def test_a_forward_inside_an_evaluation_stays_evaluation(
    beacon: trainbeacon.Beacon, box: Callable[[], Box]
) -> None:
    """The model's hooks do not take an evaluation apart, even if the script forgot eval()."""
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    beacon.watch(model, optimizer)
    _train(model, optimizer, _data(2))
    forward = box().number("training_phase_seconds_total", "forward")
    with beacon.evaluate():
        model(_data(1)[0][0])
    assert box().number("training_phase_seconds_total", "forward") == forward


@pytest.mark.parametrize("clip", [0.5, None])
def test_weights_are_bit_identical_with_and_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip: float | None
) -> None:
    """Sixty steps with dropout, clipping, logging and every probe end in the very same weights."""
    for probe in (gradients, layers, input_data):
        monkeypatch.setattr(probe, "LEAST_INTERVAL", 0.0)
        monkeypatch.setattr(probe, "TIME_SHARE", 1e9)

    def look(beacon: trainbeacon.Beacon, batches: Any) -> Iterator[Any]:
        for features, targets in beacon.batches(batches):
            beacon.inputs(features, classes=targets > 0)
            yield features, targets

    def weights(watched: bool) -> str:
        model = _model(seed=3)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        torch.manual_seed(7)
        if not watched:
            _train(model, optimizer, _data(60), clip=clip)
            return _digest(model)
        with trainbeacon.start(run="bits", directory=str(tmp_path), serve="off") as beacon:
            beacon.watch(model, optimizer)
            _train(model, optimizer, look(beacon, _data(60)), clip=clip, log=beacon.log)
            assert (
                beacon.recorder.writer.slots[beacon.recorder.at("trainbeacon_errors_total", "hooks")] == 0.0
            )
        return _digest(model)

    assert weights(watched=True) == weights(watched=False)


@pytest.mark.parametrize("way", ["module compiled inside", "compiled module", "compiled in place"])
def test_fullgraph_compilation_works_watched(
    beacon: trainbeacon.Beacon, box: Callable[[], Box], way: str
) -> None:
    """torch.compile(fullgraph=True) has no graph break by our hooks, whichever object is watched."""
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    compiled = model
    if way == "compiled in place":
        model.compile(fullgraph=True, backend="eager")
    else:
        compiled = torch.compile(model, fullgraph=True, backend="eager")
    beacon.watch(compiled if way == "compiled module" else model, optimizer)
    _train(compiled, optimizer, beacon.batches(_data(3)), clip=1.0, log=beacon.log)
    assert box().number("training_steps_total") == 3.0
    assert box().number("trainbeacon_errors_total", "hooks") == 0.0


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's own, while it looks at a tensor
def test_a_beacon_called_inside_a_compiled_function_works(
    beacon: trainbeacon.Beacon, box: Callable[[], Box]
) -> None:
    """Logging from within a compiled step breaks the graph there and records the right number."""
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    beacon.watch(model, optimizer)

    @torch.compile(backend="eager")
    def step(inputs: Any) -> Any:
        loss = (model(inputs) ** 2).mean()
        beacon.log(loss=loss.detach())
        return loss * 2

    model.eval()
    inputs = _data(1)[0][0]
    expected = (model(inputs) ** 2).mean().item()
    assert step(inputs).item() == pytest.approx(2 * expected)
    assert box().number("training_loss", "train") == pytest.approx(expected)


def test_the_scaler_tells_its_scale_and_the_steps_left_out(
    beacon: trainbeacon.Beacon, box: Callable[[], Box]
) -> None:
    """A step with infinite gradients is left out by AMP: it counts as skipped and not as a step."""
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    beacon.watch(model, optimizer, scaler=scaler)
    for factor in (1.0, float("inf"), 1.0):
        loss = model(_data(1)[0][0]).mean() * factor
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert box().number("training_loss_scale") == 512.0
    assert box().number("training_optimizer_steps_skipped_total") == 1.0
    assert box().number("training_steps_total") == 2.0


def test_finish_takes_every_hook_away(tmp_path: Path) -> None:
    """After the run the model, the optimizer and torch's clipping are as before."""
    from torch.nn.utils import clip_grad

    original, backward = clip_grad._clip_grads_with_norm_, torch.autograd.backward
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with trainbeacon.start(run="hooks", directory=str(tmp_path), serve="off") as beacon:
        beacon.watch(model, optimizer)
        assert clip_grad._clip_grads_with_norm_ is not original
    assert clip_grad._clip_grads_with_norm_ is original
    assert torch.autograd.backward is backward
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


def test_what_cannot_be_watched_is_counted_not_raised(
    beacon: trainbeacon.Beacon, box: Callable[[], Box]
) -> None:
    """An object that is no module and no optimizer does not stop the script."""
    beacon.watch(object(), object())
    assert box().number("trainbeacon_errors_total", "hooks") == 1.0


@pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles an optimizer
@pytest.mark.parametrize("way", ["batches", "log", "neither"])
def test_steps_of_a_compiled_optimizer_are_all_counted(
    way: str, beacon: trainbeacon.Beacon, box: Callable[[], Box]
) -> None:
    """In a graph no hook of ours is called: each step is known by the weights, at its own learning rate."""
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    beacon.watch(model, optimizer)

    @torch.compile(backend="eager")
    def update() -> None:
        optimizer.step()

    data = _data(1) * 30
    for number, (inputs, _) in enumerate(beacon.batches(data) if way == "batches" else data):
        model(inputs).mean().backward()
        update()
        optimizer.zero_grad()
        if way == "log":
            beacon.log(loss=1.0, step=number)
    if way == "neither":
        beacon.finish()  # no next pass begins
    else:
        model(inputs)
    assert 30.0 == box().number("training_steps_total")
    assert 0.1 == box().number("training_learning_rate", "0")
    assert 0.0 == box().number("trainbeacon_errors_total", "hooks")
