"""The ranks of synchronous jobs of which one rank can be slow: `python -m ...straggler_rank JOBS`, as JSON.

One process imports torch and forks every rank of every job. Most of a step is sleep, so that many ranks fit
on few cores and the truth is known. From the moment on that the file `slow` lies in a job's folder, its
victims sleep `share` of a step longer in `place`. A rank trains until it is killed.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import trainbeacon
from tests.diagnosis.forked import fork_ranks, join_group

#: What part of a step goes into each place, over all its micro-batches.
SPENT = {"data": 0.2, "forward": 0.3, "backward": 0.2, "optimizer": 0.15, "host": 0.15}
WIDTH = 16


@dataclass(frozen=True)
class Job:
    """What a rank is told.

    Attributes:
        folder: of the black boxes.
        port: where the ranks meet.
        world_size: processes.
        strategy: `ddp`, `fsdp2`, `plain` (the script reduces the gradients itself), or `pipelineN`: N stages
            in 1F1B over data parallel replicas, of which the last stage takes half as long again.
        place: data, forward, backward, optimizer or host.
        share: how much of a step the victims sleep longer.
        victims: the ranks that are slow.
        micro_batches: batches a step; gradients are reduced with the last.
        seed: of the weights.
        step_seconds: what a step sleeps.
    """

    folder: str
    port: int
    world_size: int
    strategy: str
    place: str
    share: float
    victims: tuple[int, ...]
    micro_batches: int
    seed: int
    step_seconds: float


class Pace:
    """How long each place of a step takes on this rank."""

    def __init__(self, job: Job, rank: int) -> None:
        self._job = job
        self._victim = rank in job.victims
        self.factor = 1.0
        self._mark = Path(job.folder) / "slow"
        self._slow = False

    def poll(self) -> None:
        """Before each step: whether the fault has begun."""
        self._slow = self._slow or (self._victim and self._mark.exists())

    def spend(self, place: str, parts: int = 1) -> None:
        """Take the time of a place, or of one of its equal parts."""
        share = SPENT[place]
        if self._slow and place == self._job.place:
            share += self._job.share
        time.sleep(self.factor * share * self._job.step_seconds / parts)


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
    def __init__(self, pace: Pace, parts: int, outputs: int = 1) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, outputs)
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


class Pipeline:
    """One rank of a pipeline: which part of the model it has, and whom it exchanges messages with."""

    def __init__(self, job: Job, rank: int) -> None:
        self.stages = int(job.strategy.removeprefix("pipeline"))
        replicas = job.world_size // self.stages
        self.stage = rank // replicas
        mesh = init_device_mesh("cpu", (self.stages, replicas), mesh_dim_names=("pp", "dp"))
        self._data = mesh.get_group("dp")
        self._before, self._after = rank - replicas, rank + replicas
        self.is_last = self.stage == self.stages - 1
        self._sent: list[tuple[Any, torch.Tensor]] = []

    def step(self, model: nn.Module, inputs: Sequence[torch.Tensor]) -> None:
        """1F1B: a few forward passes, then one forward and one backward by turns, then what is left."""
        ahead = min(self.stages - 1 - self.stage, len(inputs))
        flying: deque[tuple[torch.Tensor, torch.Tensor]] = deque()
        for number, batch in enumerate(inputs):
            flying.append(self._forward(model, batch))
            if number >= ahead:
                self._backward(*flying.popleft())
        while flying:
            self._backward(*flying.popleft())
        for parameter in model.parameters():
            distributed.all_reduce(parameter.grad, group=self._data)

    def _forward(self, model: nn.Module, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.stage:
            batch = torch.empty_like(batch)
            distributed.recv(batch, self._before)
            batch.requires_grad_()
        output = model(batch)
        if not self.is_last:
            self._send(output.detach(), self._after)
        return batch, output

    def _backward(self, batch: torch.Tensor, output: torch.Tensor) -> None:
        if self.is_last:
            output.mean().backward()  # type: ignore[no-untyped-call]
        else:
            gradient = torch.empty_like(output)
            distributed.recv(gradient, self._after)
            output.backward(gradient)  # type: ignore[no-untyped-call]
        if self.stage:
            assert batch.grad is not None
            self._send(batch.grad, self._before)

    def _send(self, tensor: torch.Tensor, to: int) -> None:
        """Two neighbours send to each other at once: neither waits for the other's receipt."""
        self._sent = [each for each in self._sent if not each[0].is_completed()]
        work = distributed.isend(tensor, to)
        if work is not None:
            self._sent.append((work, tensor))


def batches(pace: Pace, micro_batches: int) -> Iterator[torch.Tensor]:
    while True:
        pace.spend("data", micro_batches)
        yield torch.randn(4, WIDTH)


def train(job: Job, rank: int) -> None:
    """One rank."""
    torch.set_num_threads(1)
    join_group(job, rank)
    pace, parts = Pace(job, rank), job.micro_batches
    torch.manual_seed(job.seed)
    pipeline = Pipeline(job, rank) if job.strategy.startswith("pipeline") else None
    if pipeline is not None and pipeline.is_last:
        pace.factor = 1.5
    model = spread(Model(pace, parts, WIDTH if pipeline else 1), job.strategy)
    optimizer = Optimizer(model.parameters(), lr=0.01)
    optimizer.pace = pace
    with trainbeacon.start(run="job", directory=job.folder, serve="off") as beacon:
        beacon.watch(model, optimizer)
        given: list[torch.Tensor] = []
        for number, inputs in enumerate(beacon.batches(batches(pace, parts)), start=1):
            last = number % parts == 0
            if pipeline is not None:
                given.append(inputs)
            else:
                with accumulating(model, job.strategy, last):
                    model(inputs).mean().backward()
            if not last:
                continue
            if pipeline is not None:
                pipeline.step(model, given)
                given = []
            if job.strategy == "plain":
                for parameter in model.parameters():
                    distributed.all_reduce(parameter.grad)
            optimizer.step()
            optimizer.zero_grad()
            pace.spend("host")
            pace.poll()


def main() -> None:
    """Fork the ranks and wait for them; who starts this ends the whole session."""
    jobs = [Job(**{**job, "victims": tuple(job["victims"])}) for job in json.loads(sys.argv[1])]
    fork_ranks(jobs, train)


if __name__ == "__main__":
    main()
