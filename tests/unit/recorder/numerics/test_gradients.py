"""Norms sampled around an optimizer's step: right, seldom, and without a trace in training."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor.debug import CommDebugMode

from trainbeacon.recorder.numerics import gradients
from trainbeacon.recorder.numerics.gradients import LEAST_INTERVAL, TIME_SHARE, NormProbe
from trainbeacon.recorder.numerics.norms import total_norm
from trainbeacon.recorder.numerics.shards import copies


class Clock:
    """Each look at it takes `cost` seconds."""

    def __init__(self, cost: float = 0.0) -> None:
        self.now = 1000.0
        self.cost = cost

    def __call__(self) -> float:
        self.now += self.cost
        return self.now


def model_with_gradients(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.ReLU(), torch.nn.Linear(30, 5))
    model(torch.randn(8, 20)).square().mean().backward()
    return model


def sample(probe: NormProbe, optimizer: torch.optim.Optimizer) -> float | None:
    norm = probe.before_step(norm_is_known=False)
    optimizer.step()
    probe.after_step()
    return norm


def test_the_norms_are_those_of_torch() -> None:
    """Gradient norm, parameter norm and update ratio equal what torch works out."""
    model = model_with_gradients()
    parameters = list(model.parameters())
    before = torch.cat([parameter.detach().flatten() for parameter in parameters]).clone()
    gauges: dict[str, float] = {}
    probe = NormProbe(parameters, gauges.__setitem__, Clock())
    norm = sample(probe, torch.optim.SGD(parameters, lr=0.5))
    after = torch.cat([parameter.detach().flatten() for parameter in parameters])
    expected = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters])
    assert norm == pytest.approx(expected.item(), rel=1e-6)
    assert gauges == {
        "training_parameter_norm": pytest.approx(after.norm().item(), rel=1e-6),
        "training_update_ratio": pytest.approx(((after - before).norm() / before.norm()).item(), rel=1e-5),
    }


def test_a_known_gradient_norm_is_not_worked_out_again() -> None:
    """Where clipping has told the norm, the probe gives none; without gradients it has none to give."""
    model = model_with_gradients()
    probe = NormProbe(list(model.parameters()), lambda *_: None, Clock())
    assert probe.before_step(norm_is_known=True) is None
    model.zero_grad()
    fresh = NormProbe(list(model.parameters()), lambda *_: None, Clock())
    assert fresh.before_step(norm_is_known=False) is None


def test_training_is_the_same_to_the_bit() -> None:
    """Parameters, gradients, optimizer state and random numbers are what they are without the probe."""
    states = []
    for probed in (False, True):
        model = model_with_gradients(3)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        clock = Clock()
        probe = NormProbe(list(model.parameters()), lambda *_: None, clock)
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.randn(8, 20)).square().mean().backward()
            if probed:
                clock.now += 100.0
                assert sample(probe, optimizer) is not None
            else:
                optimizer.step()
        tensors = [*model.parameters(), *(parameter.grad for parameter in model.parameters())]
        tensors += [value for state in optimizer.state.values() for value in state.values()]
        states.append([copy.deepcopy(tensor.detach()) for tensor in tensors] + [torch.get_rng_state()])
    for without, with_probe in zip(*states, strict=True):
        assert torch.equal(without, with_probe)


@pytest.mark.parametrize("cost", [1e-6, 1e-3, 0.05])
def test_sampling_takes_a_thousandth_of_the_time_at_most(cost: float) -> None:
    """Samples that take long come seldom: their time is at most 0.1 % of the time between them."""
    model = model_with_gradients()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    clock = Clock(cost)
    probe = NormProbe(list(model.parameters()), lambda *_: None, clock)
    assert sample(probe, optimizer) is not None
    sampled = clock.now
    looks = 4  # two before the step and two after it
    while sample(probe, optimizer) is None:
        clock.now += 0.01
    waited = clock.now - sampled
    assert waited >= LEAST_INTERVAL
    assert (looks / 2) * cost <= waited * TIME_SHARE * 1.05


def test_a_step_that_was_left_out_begins_anew() -> None:
    """A sample whose step raised leaves nothing behind that would spoil the next one."""
    model = model_with_gradients()
    gauges: dict[str, float] = {}
    probe = NormProbe(list(model.parameters()), gauges.__setitem__, Clock())
    assert probe.before_step(norm_is_known=False) is not None
    assert gauges == {}
    assert sample(probe, torch.optim.SGD(model.parameters(), lr=0.0)) is not None
    assert gauges["training_update_ratio"] == 0.0


@pytest.fixture
def mesh() -> Iterator[Any]:
    """A mesh of two dimensions over this process alone: nobody would answer a collective's mistake."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1, 1))
    distributed.destroy_process_group()


