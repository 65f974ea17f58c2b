"""Who this process is: run, rank, attempt and host, from what its launcher left in the environment.

`identify()` is a pure function of the environment and of `ProcessFacts`; `read_facts()` asks the
operating system. Nothing here talks to another rank: every rank works out the same run name by itself.
A launcher that we cannot read never raises; the process then counts as a plain one and says so in
`Identity.warnings`. One file a family of launchers; docs/launchers.md says what each is asked.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace

from .base import (
    TEXT_LIMIT,
    Environ,
    Identity,
    Job,
    MalformedError,
    ProcessFacts,
    digest,
    printable,
    run_name,
    short,
)
from .group import Place, in_group
from .kubernetes import kubernetes, kubernetes_job
from .mpi import mpich, open_mpi
from .process import read_facts, script_name
from .pytorch import by_hand, deepspeed, lightning, torchrun
from .slurm import slurm, slurm_job

__all__ = [
    "JOBS",
    "LAUNCHERS",
    "TEXT_LIMIT",
    "Identity",
    "Place",
    "ProcessFacts",
    "current",
    "identify",
    "in_group",
    "printable",
    "read_facts",
    "script_name",
    "short",
]

#: What gives the processes of a run a common, stable name, the outermost first. Slurm comes before
#: Kubernetes: where both are, pods are Slurm's nodes, and no pod lives in a job of Slurm's.
JOBS: tuple[Callable[[Environ, ProcessFacts], Job | None], ...] = (slurm_job, kubernetes_job)

#: What gives a process its rank, the innermost first; the first that knows its own variables answers. A
#: new launcher is one function here: it returns None where it does not apply, and raises `MalformedError`
#: for values that cannot be right. It is given the job that it runs in, if there is one.
LAUNCHERS: tuple[Callable[[Environ, ProcessFacts, Job | None], Identity | None], ...] = (
    torchrun,
    deepspeed,
    by_hand,
    lightning,
    open_mpi,
    mpich,
    slurm,
    kubernetes,
)


def current() -> Identity:
    """Who this process is. Reads a few files of /proc; takes well under a millisecond."""
    return identify(os.environ, read_facts())


def identify(environ: Environ, facts: ProcessFacts) -> Identity:
    """Who a process with this environment is.

    The run name is equal on all ranks, stable over the launcher's restarts and unique among live jobs as far
    as the launchers tell them apart. What cannot be known:

    - torchrun over several nodes without `--rdzv-id`, outside of Slurm and Kubernetes: only MASTER_ADDR and
      MASTER_PORT are common to the nodes. Two jobs one after the other at the same address share name and
      `run_id`, and with the c10d rendezvous a restart moves the port and so renames the run; an elastic job
      that shrinks to one node is renamed too. Give `--rdzv-id` or `run=`.
    - One `--rdzv-id` used for two jobs: both have the same run and `run_id`. That they live at the same time
      is seen from their ranks (`trainbeacon_run_name_collisions`).
    - RANK, WORLD_SIZE and MASTER_ADDR set by hand: again only the address is common; the restart count is not
      known, so that attempts are numbered by their start.
    - A job started anew (by a queue, by hand) is a new job: nothing ties it to the one before, so that its
      `run_id` differs even where the user gives both the same name.
    """
    outer, warnings = _outer(environ, facts)
    try:
        found = next((identity for read in LAUNCHERS if (identity := read(environ, facts, outer))), None)
    except MalformedError as error:
        found, warnings = None, (f"{error}; this process counts as a run of its own with rank 0",)
    found = found or _plain(facts)
    return replace(found, warnings=warnings + found.warnings)


def _outer(environ: Environ, facts: ProcessFacts) -> tuple[Job | None, tuple[str, ...]]:
    try:
        return next((job for read in JOBS if (job := read(environ, facts))), None), ()
    except MalformedError as error:
        return None, (f"{error}; the run is not named by that job",)


def _plain(facts: ProcessFacts) -> Identity:
    """A process that nobody launched as a rank: a run of its own, named by its start (UTC)."""
    started = time.strftime("%Y%m%d-%H%M%S", time.gmtime(facts.start_time))
    # Loops in shell scripts start several in one second.
    job = f"{started}-{digest(facts.process)[:4]}"
    return Identity(
        run=run_name(facts.script, job),
        run_id=digest("none", facts.process),
        hostname=printable(facts.hostname),
        attempt=int(facts.start_time),
        launcher="none",
    )
