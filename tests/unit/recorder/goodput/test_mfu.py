"""The FLOPs of a step and the MFU: counted as torch counts them, and nothing of the training changed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import trainbeacon
from trainbeacon.blackbox.directory import open_directory
from trainbeacon.blackbox.reader import BoxDirectory
from trainbeacon.config.settings import Config
from trainbeacon.identity import Identity
from trainbeacon.recorder.core import timeline
from trainbeacon.recorder.core.recorder import Recorder
from trainbeacon.recorder.goodput.gpu_peaks import peak_of
from trainbeacon.recorder.goodput.mfu import Flops
from trainbeacon.testing import FakeClock

Model = torch.nn.Module


def transformer() -> Model:
    torch.manual_seed(1)
    layer = torch.nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)
    return torch.nn.Sequential(torch.nn.TransformerEncoder(layer, 2), torch.nn.Linear(32, 8))


def batches(count: int) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(2)
    return [torch.randn(4, 10, 32, generator=random) for _ in range(count)]


def train(model: Model, beacon: trainbeacon.Beacon | None, steps: int = 4, accumulate: int = 1) -> None:
    """Steps of a number of batches each; the same ones each time."""
    torch.manual_seed(3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    if beacon is not None:
        beacon.watch(model, optimizer)
    for number, batch in enumerate(batches(steps * accumulate), 1):
        (model(batch).square().mean() / accumulate).backward()
        if number % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()


def flops_in(folder: Path) -> float | None:
    descriptor = open_directory(str(folder))
    try:
        (box,) = BoxDirectory(descriptor).scan()
        return box.number("training_model_flops_per_step")
    finally:
        os.close(descriptor)


def start(folder: Path, **settings: Any) -> trainbeacon.Beacon:
    return trainbeacon.start(**{"run": "r", "serve": "off", "directory": str(folder), **settings})


@pytest.mark.parametrize("accumulate", [1, 3])
def test_whole_step_is_counted_as_torch_counts_it(accumulate: int, tmp_path: Path) -> None:
    """Forward and backward, over all batches that are accumulated into one step."""
    model = transformer()
    with FlopCounterMode(display=False) as expected:
        model(batches(1)[0]).square().mean().backward()
    with start(tmp_path, count_flops=True) as beacon:
        train(model, beacon, accumulate=accumulate)
    assert expected.get_total_flops() * accumulate == flops_in(tmp_path)


def test_evaluation_is_no_part_of_a_step(tmp_path: Path) -> None:
    """A pass over validation data between two steps adds nothing."""
    model = transformer()
    with FlopCounterMode(display=False) as expected:
        model(batches(1)[0]).square().mean().backward()
    with start(tmp_path, count_flops=True) as beacon:
        train(model, beacon, steps=1)
        model.eval()
        with torch.no_grad():
            model(batches(1)[0])
        model.train()
        model(batches(1)[0])
    assert expected.get_total_flops() == flops_in(tmp_path)


def test_counting_changes_no_bit_of_the_training(tmp_path: Path) -> None:
    """The weights are those of a run that nobody watched, dropout included."""
    alone, watched = transformer(), transformer()
    train(alone, None)
    with start(tmp_path, count_flops=True) as beacon:
        train(watched, beacon)
    assert flops_in(tmp_path) is not None
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), watched.parameters(), strict=True))


def test_nothing_is_left_behind_once_a_step_is_counted(tmp_path: Path) -> None:
    """The second step is as fast as ever: no hook, no mode, no replaced function of the counting remains."""
    before = torch.autograd.backward
    model = transformer()
    with start(tmp_path, count_flops=True) as beacon:
        train(model, beacon, steps=2)
        assert 1 == len(model._forward_hooks)
        assert 0 == torch._C._len_torch_dispatch_stack()
        beacon.watch(torch.nn.Linear(2, 2))
    assert before is torch.autograd.backward
    with start(tmp_path, count_flops=True) as beacon:
        beacon.watch(model)
        beacon.watch(torch.nn.Linear(2, 2))  # a second one, before anything was counted
    assert before is torch.autograd.backward
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


def test_forward_pass_that_raises_is_survived(tmp_path: Path) -> None:
    """The error reaches the script as it is, and the counter is off afterwards."""
    model = transformer()
    with start(tmp_path, count_flops=True) as beacon:
        beacon.watch(model, torch.optim.SGD(model.parameters(), lr=0.01))
        with pytest.raises((RuntimeError, AssertionError)):
            model(torch.zeros(4, 10, 31))
        assert 0 == torch._C._len_torch_dispatch_stack()


@pytest.mark.parametrize(
    "compile",
    [
        lambda model: torch.compile(model, backend="eager"),
        lambda model: model.compile(backend="eager") or model,
    ],
    ids=["torch.compile", "module.compile"],
)
def test_compiled_model_is_left_alone(
    compile: Callable[[Model], Model], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The counter cannot see into a compiled module, and would keep it from being compiled."""
    hooks = []
    for counts in (False, True):
        model = compile(torch.nn.Linear(4, 4))
        with start(tmp_path, count_flops=counts) as beacon:
            beacon.watch(model)
            hooks.append(len(model._forward_hooks))
    assert hooks[0] == hooks[1]
    assert "model_flops_per_step" in caplog.text


