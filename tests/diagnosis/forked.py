"""Jobs whose ranks are forked by one process, and the session in which all of them can be ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from torch import distributed

from tests.serving import REPOSITORY


class Job(Protocol):
    """What is asked of a job here."""

    @property
    def world_size(self) -> int:
        """Of the job."""

    @property
    def port(self) -> int:
        """Where its ranks meet."""


AnyJob = TypeVar("AnyJob", bound=Job)


@contextlib.contextmanager
def running(module: str, jobs: str, log: Path) -> Iterator[None]:
    """Start a module with its jobs as JSON, in a session of its own; SIGKILL to all of them at the end."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", module, jobs],
            stdout=file,
            stderr=file,
            cwd=REPOSITORY,
            env=environment,
            start_new_session=True,
        )
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


def fork_ranks(jobs: Sequence[AnyJob], train: Callable[[AnyJob, int], None]) -> None:
    """Fork all ranks and wait; whoever started this ends the whole session."""
    for job in jobs:
        for rank in range(job.world_size):
            if os.fork():
                continue
            try:
                train(job, rank)
            except BaseException:  # this is where a child begins: nothing may leave it
                traceback.print_exc()
            os._exit(1)
    signal.pause()


def join_group(job: Job, rank: int) -> None:
    """As torchrun and a script do: the variables of a rank, and the group of all ranks over gloo."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(job.world_size),
        LOCAL_WORLD_SIZE=str(job.world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(job.port),
    )
    distributed.init_process_group("gloo")
