"""The first NaN: its step, the evidence that counts, and the layer that it is followed back to."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import trainbeacon
from tests.device import Accelerator, Waits, device_tensor
from trainbeacon.blackbox.directory import open_directory
from trainbeacon.blackbox.reader import Box, BoxDirectory
from trainbeacon.recorder.learning.nonfinite import CALM_LOSSES, MOST_EPISODES, FirstNonfinite
from trainbeacon.recorder.numerics.layers import layers_of
from trainbeacon.recorder.numerics.origin import Search, parameter_names

NAN = math.nan


class Log:
    """What a `FirstNonfinite` tells."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.told: list[tuple[str, str]] = []
        self.first = FirstNonfinite(self.steps.append, lambda layer, kind: self.told.append((layer, kind)))


# What counts


def test_the_earliest_step_and_the_best_evidence_count() -> None:
    """A later step changes nothing, an earlier one does, and in one step the stronger evidence wins."""
    log = Log()
    log.first.saw(8, "reduced")
    log.first.saw(9, "weight", "a")
    log.first.saw(7, "loss")
    log.first.saw(7, "activation", "b")
    log.first.saw(7, "gradient", "c")
    assert log.steps == [8, 7, 7]
    assert log.told == [("", "reduced"), ("", "loss"), ("b", "activation")]


def test_after_many_good_losses_a_new_one_is_the_first_again() -> None:
    """A NaN that the run got over does not hide one of much later; the names in the box are bounded."""
    log = Log()
    for episode in range(MOST_EPISODES + 10):
        log.first.saw(1000 * episode, "loss")
        for _ in range(CALM_LOSSES - 1):
            log.first.saw_finite_loss()
        log.first.saw(1000 * episode + 500, "loss")
        for _ in range(CALM_LOSSES):
            log.first.saw_finite_loss()
    assert log.steps == [1000 * episode for episode in range(MOST_EPISODES + 10)]
    assert len(log.told) == MOST_EPISODES


# Where it arose


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.out = nn.Linear(8, 8)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        taken = (self.query(inputs), self.key(inputs), self.value(inputs))
        result: torch.Tensor = self.out(nn.functional.scaled_dot_product_attention(*taken))
        return result


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(8), Attention()
        self.mlp = nn.Sequential(
            nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Dropout(0.1), nn.Linear(16, 8)
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        between = inputs + self.attention(self.norm(inputs))
        result: torch.Tensor = between + self.mlp(between)
        return result


class Language(nn.Module):
    """A small language model, with or without activation checkpointing of its blocks."""

    def __init__(self, *, checkpointed: bool = False) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(20, 8), nn.Embedding(5, 8)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 20, bias=False)
        self.checkpointed = checkpointed

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        state = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            state = checkpoint(block, state, use_reentrant=False) if self.checkpointed else block(state)
        result: torch.Tensor = self.head(self.norm(state))
        return result


def spoil(module: nn.Module, how: str) -> None:
    """One number of the module's output is NaN from now on."""

    def after_forward(_: nn.Module, __: Any, output: torch.Tensor) -> torch.Tensor:
        if how == "in place":
            output.view(-1)[3] = NAN
            return output
        mask = torch.zeros_like(output, dtype=torch.bool)
        mask.view(-1)[3] = True
        return output.masked_fill(mask, NAN) if how == "copied" else output * torch.where(mask, NAN, 1.0)

    module.register_forward_hook(after_forward)


def origin_in(model: nn.Module, loss: torch.Tensor) -> tuple[str, str] | None:
    return Search(parameter_names(model, layers_of(model)), time.monotonic() + 30).origin(loss)


def language_loss(model: nn.Module) -> torch.Tensor:
    torch.manual_seed(1)
    tokens = torch.randint(0, 20, (2, 5))
    return nn.functional.cross_entropy(model(tokens).reshape(-1, 20), tokens.reshape(-1))


LAYERS = [layer.name for layer in layers_of(Language()) if layer.name not in ("tokens", "positions")]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("how", ["copied", "in place", "multiplied"])
def test_each_layer_of_a_transformer_is_found(layer: str, how: str) -> None:
    """Wherever one activation is NaN, through residuals, attention and dropout, its layer is named."""
    model = Language()
    spoil(model.get_submodule(layer), how)
    assert origin_in(model, language_loss(model)) == (layer, "activation")


def test_what_is_checkpointed_is_named_as_a_range_and_not_computed_again() -> None:
    """Between two readable activations nothing tells: the range is named, no hook runs, backward works."""
    model = Language(checkpointed=True)
    calls: list[int] = []
    spoil(model.get_submodule("blocks.1.mlp.1"), "copied")
    loss = language_loss(model)
    model.get_submodule("blocks.1").register_forward_hook(lambda *_: calls.append(1))
    assert origin_in(model, loss) == ("tokens..blocks.2.mlp.4", "activation")
    assert calls == []
    loss.backward()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("inputs", "targets", "expected"),
    [(NAN, 0.0, ("0", "input")), (1.0, NAN, ("", "input")), (1.0, math.inf, ("", "input")), (1.0, 0.0, None)],
)
def test_a_bad_batch_is_told_from_a_bad_model(inputs: float, targets: float, expected: Any) -> None:
    """A NaN in the inputs or the targets is the batch's fault, named with the layer that met it first."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    loss = nn.functional.mse_loss(model(torch.full((2, 3), inputs)), torch.full((2, 2), targets))
    assert origin_in(model, loss) == expected


def test_an_operation_that_makes_it_is_named_by_the_layer_before() -> None:
    """A function without weights that divides by zero belongs to the layer whose output it took."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 1)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            state = self.first(inputs)
            result: torch.Tensor = self.second((state - state) / (state - state))
            return result

    model = Model()
    assert origin_in(model, model(torch.ones(2, 3)).sum()) == ("first", "activation")


