"""What the scripts are made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from tests.contract.truth.job import STEPS, Job
from trainbeacon import Beacon


def make_loader(batches: int = STEPS, **settings: Any) -> Any:
    return DataLoader(TensorDataset(torch.randn(4 * batches, 8)), batch_size=4, **settings)


class Endless(IterableDataset):
    def __iter__(self) -> Iterator[Any]:
        while True:
            yield torch.randn(8)


class CallsItsBase(torch.optim.SGD):
    """An optimizer of the script's own: torch runs the hooks of the step for each of the two classes."""

    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


def watched(beacon: Beacon, optimizer: Any = None) -> Job:
    job = Job()
    if optimizer is not None:
        job.optimizer = optimizer(job.model.parameters())
    beacon.watch(job.model, job.optimizer)
    return job