@pytest.mark.filterwarnings("ignore::UserWarning")  # of the compiler, about a gradient that it looks at
def test_compiled_function_inside_runs_as_written_while_counted(tmp_path: Path) -> None:
    """A function with `fullgraph=True` would raise under a counter: it does not, and is compiled later."""
    seen: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        seen.append(1)
        return graph.forward

    @torch.compile(fullgraph=True, backend=backend)
    def squared(x: torch.Tensor) -> torch.Tensor:
        return x @ x.mT

    class Inner(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(32, 32)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return squared(self.linear(x))

    with start(tmp_path, count_flops=True) as beacon:
        train(Inner(), beacon, steps=1)
        assert [] == seen
        train(Inner(), None, steps=2)
    assert seen


def test_number_of_the_users_own_is_served_at_once(tmp_path: Path) -> None:
    """Who knows it need not have it counted."""
    with start(tmp_path, model_flops_per_step=1.5e12, count_flops=True) as beacon:
        assert 1.5e12 == flops_in(tmp_path)
        train(transformer(), beacon)
    assert 1.5e12 == flops_in(tmp_path)


# MFU


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    made = FakeClock()
    monkeypatch.setattr(timeline, "time", SimpleNamespace(monotonic=made, time=made))
    return made


def recorder(**settings: Any) -> Recorder:
    config = Config.load({"run": "r", "enabled": False, **settings}, environ={})
    return Recorder(config, Identity(run="r", run_id="1", hostname="h", attempt=0, launcher=""))


def mfu_of(rank: Recorder) -> float:
    return float(rank.writer.slots[rank.at("training_mfu_ratio")])


@pytest.mark.parametrize("step_seconds", [0.5, 1.0, 30.0])
def test_mfu_is_that_of_whole_steps(step_seconds: float, clock: FakeClock) -> None:
    """Of steps of any length the same at every moment; absent in the first one; 0 where none is made."""
    rank = recorder(model_flops_per_step=4e12, peak_flops=16e12)
    flops = Flops(rank, clock)
    done, seen = clock.now, []
    for _ in range(400):
        clock.advance(0.5)
        if clock.now - done >= step_seconds:
            done = clock.now
            rank.timeline.end_step()
        flops.poll()
        seen.append(mfu_of(rank))
    known = {round(number, 6) for number in seen if number == number}
    assert {round(4e12 / step_seconds / 16e12, 6)} == known
    assert seen[0] != seen[0]
    for _ in range(200):
        clock.advance(0.5)
        flops.poll()
    assert 0.0 == mfu_of(rank)


def test_no_peak_no_mfu(clock: FakeClock) -> None:
    """A CPU has no peak unless one is given: nothing is made up."""
    rank = recorder(model_flops_per_step=4e12)
    flops = Flops(rank, clock)
    flops.watch(torch.nn.Linear(2, 2))
    for _ in range(20):
        rank.timeline.end_step()
        clock.advance(1.0)
        flops.poll()
    assert mfu_of(rank) != mfu_of(rank)


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989.4),
        ("NVIDIA H20", 148.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A100 80GB PCIe", 312.0),
        ("NVIDIA A10", 125.0),
        ("NVIDIA L40S", 362.05),
        ("NVIDIA L4", 121.0),
        ("Tesla V100-SXM2-16GB", 125.0),
        ("Tesla V100-PCIE-16GB", 112.0),
        ("Tesla T4", 65.0),
        ("NVIDIA GB200", 2500.0),
        ("NVIDIA B200", 2250.0),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA RTX 6000 Ada Generation", 364.2),
        ("NVIDIA A10G", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("AMD Instinct MI300X", None),
        ("", None),
    ],
)
def test_peak_of_a_product_name(name: str, tera: float | None) -> None:
    """As drivers spell it; a product that only looks alike, or a part of a GPU, has none."""
    assert (None if tera is None else tera * 1e12) == peak_of(name)