def test_sharded_parameters_give_squares_without_a_collective(mesh: Any) -> None:
    """What a rank holds of sharded tensors is squared and summed; no norm of the whole is claimed."""
    sharded = torch.nn.Parameter(DTensor.from_local(torch.tensor([3.0, 4.0]), mesh, [Replicate(), Shard(0)]))
    sharded.grad = DTensor.from_local(torch.tensor([6.0, 8.0]), mesh, [Replicate(), Shard(0)])
    plain = torch.nn.Parameter(torch.tensor([2.0, 4.0]))
    plain.grad = torch.tensor([10.0, 0.0])
    gauges: dict[str, float] = {}
    probe = NormProbe([sharded, plain], gauges.__setitem__, Clock(), world_size=4)
    with CommDebugMode() as communication:
        assert probe.before_step(norm_is_known=False) is None
        probe.after_step()
    assert communication.get_total_counts() == 0
    assert gauges == {
        "training_gradient_squared_norm": pytest.approx(100.0 + 100.0 / 4),
        "training_parameter_squared_norm": pytest.approx(25.0 + 20.0 / 4),
        "training_update_ratio": 0.0,
    }


def test_a_shard_counts_as_often_as_it_is_held() -> None:
    """Replicas share a square among them; a summand of a sum that is still to come has no square."""
    mesh = SimpleNamespace(size=(2, 4).__getitem__)

    def held(*placements: Any) -> int:
        return copies(SimpleNamespace(full_tensor=None, placements=placements, device_mesh=mesh), 8)

    assert held(Replicate(), Shard(0)) == 2
    assert held(Shard(1), Shard(0)) == 1
    assert held(Replicate(), Replicate()) == 8
    assert held(Replicate(), Partial()) == 0
    assert copies(torch.ones(1), 8) == 8


def test_a_large_model_is_estimated_over_part_of_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """The update ratio copies a bounded number of weights, some of each parameter."""
    monkeypatch.setattr(gradients, "UPDATE_WEIGHTS", 10)
    parameters = [torch.nn.Parameter(torch.ones(1000)), torch.nn.Parameter(torch.ones(3, 1000))]
    probe = NormProbe(parameters, lambda *_: None, Clock())
    probe.before_step(norm_is_known=True)
    assert [piece.numel() for piece in probe._before] == [5, 5]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_half_precision_does_not_overflow(dtype: torch.dtype) -> None:
    """Norms of tensors of any precision are worked out in single precision."""
    assert total_norm([torch.full((10_000,), 200.0, dtype=dtype)]) == pytest.approx(20_000.0)


def test_sparse_gradients_have_a_norm() -> None:
    """The gradient of a sparse embedding counts with its doubled rows summed, as the optimizer sees it."""
    embedding = torch.nn.Embedding(10, 4, sparse=True)
    embedding(torch.tensor([1, 1, 3])).sum().backward()
    gradient = embedding.weight.grad
    assert gradient is not None
    assert gradient.is_sparse
    assert total_norm([gradient]) == pytest.approx(gradient.to_dense().norm().item())
