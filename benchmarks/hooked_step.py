"""What a fully watched training step costs more than a plain one: a small model on one core, in turns."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

import trainbeacon
from benchmarks.measure import Case, Effort, in_turns, load, significant, summary
from benchmarks.recording import recording_beacon

BLOCK = 10  # steps timed at once

Batch = tuple[torch.Tensor, torch.Tensor]
Wrap = Callable[[list[Batch]], Iterable[Batch]]
Log = Callable[[torch.Tensor], None]
Step = Callable[[nn.Module], AbstractContextManager[None]]
Seen = Callable[[torch.Tensor], Any]


def measure(effort: Effort) -> dict[str, Any]:
    """Microseconds that a step takes more than a plain one, in processor time of the thread, pair by pair."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    begun = load()
    data = made_data()
    plain, watched = Trainer(data), Trainer(data)
    wall: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, recording_beacon(folder) as beacon:
        beacon.watch(watched.model, watched.optimizer)
        cases = {name: (case, BLOCK) for name, case in _cases(beacon, plain, watched, wall).items()}
        times = in_turns(cases, effort.choose(80, 25, 2))
    bases = {name: "plain, clipped" if "clipped" in name else "plain" for name in times}
    told = {
        name: {
            "microseconds": asdict(summary(values)),
            "more_than_plain": asdict(_differences(values, times[bases[name]])),
            "median_step_wall_microseconds": significant(statistics.median(wall[name])),
            "raw": values,
        }
        for name, values in times.items()
    }
    return {"load_average": [begun, load()], "steps_a_block": BLOCK, "cases": told}


def _differences(values: list[float], base: list[float]) -> Any:
    return summary([more - plain for more, plain in zip(values, base, strict=True)])


def _cases(
    beacon: trainbeacon.Beacon, plain: Trainer, watched: Trainer, wall: dict[str, list[float]]
) -> dict[str, Case]:
    def log(loss: torch.Tensor) -> None:
        beacon.log(loss=loss)

    def item(loss: torch.Tensor) -> None:
        loss.item()

    loops = {
        "plain": lambda: plain.train(_as_it_is, _no_log),
        "plain, loss.item()": lambda: plain.train(_as_it_is, item),
        "watch": lambda: watched.train(_as_it_is, _no_log),
        "watch, batches": lambda: watched.train(beacon.batches, _no_log),
        "watch, batches, log": lambda: watched.train(beacon.batches, log),
        "plain, clipped": lambda: plain.train(_as_it_is, _no_log, clip=True),
        "watch, batches, log, clipped": lambda: watched.train(beacon.batches, log, clip=True),
    }
    return {name: _timed(loop, wall.setdefault(name, [])) for name, loop in loops.items()}


def _timed(loop: Callable[[], None], wall: list[float]) -> Case:
    def case(count: int) -> float:
        processor, clock = time.thread_time(), time.perf_counter()
        loop()
        wall.append((time.perf_counter() - clock) / count * 1e6)
        return time.thread_time() - processor

    return case


def made_data() -> list[Batch]:
    """One block's batches."""
    return [(torch.randn(64, 256), torch.randint(0, 10, (64,))) for _ in range(BLOCK)]


class Trainer:
    """A perceptron of three layers; a step takes one to two milliseconds on one core."""

    def __init__(self, data: list[Batch]) -> None:
        self.data = data
        self.model = nn.Sequential(
            nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10)
        )
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)
        self._criterion = nn.CrossEntropyLoss()

    def train(self, wrap: Wrap, log: Log, clip: bool = False) -> None:
        """One pass over the data."""
        model, optimizer, criterion = self.model, self.optimizer, self._criterion
        for inputs, targets in wrap(self.data):
            optimizer.zero_grad()
            loss = criterion(model(inputs), targets)
            loss.backward()
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            log(loss)

    def train_inside(self, wrap: Wrap, step: Step, seen: Seen) -> None:
        """The same with each step inside a context, and the loss wrapped before its backward pass."""
        model, optimizer, criterion = self.model, self.optimizer, self._criterion
        for inputs, targets in wrap(self.data):
            with step(model):
                optimizer.zero_grad()
                seen(criterion(model(inputs), targets)).backward()
                optimizer.step()


def _as_it_is(data: list[Batch]) -> list[Batch]:
    return data


def _no_log(loss: torch.Tensor) -> None:
    pass
