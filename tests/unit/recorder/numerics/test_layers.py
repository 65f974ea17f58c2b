"""The layers that are served: right numbers, the ones that stand out, and no coming and going."""

from __future__ import annotations

import itertools
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import trainbeacon
from tests.device import Accelerator, DeviceTensor, Waits, device_tensor
from trainbeacon.blackbox.directory import open_directory
from trainbeacon.blackbox.reader import BoxDirectory
from trainbeacon.catalogue import MOST_LAYERS
from trainbeacon.recorder.numerics.gradients import LEAST_INTERVAL, TIME_SHARE
from trainbeacon.recorder.numerics.layers import MOST_NAMES, LayerProbe, Selection, layers_of
from trainbeacon.testing import FakeClock

Gauges = dict[tuple[str, str], float | None]


def model_of(widths: tuple[int, ...]) -> nn.Sequential:
    torch.manual_seed(5)
    pairs = itertools.pairwise(widths)
    return nn.Sequential(*[part for pair in pairs for part in (nn.Linear(*pair), nn.ReLU())])


def backward(model: nn.Module, width: int) -> None:
    model(torch.randn(16, width)).square().mean().backward()


def probe(model: nn.Module, clock: Any = None) -> tuple[LayerProbe, Gauges]:
    gauges: Gauges = {}

    def set_gauge(metric: str, layer: str, number: float | None) -> None:
        gauges[metric, layer] = number

    return LayerProbe(
        layers_of(model), lambda _, number, take: take(number), set_gauge, clock or FakeClock()
    ), gauges


def test_the_numbers_are_those_of_torch() -> None:
    """Norm, mean and zeros of the gradient, norm and deviation of the weights, as torch works them out."""
    model = model_of((4, 8, 3))
    backward(model, 4)
    looked, gauges = probe(model)
    looked.before_step()
    for name in ("0", "2"):
        parameters = list(model.get_submodule(name).parameters())
        weights = torch.cat([parameter.detach().flatten() for parameter in parameters]).double()
        gradient = torch.cat([parameter.grad.flatten() for parameter in parameters]).double()
        expected = {
            "training_layer_gradient_norm": gradient.norm(),
            "training_layer_gradient_mean": gradient.mean(),
            "training_layer_zero_ratio": (gradient == 0).double().mean(),
            "training_layer_weight_norm": weights.norm(),
            "training_layer_weight_stddev": weights.std(correction=0),
        }
        for metric, number in expected.items():
            assert gauges[metric, name] == pytest.approx(number.item(), rel=1e-4, abs=1e-7), metric
    assert {layer for _, layer in gauges} == {"0", "2"}


def test_wrappers_do_not_show_in_the_names() -> None:
    """Layers are called as in the script's own model, whatever it is wrapped in."""

    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    model = Wrapper(torch.compile(model_of((2, 3, 3)), backend="eager"))
    assert [layer.name for layer in layers_of(model)] == ["0", "2"]


def test_most_layers_are_served_and_no_more() -> None:
    """Of many layers a few are served: those with the largest share of the gradient."""
    model = model_of(tuple([6] * 12))
    backward(model, 6)
    for number, layer in enumerate(layers_of(model)):
        for parameter in layer.parameters:
            parameter.grad = torch.full_like(parameter, float(number))
    looked, gauges = probe(model)
    looked.before_step()
    assert {layer for _, layer in gauges} == {str(2 * number) for number in range(5, 11)}
    assert len({layer for _, layer in gauges}) == MOST_LAYERS


def test_noise_moves_no_layer() -> None:
    """A thousand samples of layers of about the same size, each up and down by half, change nothing."""
    draw = random.Random(1)
    for layers in (8, 100):
        selection = Selection()
        changes = [
            selection.take({f"l{number}": math.exp(draw.gauss(0.0, 0.4)) for number in range(layers)})
            for _ in range(1000)
        ]
        assert [change for change in changes if change] == []


