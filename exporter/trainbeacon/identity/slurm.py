"""Slurm: ranks from `srun`, and the job of whatever else runs in an allocation."""

from __future__ import annotations

import re

from .base import Environ, Identity, Job, MalformedError, ProcessFacts, Ranks, count

#: Steps that `srun` did not number: slurm_step_id values from here on are Slurm's own.
_SPECIAL_STEPS = 0xFFFFFFF0
_INTERACTIVE_STEP = 0xFFFFFFFA
_TASKS_OF_NODES = re.compile(r"(\d{1,6})(?:\(x(\d{1,6})\))?")
_MOST_NODES = 1 << 16


def slurm_job(environ: Environ, facts: ProcessFacts) -> Job | None:
    """The batch job, or the step of it: `1234`, of an array `1200_7`, of a later step `1234.2`.

    A shell in an allocation (salloc, `srun --pty bash`) starts many runs one after the other and names none.
    """
    if _is_interactive(environ):
        return None
    whole = allocation(environ)
    step = _step(environ)
    # Several steps may train at once. The first has the job's own name: most jobs have one only.
    return whole and Job(
        name=f"{whole.name}.{step}" if step else whole.name,
        told_apart_by=whole.told_apart_by,
        restarts=whole.restarts,
    )


def allocation(environ: Environ) -> Job | None:
    """The job as a whole, whichever step this process is in; None outside of Slurm."""
    number = (environ.get("SLURM_JOB_ID") or environ.get("SLURM_JOBID") or "").strip()
    if not number:
        return None
    array, task = environ.get("SLURM_ARRAY_JOB_ID"), environ.get("SLURM_ARRAY_TASK_ID")
    return Job(
        name=f"{array}_{task}" if array and task else number,
        told_apart_by=f"{environ.get('SLURM_CLUSTER_NAME', '')} {number}",
        restarts=count(environ, "SLURM_RESTART_COUNT", default=0),
    )


def slurm(environ: Environ, facts: ProcessFacts, outer: Job | None) -> Identity | None:
    """A task of `srun`, or a process of the batch script, which is a run of one rank."""
    job = slurm_job(environ, facts)
    if job is None:
        return None
    ranks = _task(environ) if _step(environ) is not None else Ranks()
    return ranks.identity("slurm", facts, job)


def _task(environ: Environ) -> Ranks:
    rank = count(environ, "SLURM_PROCID")
    world_size = _world_size(environ, rank)
    node_rank = count(environ, "SLURM_NODEID", default=0)
    local_rank = count(environ, "SLURM_LOCALID", default=0, below=world_size, of="the number of tasks")
    tasks = _tasks_of_node(environ.get("SLURM_STEP_TASKS_PER_NODE", ""), node_rank)
    return Ranks(
        rank=rank,
        local_rank=local_rank,
        node_rank=node_rank,
        world_size=world_size,
        local_world_size=min(max(tasks, local_rank + 1), world_size),
    )


def _world_size(environ: Environ, rank: int) -> int:
    """Tasks of the step. A heterogeneous step counts ranks over all its components, whose sizes add up."""
    name = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environ else "SLURM_NTASKS"
    world_size = count(environ, name, least=1)
    components = count(environ, "SLURM_HET_SIZE", default=0, below=1 << 10, of="1024")
    if rank >= world_size and components:
        groups = (f"SLURM_NTASKS_HET_GROUP_{index}" for index in range(components))
        world_size = sum(count(environ, group, default=0) for group in groups)
    if rank >= world_size:
        raise MalformedError(f"SLURM_PROCID='{rank}' must be below {name}")
    return world_size


def _tasks_of_node(text: str, node: int) -> int:
    """How many tasks `4(x2),3` gives to a node; 1 if it does not say."""
    for part in text.split(","):
        found = _TASKS_OF_NODES.fullmatch(part.strip())
        if found is None:
            return 1
        nodes = int(found[2] or 1)
        if node < nodes:
            return int(found[1])
        node -= nodes
    return 1


def _step(environ: Environ) -> int | None:
    """The number of the step that `srun` started, None in a batch script or a shell."""
    text = environ.get("SLURM_STEP_ID") or environ.get("SLURM_STEPID")
    if text is None or "SLURM_PROCID" not in environ:
        return None
    step = count({"SLURM_STEP_ID": text}, "SLURM_STEP_ID", below=1 << 32, of="2**32")
    return step if step < _SPECIAL_STEPS else None


def _is_interactive(environ: Environ) -> bool:
    """Whether a person types here: Slurm gives no task number, or a terminal to a single task."""
    if "SLURM_PROCID" not in environ:
        return True  # salloc's shell on a login node
    if environ.get("SLURM_STEP_ID") == str(_INTERACTIVE_STEP):
        return True
    return "SLURM_PTY_PORT" in environ and environ.get("SLURM_STEP_NUM_TASKS", "1") == "1"
