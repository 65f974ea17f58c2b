"""`python -m tests.contract.truth.two_ranks FOLDER`: two ranks by `spawn`.

Each trains two runs; it starts the first before it joins the process group. What it measured itself it writes
into FOLDER, as `RANK.json`.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

import trainbeacon
from tests.contract.truth.job import STEPS

SLOW_SECONDS = 0.15


def _model() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 1))


def _norm(model: Any) -> float:
    whole = [getattr(p.grad, "full_tensor", lambda p=p: p.grad)().flatten() for p in model.parameters()]
    return float(torch.cat(whole).norm())


def _fsdp2() -> tuple[Any, Any]:
    model = _model()
    for layer in model:
        fully_shard(layer)
    fully_shard(model)
    return model, torch.optim.AdamW(model.parameters(), lr=0.01)


def _zero() -> tuple[Any, Any]:
    model = DistributedDataParallel(_model())
    return model, ZeroRedundancyOptimizer(model.parameters(), torch.optim.SGD, lr=0.01)


def _job(beacon: trainbeacon.Beacon, kind: str, rank: int, folder: Path) -> dict[str, float]:
    model, optimizer = {"fsdp2": _fsdp2, "zero": _zero}[kind]()
    beacon.watch(model, optimizer)
    found = {"norm": 0.0, "data_wait": 0.0, "checkpoint": 0.0}
    torch.manual_seed(rank)
    for number, batch in enumerate(beacon.batches(_batches(rank, found)), start=1):
        model(batch).square().mean().backward()
        found["norm"] = _norm(model)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        optimizer.step()
        optimizer.zero_grad()
        if number == 2:
            begun = time.monotonic()
            with beacon.checkpoint(folder / kind):
                time.sleep(SLOW_SECONDS)
            found["checkpoint"] = time.monotonic() - begun
    return found


def _batches(rank: int, found: dict[str, float]) -> Any:
    """Rank 1 waits for its data, and rank 0 for rank 1."""
    for number in range(STEPS):
        begun = time.monotonic()
        time.sleep(SLOW_SECONDS if rank and number else 0.0)
        found["data_wait"] += time.monotonic() - begun if number else 0.0
        yield torch.randn(4, 8)


def train(rank: int, folder: str) -> None:
    """One rank."""
    warnings.simplefilter("ignore")  # torch's own
    settings: Any = {"serve": "off", "directory": f"{folder}/boxes"}
    beacon = trainbeacon.start(run="fsdp2", **settings)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    found = {}
    for kind in ("fsdp2", "zero"):
        if kind != "fsdp2":
            beacon = trainbeacon.start(run=kind, **settings)
        with beacon:
            found[kind] = _job(beacon, kind, rank, Path(folder))
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.spawn(train, (sys.argv[1],), nprocs=2)