# In a beacon


@pytest.fixture
def beacon(tmp_path: Path) -> Iterator[trainbeacon.Beacon]:
    settings: dict[str, Any] = {"directory": str(tmp_path), "serve": "off"}
    with trainbeacon.start(run="r", probes_off=["device_phases"], **settings) as beacon:  # needs real events
        yield beacon


@pytest.fixture
def where(tmp_path: Path) -> Callable[[], tuple[float | None, list[tuple[str, ...]]]]:
    """First step, layer and kind as an exporter would see them."""

    def read() -> tuple[float | None, list[tuple[str, ...]]]:
        (box,) = BoxDirectory(open_directory(str(tmp_path))).scan()
        assert _errors(box) == 0.0
        return (
            box.number("training_nonfinite_first_step"),
            [labels for name, labels in box.infos if name == "training_nonfinite_info"],
        )

    return read


def _errors(box: Box) -> float | None:
    return box.number("trainbeacon_errors_total", "hooks")


def test_a_loss_is_of_the_step_that_it_was_logged_for(beacon: trainbeacon.Beacon, where: Any) -> None:
    """Whether it is logged before or after the optimizer's step, in a loop without a model."""
    for step in range(1, 4):
        with beacon.step():
            pass
        beacon.log(loss=NAN if step == 2 else 1.0)
    assert where() == (2.0, [("", "loss")])


def test_a_loss_on_a_device_has_its_own_step_however_late_it_comes(
    beacon: trainbeacon.Beacon, where: Any
) -> None:
    """The number arrives three steps later; the step that is reported is the one that it was logged in."""
    device = Accelerator()
    beacon.recorder.deferred._copier = device
    for step in range(1, 6):
        with beacon.step():
            beacon.log(loss=device_tensor(NAN if step == 2 else 1.0))
    assert where() == (None, [])
    device.arrive()
    beacon.recorder.deferred.poll()
    assert where() == (2.0, [("", "loss")])


def test_a_device_is_asked_for_the_layer_without_a_wait(
    beacon: trainbeacon.Beacon, where: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a scaler has kept the other weights whole, the one that is bad is named when the answer comes."""
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid="1", name="GPU")
    )

    class Layer(nn.Module):
        def __init__(self, number: float) -> None:
            super().__init__()
            self.weight = nn.Parameter(device_tensor([1.0, number]), requires_grad=False)
            self.weight.grad = device_tensor([0.0, 0.0])

    device = Accelerator()
    beacon.recorder.deferred._copier = device
    model = nn.Sequential(Layer(1.0), Layer(NAN), Layer(2.0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    beacon.watch(model, optimizer)
    for loss in (1.0, NAN, NAN, NAN):
        with Waits() as waits:
            beacon.log(loss=device_tensor(loss))
            optimizer.step()
        assert waits.seen == []
        device.arrive()
        beacon.recorder.deferred.poll()
    assert where() == (2.0, [("1", "loss")])


@pytest.mark.parametrize("order", ["logged before", "logged after"])
@pytest.mark.parametrize("place", ["weight", "gradient", "activation"])
def test_one_process_tells_step_layer_and_kind(
    beacon: trainbeacon.Beacon, where: Any, order: str, place: str
) -> None:
    """Also where the loss is logged only after the optimizer has spoilt every weight."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    beacon.watch(model, optimizer)
    for step in range(1, 6):
        if step == 3 and place == "weight":
            with torch.no_grad():
                model[2].weight[1, 1] = NAN
        if step == 3 and place == "gradient":
            model[2].register_full_backward_pre_hook(lambda _, gradients: (gradients[0] * NAN,))
        if step == 3 and place == "activation":
            spoil(model[2], "copied")
        loss = model(torch.randn(8, 4)).square().mean()
        if order == "logged before":
            beacon.log(loss=loss)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if order == "logged after":
            beacon.log(loss=loss)
    assert where() == (3.0, [("2", place)])


def test_gradients_that_the_scaler_leaves_out_are_no_fault(beacon: trainbeacon.Beacon, where: Any) -> None:
    """With AMP an infinite gradient is how the scale is found: nothing is reported of it."""
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    beacon.watch(model, optimizer, scaler=scaler)
    model.weight.register_hook(lambda gradient: gradient * math.inf)
    scaler.scale(model(torch.ones(2, 4)).mean()).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
    assert where() == (None, [])


def test_the_probe_can_be_switched_off(tmp_path: Path) -> None:
    """With `probes_off` no norm is sampled, no layer looked at and no hook put on a gradient."""
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    settings: dict[str, Any] = {"directory": str(tmp_path), "serve": "off"}
    with trainbeacon.start(run="r", probes_off=["gradients", "layers"], **settings) as beacon:
        beacon.watch(model, optimizer)
        model(torch.ones(2, 4)).mean().backward()
        assert not model.bias._backward_hooks
        optimizer.step()
        (box,) = BoxDirectory(open_directory(str(tmp_path))).scan()
        assert box.number("training_gradient_norm") is None
        assert not [name for name, _ in box.values if name.startswith("training_layer_")]
        assert box.number("training_steps_total") == 1.0


def test_the_hook_on_a_gradient_goes_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one parameter that is looked at, where there are other ranks, is left as it was."""
    launched = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    model = nn.Linear(4, 1)
    with trainbeacon.start(run="r", directory=str(tmp_path), serve="off") as beacon:
        beacon.watch(model, torch.optim.SGD(model.parameters(), lr=0.1))
        model(torch.ones(2, 4)).mean().backward()
        assert any(parameter._backward_hooks for parameter in model.parameters())
    assert not any(parameter._backward_hooks for parameter in model.parameters())
