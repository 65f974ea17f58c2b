"""The ranks of all jobs of the campaign: `python -m tests.campaign.rank` forks them as it is told.

One process imports torch and waits for jobs as lines of JSON on its standard input. For each it forks a
leader, in a process group of its own, and that one the ranks: real processes that train with
DistributedDataParallel over gloo. Most of a step is sleep, so that many jobs fit on few cores.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # DistributedDataParallel imports it, for two seconds: here once for all ranks
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

import trainbeacon
from tests.campaign.faults import PLANTED, Moment

WIDTH, BATCH = 8, 512
#: Share of a step that goes into each place.
DATA, FORWARD, HOST = 0.25, 0.5, 0.15
#: Steps after which a job is under way.
MOVING = 5
EVALUATE_EVERY, CHECKPOINT_EVERY = 25, 40


@dataclass(frozen=True)
class Job:
    """What the ranks of one job are told.

    Attributes:
        kind: of fault, a key of `PLANTED`, or something else for a job without one.
        victim: the rank at fault; also the one that writes checkpoints.
        folder: of the job; the mark `fault` in it is the order to begin, and `struck` says when it did.
        boxes: by node, the directory of its black boxes; ranks are dealt to nodes in turn.
        ports: by node, where its exporter listens.
        attempt: how many times the launcher has started it anew.
        steps: after which it is finished.
    """

    run: str
    kind: str
    world_size: int
    victim: int
    folder: str
    boxes: tuple[str, ...]
    ports: tuple[int, ...]
    step_seconds: float = 0.2
    seed: int = 0
    attempt: int = 0
    serve: str = "process"
    steps: int = 10**9
    thresholds: Mapping[str, float] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def mark(self) -> Path:
        """Whether it lies there says whether the fault is due."""
        return Path(self.folder) / "fault"


class Faults:
    """The faults of a rank, by place."""

    def __init__(self, job: Job, rank: int, moment: Moment) -> None:
        self._job = job
        self._planted = [each for each in PLANTED.get(job.kind, ()) if each.everywhere or rank == job.victim]
        self._tells = rank == job.victim
        self._moment = moment
        self._due = False

    def step(self) -> None:
        """Before each step: whether the fault has begun."""
        self._due = self._due or self._job.mark.exists()
        self._moment.steps += self._due

    def at(self, place: str, value: Any = None) -> Any:
        """What becomes of the value."""
        begun = self._due and self._moment.steps >= self._job.parameters.get("after", 1)
        for planted in self._planted if begun else ():
            if planted.place == place:
                self._tell()
                value = planted.fault(self._moment, value)
        return value

    def _tell(self) -> None:
        if self._tells:
            self._tells = False
            path = Path(self._job.folder) / "struck"
            part = path.with_suffix(f".{self._job.attempt}")
            part.write_text(repr(time.time()))
            with contextlib.suppress(FileExistsError):  # an earlier attempt has said it already
                path.hardlink_to(part)


class Model(nn.Module):
    """A linear model that takes its time."""

    def __init__(self, job: Job, faults: Faults) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, 1)
        self._seconds = FORWARD * job.step_seconds
        self._faults = faults

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.training:
            time.sleep(self._seconds)
            self._faults.at("forward")
        result: torch.Tensor = self.linear(inputs)
        if self.training:
            result = self._faults.at("output", result)
            result.register_hook(lambda gradient: self._faults.at("gradient", gradient))
        return result


class Training:
    """One rank's training loop, as a script would have it."""

    def __init__(self, job: Job, rank: int) -> None:
        torch.manual_seed(job.seed)
        self.job, self.rank = job, rank
        self.truth = torch.randn(WIDTH, 1)
        self.moment = Moment(job, None, None)
        self.faults = Faults(job, rank, self.moment)
        self.model = DistributedDataParallel(Model(job, self.faults))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05)
        self.moment.optimizer = self.optimizer
        self.scaler = (
            torch.amp.GradScaler("cpu", init_scale=256.0) if job.kind == "loss_scale_collapse" else None
        )
        self.moment.scaler = self.scaler
        torch.manual_seed(job.seed * 100 + rank)
        self.held_out = self._batch()

    def run(self) -> None:
        """Train to the last step, or for good."""
        job, node = self.job, self.rank % len(self.job.boxes)
        with trainbeacon.start(
            run=job.run,
            owner="campaign",
            thresholds=dict(job.thresholds),
            serve=job.serve,
            host="127.0.0.1",
            port=job.ports[node],
            directory=job.boxes[node],
            gpu=False,
        ) as beacon:
            self.moment.beacon = beacon
            if job.kind.startswith("logs_only"):
                self._only_log(beacon)
            beacon.watch(self.model, self.optimizer, scaler=self.scaler)
            for number, batch in enumerate(beacon.batches(self._batches()), start=1):
                beacon.log(loss=self._step(*batch))
                time.sleep(HOST * job.step_seconds)
                self.faults.at("step")
                self._pauses(beacon, number)
                if number == MOVING:
                    (Path(job.folder) / "moves").touch()
                if number >= job.steps:
                    break

    def _only_log(self, beacon: trainbeacon.Beacon) -> None:
        """A loop of a framework that nobody knows: losses are logged, and that is all; to its last step."""
        for number in range(1, self.job.steps + 1):
            self.faults.step()
            beacon.log(loss=self._step(*self._batch()))
            time.sleep(self.job.step_seconds)
            self.faults.at("step")
            if number == MOVING:
                (Path(self.job.folder) / "moves").touch()

    def _batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            self.faults.step()
            time.sleep(DATA * self.job.step_seconds)
            self.faults.at("data")
            yield self._batch()

    def _batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = torch.randn(BATCH, WIDTH)
        return inputs, inputs @ self.truth + 0.5 * torch.randn(BATCH, 1)

    def _step(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        self.optimizer.zero_grad()
        loss = nn.functional.mse_loss(self.model(inputs), targets)
        if self.scaler is not None:
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            loss.backward()
            # What is too large to be true is clipped; the course that diverges knows no such care.
            limit = 1e30 if self.job.kind == "loss_to_infinity" else 5.0
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
            if self.job.kind not in ("nan_gradients_skipped", "hidden_nan") or norm.isfinite():
                self.optimizer.step()
        if self.job.kind == "hidden_nan":
            loss = loss.nan_to_num()
        return self.faults.at("loss", loss.detach())

    def _pauses(self, beacon: trainbeacon.Beacon, number: int) -> None:
        if number % EVALUATE_EVERY == 0:
            with beacon.evaluate():
                beacon.log(loss=self._evaluate())
        if number % CHECKPOINT_EVERY == 0 and self.rank == self.job.victim:
            with contextlib.suppress(OSError):  # a script that goes on without its checkpoint
                self._save(beacon)

    @torch.no_grad()
    def _evaluate(self) -> torch.Tensor:
        """The mean over all ranks, so that all of them know the same."""
        self.model.eval()
        self.faults.at("evaluate")
        inputs, targets = self.held_out
        loss = nn.functional.mse_loss(self.model.module(inputs), targets)
        distributed.all_reduce(loss)
        self.model.train()
        return self.faults.at("validation", loss / self.job.world_size)

    def _save(self, beacon: trainbeacon.Beacon) -> None:
        path = Path(self.job.folder) / "checkpoint.pt"
        with beacon.checkpoint(path):
            self.faults.at("checkpoint", path)
            torch.save(self.model.module.state_dict(), path)


def launcher_variables(job: Job, rank: int) -> dict[str, Any]:
    """What torchrun sets."""
    return {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "GROUP_RANK": 0,
        "WORLD_SIZE": job.world_size,
        "LOCAL_WORLD_SIZE": job.world_size,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": job.ports[0] + 1,
        "TORCHELASTIC_RUN_ID": Path(job.folder).name,
        "TORCHELASTIC_RESTART_COUNT": job.attempt,
        "GLOO_SOCKET_IFNAME": "lo",
    }


def rank_main(job: Job, rank: int) -> None:
    """One rank from its start to its end."""
    log = os.open(f"{job.folder}/rank{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update({name: str(value) for name, value in launcher_variables(job, rank).items()})
    torch.set_num_threads(1)
    store = f"file://{job.folder}/store{job.attempt}"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=job.world_size)
    Training(job, rank).run()


def lead(job: Job) -> None:
    """Fork the ranks and wait for them; ends them if whoever asked for them is gone."""
    os.setpgid(0, 0)
    parent = os.getppid()
    living = set()
    for rank in range(job.world_size):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                rank_main(job, rank)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        living.add(pid)
    while living:
        time.sleep(0.2)
        if os.getppid() != parent:
            os.killpg(0, signal.SIGKILL)
        pid, _ = os.waitpid(-1, os.WNOHANG)
        living.discard(pid)
    (Path(job.folder) / f"over{job.attempt}").touch()


def main() -> None:
    """Fork a leader a line, and say its process id; a line that is a number ends that leader's group."""
    # Elsewhere Prometheus has processors of its own: it must not wait for the jobs that it judges.
    os.nice(10)
    for line in iter(sys.stdin.readline, ""):
        order = json.loads(line)
        if isinstance(order, int):
            os.killpg(order, signal.SIGKILL)
            os.waitpid(order, 0)
            print(order, flush=True)
            continue
        job = Job(**{**order, "boxes": tuple(order["boxes"]), "ports": tuple(order["ports"])})
        pid = os.fork()
        if pid == 0:
            try:
                lead(job)
            finally:
                os._exit(0)
        with contextlib.suppress(OSError):  # as it does itself, whoever is first
            os.setpgid(pid, pid)
        print(pid, flush=True)


if __name__ == "__main__":
    main()