@pytest.mark.parametrize("factor", [30.0, 0.03, math.nan])
def test_a_layer_that_leaves_its_course_is_served_soon(factor: float) -> None:
    """One whose norm explodes, vanishes or is NaN comes in within six samples, for one other."""
    draw = random.Random(2)
    selection = Selection()

    def norms(of_l7: float = 1.0) -> dict[str, float]:
        found = {f"l{number}": (8 - number) * math.exp(draw.gauss(0.0, 0.2)) for number in range(8)}
        return {**found, "l7": of_l7 * found["l7"]}

    for _ in range(50):
        selection.take(norms())
    assert "l7" not in selection.chosen
    changes = [change for _ in range(6) if (change := selection.take(norms(factor)))]
    assert [comes for _, comes in changes] == ["l7"]


def test_names_are_bounded_for_the_life_of_a_run() -> None:
    """However often others stand out, no more than that many names ever come up."""
    selection = Selection()
    seen: set[str] = set()
    for turn in range(2000):
        norms = {f"l{number}": 1.0 for number in range(200)}
        norms[f"l{turn // 10}"] = 1e6
        selection.take(norms)
        seen.update(selection.chosen)
    assert len(seen) == MOST_NAMES


def test_sampling_takes_its_share_of_the_time_at_most() -> None:
    """Samples that take long come seldom."""
    model = model_of((4, 8, 3))
    backward(model, 4)
    clock = FakeClock()
    taken: list[float] = []

    def read(series: str, number: Any, take: Any) -> None:
        clock.advance(0.001)
        take(number)

    looked = LayerProbe(layers_of(model), read, lambda *_: taken.append(clock.now), clock)
    looked.before_step()
    spent, before = clock.now - 1000.0, len(taken)
    while len(taken) == before:
        clock.advance(0.05)
        looked.before_step()
    assert clock.now - 1000.0 >= max(LEAST_INTERVAL, spent / TIME_SHARE)


def test_a_beacon_serves_them_and_unsets_the_one_that_leaves(tmp_path: Path) -> None:
    """The box of rank 0 has the chosen layers; a layer that is no longer chosen is gone from it."""
    model = model_of(tuple([6] * 9))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with trainbeacon.start(run="r", directory=str(tmp_path), serve="off") as beacon:
        beacon.watch(model, optimizer)
        (hooks,) = beacon._watcher.hooks
        looked = hooks._numerics._probe
        assert looked is not None
        for turn in range(30):
            optimizer.zero_grad()
            backward(model, 6)
            least = layers_of(model)[0].parameters
            for parameter in least:
                assert parameter.grad is not None
                parameter.grad.mul_(1e-6 if turn < 20 else 1e6)
            looked.next = hooks._numerics.due = 0.0
            optimizer.step()
            (box,) = BoxDirectory(open_directory(str(tmp_path))).scan()
            served = [layer[0] for (name, layer) in box.values if name == "training_layer_gradient_norm"]
            assert len(served) == MOST_LAYERS
            assert ("0" in served) == ("0" in looked._selection.chosen)
        assert "0" in served
        assert box.number("trainbeacon_errors_total", "hooks") == 0.0


def test_layers_on_a_device_are_read_later(tmp_path: Path) -> None:
    """Nothing of a layer on a device makes the host wait; the numbers come with the helper's turn."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(device_tensor([3.0, 4.0]), requires_grad=False)
            self.weight.grad = device_tensor([6.0, 8.0])

    device = Accelerator()
    with trainbeacon.start(run="r", directory=str(tmp_path), serve="off") as beacon:
        late = beacon.recorder.deferred
        late._copier = device
        gauges: Gauges = {}

        def read(series: str, number: Any, take: Any) -> None:
            beacon.recorder.take(series, series, number, take)

        clock = FakeClock()
        looked = LayerProbe(
            layers_of(Model()),
            read,
            lambda metric, layer, number: gauges.update({(metric, layer): number}),
            clock,
        )
        for _ in range(2):
            with Waits() as waits:
                looked.before_step()
            assert waits.seen == []
            device.arrive()
            late.poll()
            clock.advance(1000)
    assert gauges["training_layer_gradient_norm", "Model"] == pytest.approx(10.0)
    assert gauges["training_layer_weight_stddev", "Model"] == pytest.approx(0.5)
    assert isinstance(device_tensor([1.0]), DeviceTensor)
