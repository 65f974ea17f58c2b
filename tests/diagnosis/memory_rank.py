"""The ranks of jobs of which one can leak: `python -m tests.diagnosis.memory_rank JOBS`, as JSON.

One process imports torch and forks every rank of every job. All ranks do to memory what training does: a
batch for each step, a cache that fills while they warm up, evaluations that take more. From the moment on
that the file `leak` lies in a job's folder, its victims keep a little of each step.
"""

from __future__ import annotations

import json
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import distributed

import trainbeacon
from tests.diagnosis.forked import fork_ranks, join_group

MIB = 1 << 20
STEP_SECONDS = 0.01
#: After that many steps the ranks wait to be scraped: nothing of it depends on how busy the machine is.
STEPS_OF_SCRAPE = 5
BATCH_MIB = (1, 4)
WARM_UP_MIB, WARM_UP_STEPS = 16, 60
EVALUATION_MIB, EVALUATE_EVERY, EVALUATION_SECONDS = 6, 25, 0.06


@dataclass(frozen=True)
class Job:
    """What a rank is told.

    Attributes:
        folder: of the black boxes.
        port: where the ranks meet.
        world_size: processes.
        victims: the ranks that leak.
        mib_per_step: what they keep.
        seed: of the sizes of the batches.
    """

    folder: str
    port: int
    world_size: int
    victims: tuple[int, ...]
    mib_per_step: float
    seed: int


def filled(mib: float) -> torch.Tensor:
    """Memory that is resident, since each byte of it was written."""
    return torch.ones(int(mib * MIB), dtype=torch.uint8)


def scraped(folder: str, number: int) -> bool:
    """Whether there have been that many scrapes."""
    return Path(folder, f"scraped{number}").exists()


def train(job: Job, rank: int) -> None:
    """One rank."""
    torch.set_num_threads(1)
    join_group(job, rank)
    dice = random.Random(job.seed * 100 + rank)
    leak, cache = Path(job.folder) / "leak", []
    with trainbeacon.start(run="job", directory=job.folder, serve="off") as beacon:
        step = 0
        while True:
            step += 1
            with beacon.step():
                batch = filled(dice.uniform(*BATCH_MIB))
                time.sleep(STEP_SECONDS)
                distributed.all_reduce(batch[:16].float())
            if step <= WARM_UP_STEPS:
                cache.append(filled(WARM_UP_MIB / WARM_UP_STEPS))
            if step % EVALUATE_EVERY == 0:
                with beacon.evaluate():
                    predictions = filled(EVALUATION_MIB)
                    time.sleep(EVALUATION_SECONDS)
                    del predictions
            if rank in job.victims and leak.exists():
                cache.append(filled(job.mib_per_step))
            while step % STEPS_OF_SCRAPE == 0 and not scraped(job.folder, step // STEPS_OF_SCRAPE):
                time.sleep(0.005)


def main() -> None:
    """Fork the ranks and wait for them; who starts this ends the whole session."""
    jobs = [Job(**{**job, "victims": tuple(job["victims"])}) for job in json.loads(sys.argv[1])]
    fork_ranks(jobs, train)


if __name__ == "__main__":
    main()
