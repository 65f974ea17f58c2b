"""What wraps a model after it is watched: its forward passes are seen, and training is the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import trainbeacon

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402 - needs torch


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """A process group of one rank."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def _sharded(model: Any) -> Any:
    from torch.distributed.fsdp import fully_shard

    for layer in model:
        fully_shard(layer)
    return fully_shard(model)


def _compiled_in_place(model: Any) -> Any:
    model.compile(backend="eager")
    return model


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "DistributedDataParallel": nn.parallel.DistributedDataParallel,
    "FSDP2": _sharded,
    "DataParallel": nn.DataParallel,
    "torch.compile": lambda model: torch.compile(model, backend="eager"),
    "module.compile": _compiled_in_place,
    "checkpointed": lambda model: lambda x: torch.utils.checkpoint.checkpoint(model, x, use_reentrant=False),
}


def _trained(wrap: Callable[[Any], Any], beacon: trainbeacon.Beacon | None) -> list[Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.1), nn.Linear(8, 1))
    optimizer = None
    if wrap is not WRAPPERS["FSDP2"]:  # which wants its optimizer made afterwards
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if beacon is not None:
        beacon.watch(model, optimizer)
    wrapped = wrap(model)
    if optimizer is None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        if beacon is not None:
            beacon.watch(optimizer=optimizer)
    for _ in range(4):
        wrapped(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return [getattr(p, "full_tensor", lambda p=p: p)().tolist() for p in model.parameters()]


@pytest.mark.filterwarnings("ignore")  # torch's own, about one rank
@pytest.mark.parametrize("name", WRAPPERS)
def test_wrapping_a_watched_model(name: str, group: None, tmp_path: Path) -> None:
    """Weights are bit-identical, each step is counted once, forward and backward passes are seen."""
    expected = _trained(WRAPPERS[name], None)
    with trainbeacon.start(run="wrapped", directory=str(tmp_path / "boxes"), serve="off") as beacon:
        actual = _trained(WRAPPERS[name], beacon)
        errors = beacon.recorder.writer.slots[beacon.recorder.at("trainbeacon_errors_total", "hooks")]
        steps = beacon.timeline.step
    assert expected == actual
    assert (4, 0.0) == (steps, errors)
