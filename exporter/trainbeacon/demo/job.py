"""The training script of the demo: what a user's own script looks like with TrainBeacon in it.

Started once a rank by `trainbeacon demo`; `torchrun --nproc-per-node 4 -m trainbeacon.demo.job --steps 500`
works as well. Everything that concerns TrainBeacon is in lines with the word `beacon`.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Subset

import trainbeacon
from trainbeacon.demo import text
from trainbeacon.demo.faults import KINDS, Fault
from trainbeacon.demo.model import CharacterModel, Size, accuracy_of, loss_of
from trainbeacon.demo.pace import Deadline, steps_in

RUN = "demo"
_LOOK_AT_CLOCK_EVERY = 10


@dataclass
class Training:
    """All that a checkpoint has to bring back, and the data."""

    model: nn.Module
    """The plain module inside DistributedDataParallel."""
    parallel: DistributedDataParallel
    optimizer: AdamW
    schedule: LambdaLR
    training: DataLoader[Any]
    validation: DataLoader[Any]
    step: int = 0

    def save(self, path: Path) -> None:
        """Write a checkpoint; a reader sees the old one or the new one, never a part."""
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }
        temporary = path.with_suffix(".part")
        torch.save(state, temporary)
        os.replace(temporary, path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint."""
        state = torch.load(path, weights_only=True)
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Train; returns at the end of training, raises what goes wrong."""
    options = build_parser().parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    torch.use_deterministic_algorithms(options.deterministic)
    distributed.init_process_group("gloo")
    try:
        run(options)
    finally:
        distributed.destroy_process_group()


def run(options: argparse.Namespace) -> None:
    """One training run, with TrainBeacon from its first step to its end."""
    rank = distributed.get_rank()
    model = CharacterModel(
        Size(text.VOCABULARY, options.context, options.width, options.heads, options.layers)
    )
    parallel = DistributedDataParallel(model)
    steps = options.steps or steps_in(options.seconds, lambda: rehearse(parallel, options))
    work = prepare(options, model, parallel, steps)
    if options.resume and options.checkpoint.exists():
        work.load(options.checkpoint)
    fault_of(options).arm(model, rank)

    with trainbeacon.start(
        run=options.run,
        project="trainbeacon",
        owner="demo",
        hyperparameters={"learning_rate": options.learning_rate, "batch_size": options.batch_size},
        thresholds={"loss_max": 8.0},
        steps_planned=steps,
        host="127.0.0.1",
        port=options.port,
        directory=options.directory,
    ) as beacon:
        beacon.watch(work.parallel, work.optimizer)
        train(beacon, work, steps, options)
    if options.dump_weights and rank == 0:
        options.dump_weights.write_text(checksum(work.model) + "\n")


def train(beacon: trainbeacon.Beacon, work: Training, steps: int, options: argparse.Namespace) -> None:
    """Train up to step number `steps`, or until the time is up."""
    deadline = Deadline(options.seconds)
    while work.step < steps:
        epoch, done = divmod(work.step, len(work.training))
        work.training.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        remaining = islice(work.training, done, None)  # what this epoch had before the checkpoint
        for inputs, targets in beacon.batches(remaining, tokens=lambda batch: batch[0].numel()):
            scores = work.parallel(inputs)
            loss = loss_of(scores, targets)
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
            nn.utils.clip_grad_norm_(work.parallel.parameters(), max_norm=1.0)
            work.optimizer.step()
            work.schedule.step()
            work.optimizer.zero_grad()
            work.step += 1
            beacon.log(loss=loss, accuracy=accuracy_of(scores, targets), step=work.step, epoch=epoch)

            if work.step % options.evaluate_every == 0:
                with beacon.evaluate():
                    loss, accuracy = evaluate(work.model, work.validation)
                    beacon.log(loss=loss, accuracy=accuracy)
            if work.step % options.checkpoint_every == 0 and distributed.get_rank() == 0:
                with beacon.checkpoint(options.checkpoint):
                    work.save(options.checkpoint)
            if work.step == steps or (work.step % _LOOK_AT_CLOCK_EVERY == 0 and deadline.over()):
                return


@torch.no_grad()
def evaluate(model: nn.Module, loader: DataLoader[Any]) -> tuple[Tensor, Tensor]:
    """Mean validation loss and accuracy over all ranks' shares of the validation text."""
    model.eval()
    total = torch.zeros(3)
    for inputs, targets in loader:
        scores = model(inputs)
        total += torch.stack((loss_of(scores, targets), accuracy_of(scores, targets), torch.ones(())))
    model.train()
    distributed.all_reduce(total)
    return total[0] / total[2], total[1] / total[2]


