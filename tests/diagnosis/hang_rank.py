"""The ranks of jobs that will hang: `python -m tests.diagnosis.hang_rank JOBS`, with the jobs as JSON.

One process imports torch and forks every rank of every job. A rank trains over real gloo until the file
`fault` lies in its job's folder; then the victim does what the kind says, and the others wait for it.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import distributed
from torch.utils.data import DataLoader, IterableDataset

import trainbeacon
from tests.diagnosis.forked import join_group
from trainbeacon.recorder.hangs import diagnosis
from trainbeacon.recorder.hangs import stall_clock as stall
from trainbeacon.recorder.probes import activity, collectives

#: The kinds that the victim does itself; `stopped` and `killed` are done to it by a signal.
OWN_KINDS = ("skipped", "mismatched", "worker", "checkpoint", "interpreter")
FOR_EVER = 600


@dataclass(frozen=True)
class Job:
    """What a rank is told. `extra_groups` are made beside the default one, and used in each step."""

    kind: str
    world_size: int
    victim: int
    folder: str
    port: int
    haste: float
    extra_groups: tuple[tuple[int, ...], ...] = ()

    @property
    def fault(self) -> Path:
        """Whether it lies there says whether the fault is due."""
        return Path(self.folder) / "fault"


class Samples(IterableDataset[torch.Tensor]):
    """Data without end; the victim's worker is stuck once the fault is due."""

    def __init__(self, job: Job, rank: int) -> None:
        self._job = job
        self._sticks = job.kind == "worker" and rank == job.victim

    def __iter__(self):  # type: ignore[no-untyped-def]
        while True:
            if self._sticks and self._job.fault.exists():
                time.sleep(FOR_EVER)
            yield torch.ones(1)


def hasten(haste: float) -> None:
    """Make what is counted in seconds as much shorter as the job's time is, if a busy machine allows."""
    collectives.SETTLE_SECONDS /= haste
    activity.LOOK_AFTER_SECONDS /= haste
    diagnosis.SILENT_SECONDS = max(2.5, diagnosis.SILENT_SECONDS / haste)
    stall.PATIENCE_FACTOR = 10 if haste == 1 else 2


def train(job: Job, rank: int) -> None:
    """One rank."""
    hasten(job.haste)
    join_group(job, rank)
    groups = [distributed.new_group(list(ranks), group_desc="dp") for ranks in job.extra_groups]
    groups = [group for group, ranks in zip(groups, job.extra_groups, strict=True) if rank in ranks]
    loader = DataLoader(Samples(job, rank), batch_size=1, num_workers=int(job.kind == "worker"))
    with trainbeacon.start(
        run="hang",
        directory=job.folder,
        serve="off",
        evidence_seconds=max(4.0, 60 / job.haste),
        stacks_signal="SIGUSR1",
        thresholds={"phase_seconds_max": 20.0},
    ) as beacon:
        for _ in beacon.batches(loader):
            if rank == job.victim and job.kind in OWN_KINDS and job.fault.exists():
                fail(beacon, job)
            step(beacon, groups)


def step(beacon: trainbeacon.Beacon, groups: list[distributed.ProcessGroup]) -> None:
    """One step: two collectives that overlap, as buckets of gradients do, and one in each other group."""
    with beacon.phase("forward"):
        time.sleep(0.03)
    with beacon.phase("communication"):
        buckets = [torch.ones(200_000), torch.ones(4)]
        for work in [distributed.all_reduce(bucket, async_op=True) for bucket in buckets]:
            work.wait()
        for group in groups:
            distributed.all_reduce(torch.ones(4), group=group)


def fail(beacon: trainbeacon.Beacon, job: Job) -> None:
    """The fault, by the victim."""
    if job.kind == "skipped":
        with beacon.phase("forward"):
            time.sleep(FOR_EVER)
    elif job.kind == "mismatched":
        with beacon.phase("communication"):
            distributed.broadcast(torch.ones(4), src=job.victim)
    elif job.kind == "checkpoint":
        pipe = Path(job.folder) / "checkpoint"
        os.mkfifo(pipe)
        with beacon.checkpoint(pipe), open(pipe, "wb"):  # nobody reads: it never opens
            pass
    elif job.kind == "interpreter":
        ctypes.PyDLL(None).sleep(FOR_EVER)  # keeps the interpreter's lock, as a careless extension does


def main() -> None:
    """Fork the ranks, and wait for them."""
    torch.set_num_threads(1)
    pids = []
    for settings in json.loads(sys.argv[1]):
        job = Job(**{**settings, "extra_groups": tuple(map(tuple, settings["extra_groups"]))})
        for rank in range(job.world_size):
            pid = os.fork()
            if pid == 0:
                try:
                    train(job, rank)
                except BaseException:
                    traceback.print_exc()
                finally:
                    sys.stderr.flush()
                    os._exit(1)
            pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
