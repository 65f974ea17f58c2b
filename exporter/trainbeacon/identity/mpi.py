"""MPI launchers: Open MPI's mpirun, and Hydra, which MPICH, Intel MPI and MVAPICH use.

They start processes on other nodes themselves, through ssh or `srun`: what such a process sees of the
job around it is not what one on mpirun's own node sees. Only the number of a Slurm job is the same.
"""

from __future__ import annotations

from .base import Environ, Identity, Job, ProcessFacts, Ranks, endpoint, ranks_from, short
from .slurm import allocation


def open_mpi(environ: Environ, facts: ProcessFacts, outer: Job | None) -> Identity | None:
    """Started by Open MPI's mpirun. Which node this is it does not tell: taken to be filled in order."""
    if "OMPI_COMM_WORLD_RANK" not in environ:
        return None
    ranks = ranks_from(
        environ,
        rank="OMPI_COMM_WORLD_RANK",
        world_size="OMPI_COMM_WORLD_SIZE",
        local_rank="OMPI_COMM_WORLD_LOCAL_RANK",
        local_world_size="OMPI_COMM_WORLD_LOCAL_SIZE",
    )
    # Both name one mpirun, and are the same in all that it starts.
    job_id = environ.get("PMIX_NAMESPACE") or environ.get("OMPI_MCA_ess_base_jobid")
    job = allocation(environ) or Job(name=short(job_id) if job_id else _meeting(environ, facts, ranks))
    return ranks.identity("openmpi", facts, job, warnings=_warnings(job))


def mpich(environ: Environ, facts: ProcessFacts, outer: Job | None) -> Identity | None:
    """Started by Hydra's mpiexec. Under srun the first two may be set as well, but not the others."""
    if not {"PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"} <= environ.keys():
        return None
    ranks = ranks_from(
        environ,
        rank="PMI_RANK",
        world_size="PMI_SIZE",
        local_rank="MPI_LOCALRANKID",
        local_world_size="MPI_LOCALNRANKS",
    )
    job = allocation(environ) or Job(name=_meeting(environ, facts, ranks))
    return ranks.identity("mpich", facts, job, warnings=_warnings(job))


_UNNAMED = "mpi"


def _meeting(environ: Environ, facts: ProcessFacts, ranks: Ranks) -> str:
    """A text that is equal on all ranks, of a launcher that gives none to its jobs."""
    if ranks.world_size == ranks.local_world_size:
        return short(facts.launcher)
    return short(endpoint(environ, facts)) if environ.get("MASTER_ADDR", "").strip() else _UNNAMED


def _warnings(job: Job) -> tuple[str, ...]:
    if job.name != _UNNAMED:
        return ()
    return (
        "mpiexec tells its processes no job id and MASTER_ADDR is not set, so that all such jobs of a script "
        "get one run name by default: give run= or set TRAINBEACON_RUN",
    )