def rehearse(parallel: DistributedDataParallel, options: argparse.Namespace) -> None:
    """One pass forward and back that changes no weight: what a step costs here."""
    nothing = torch.zeros(options.batch_size, options.context, dtype=torch.long)
    loss_of(parallel(nothing), nothing).backward()  # type: ignore[no-untyped-call]  # torch has no types here
    parallel.zero_grad()


def prepare(
    options: argparse.Namespace, model: CharacterModel, parallel: DistributedDataParallel, steps: int
) -> Training:
    """Optimizer, schedule and data of this rank."""
    optimizer = AdamW(model.parameters(), lr=options.learning_rate, weight_decay=0.01)
    files = text.source_files(options.text_bytes)
    training, validation = (text.Windows(part, options.context) for part in text.split(files))
    every = max(1, len(validation) // options.validation_windows)  # some of every file
    kept = Subset(validation, range(0, len(validation), every))
    return Training(
        model=model,
        parallel=parallel,
        optimizer=optimizer,
        schedule=LambdaLR(optimizer, warm_up_then_cosine(options.warm_up, steps)),
        training=share(training, options, shuffle=True),
        validation=share(kept, options, shuffle=False),
    )


def share(data: Dataset[Any], options: argparse.Namespace, *, shuffle: bool) -> DataLoader[Any]:
    """Batches of this rank's share of the data."""
    sampler: DistributedSampler[Any] = DistributedSampler(data, shuffle=shuffle, seed=options.seed)
    return DataLoader(data, batch_size=options.batch_size, sampler=sampler, drop_last=shuffle)


def warm_up_then_cosine(warm_up: int, steps: int) -> Callable[[int], float]:
    """Factor of the learning rate at each step: up to 1 in `warm_up` steps, then down to 0.1 at `steps`."""

    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        progress = min(1.0, (step - warm_up) / max(1, steps - warm_up))
        return 0.1 + 0.45 * (1 + math.cos(math.pi * progress))

    return factor


def checksum(model: nn.Module) -> str:
    """SHA-256 over all weights, in hexadecimal: equal exactly if every bit is equal."""
    digest = hashlib.sha256()
    for name, weights in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weights.contiguous().numpy().tobytes())
    return digest.hexdigest()


def build_parser() -> argparse.ArgumentParser:
    """The options of the script; those of size are for tests."""
    parser = argparse.ArgumentParser(prog="trainbeacon.demo.job", description=__doc__)
    add = parser.add_argument
    add("--seconds", type=float, default=300.0, help="train about this long")
    add("--steps", type=int, default=0, help="train this many steps; 0: as many as fit into the time")
    add("--run", default=RUN, help="name of the run")
    add("--port", type=int, default=9797, help="where /metrics is served, on loopback")
    add("--directory", help="where the black boxes lie")
    add("--checkpoint", type=Path, default=Path("demo-checkpoint.pt"), help="file of the checkpoint")
    add("--resume", action="store_true", help="go on from the checkpoint if there is one")
    add("--evaluate-every", type=int, default=100, help="steps between evaluations")
    add("--checkpoint-every", type=int, default=200, help="steps between checkpoints")
    add("--batch-size", type=int, default=8, help="windows a rank and step")
    add("--learning-rate", type=float, default=2e-3)
    add("--warm-up", type=int, default=50, help="steps of rising learning rate")
    add("--seed", type=int, default=1)
    add("--deterministic", action="store_true", help="refuse operations that may differ between runs")
    add("--dump-weights", type=Path, help="write the checksum of the final weights to this file")
    add("--context", type=int, default=64)
    add("--width", type=int, default=128)
    add("--heads", type=int, default=4)
    add("--layers", type=int, default=2)
    add("--text-bytes", type=int, default=2_000_000, help="size of the training and validation text")
    add("--validation-windows", type=int, default=256)
    _add_fault(parser.add_argument_group("fault"))
    return parser


def _add_fault(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--fault", choices=("", *KINDS), default="")
    group.add_argument("--fault-rank", type=int, default=1)
    group.add_argument("--fault-step", type=int, help="strike at this step of the process")
    group.add_argument("--fault-seconds", type=float, default=math.inf, help="strike after this long")


def fault_of(options: argparse.Namespace) -> Fault:
    """The fault that the options ask for."""
    return Fault(options.fault, options.fault_rank, options.fault_step, options.fault_seconds)


if __name__ == "__main__":
    main()
