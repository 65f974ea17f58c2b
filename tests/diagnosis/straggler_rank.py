"""One rank of a synchronous job of which one rank can be slow, with its `Job` as JSON.

Most of a step is sleep, so that many ranks fit on few cores and the truth is known. From the moment on that
the file `slow` lies in the folder, the victim sleeps `share` of a step longer in `place`. Trains until it is
killed, or its parent is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import trainbeacon

#: Seconds of a step that go into each place, over all its micro-batches.
SPENT = {"data": 0.008, "forward": 0.012, "backward": 0.008, "optimizer": 0.006, "host": 0.006}
STEP_SECONDS = sum(SPENT.values())
WIDTH = 16


@dataclass(frozen=True)
class Job:
    """What a rank is told.

    Attributes:
        strategy: `ddp`, `fsdp2`, `plain` (the script reduces the gradients itself) or `none`.
        victims: the ranks that are slow.
        micro_batches: batches a step; gradients are reduced with the last.
    """

    folder: str
    strategy: str
    place: str
    share: float
    victims: tuple[int, ...]
    micro_batches: int
    seed: int


class Pace:
    """How long each place of a step takes on this rank."""

    def __init__(self, job: Job, rank: int) -> None:
        self._job = job
        self._victim = rank in job.victims
        self._mark = Path(job.folder) / "slow"
        self._slow = False

    def look(self) -> None:
        """Before each step: whether the fault has begun."""
        self._slow = self._slow or (self._victim and self._mark.exists())

    def spend(self, place: str, parts: int = 1) -> None:
        """Take the time of a place, or of one of its equal parts."""
        seconds = SPENT[place]
        if self._slow and place == self._job.place:
            seconds += self._job.share * STEP_SECONDS
        time.sleep(seconds / parts)


class Slow(torch.autograd.Function):
    """The identity; takes time forward and back."""

    @staticmethod
    def forward(context: Any, tensor: torch.Tensor, pace: Pace, parts: int) -> torch.Tensor:
        context.pace, context.parts = pace, parts
        pace.spend("forward", parts)
        return tensor.clone()

    @staticmethod
    def backward(context: Any, *gradients: Any) -> Any:  # type: ignore[override]
        context.pace.spend("backward", context.parts)
        return gradients[0], None, None


class Model(nn.Module):
    def __init__(self, pace: Pace, parts: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 1)
        self._pace, self._parts = pace, parts

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.second(Slow.apply(self.first(inputs), self._pace, self._parts))  # type: ignore[no-untyped-call]


class Optimizer(torch.optim.SGD):
    pace: Pace

    def step(self, closure: Any = None) -> Any:
        self.pace.spend("optimizer")
        return super().step(closure)


def spread(model: Model, strategy: str) -> nn.Module:
    """The model as the strategy wants it."""
    if strategy == "ddp":
        return DistributedDataParallel(model)
    if strategy == "fsdp2":
        mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
        for layer in (model.first, model.second):
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    return model


@contextlib.contextmanager
def accumulating(model: nn.Module, strategy: str, last: bool) -> Iterator[None]:
    """A micro-batch, whose gradients only the last one of a step reduces."""
    if strategy == "fsdp2":
        model.set_requires_gradient_sync(last)  # type: ignore[operator]
    with contextlib.ExitStack() as stack:
        if strategy == "ddp" and not last:
            stack.enter_context(model.no_sync())  # type: ignore[operator]
        yield


def batches(pace: Pace, micro_batches: int) -> Iterator[torch.Tensor]:
    while True:
        pace.spend("data", micro_batches)
        yield torch.randn(4, WIDTH)


def train(job: Job) -> None:
    """Train until killed."""
    pace, parts = Pace(job, distributed.get_rank()), job.micro_batches
    torch.manual_seed(job.seed)
    model = spread(Model(pace, parts), job.strategy)
    optimizer = Optimizer(model.parameters(), lr=0.01)
    optimizer.pace = pace
    with trainbeacon.start(run="job", directory=job.folder, serve="off") as beacon:
        beacon.watch(model, optimizer)
        parent = os.getppid()
        for number, inputs in enumerate(beacon.batches(batches(pace, parts)), start=1):
            if os.getppid() != parent:
                return
            last = number % parts == 0
            with accumulating(model, job.strategy, last):
                model(inputs).mean().backward()
            if not last:
                continue
            if job.strategy == "plain":
                for parameter in model.parameters():
                    distributed.all_reduce(parameter.grad)
            optimizer.step()
            optimizer.zero_grad()
            pace.spend("host")
            pace.look()


if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    train(Job(**{**settings, "victims": tuple(settings["victims"])}))
