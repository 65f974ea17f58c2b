"""What is known of a process and of its job, and how a launcher's variables are read."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

#: Longest value of an identity field, in characters: they become label values.
TEXT_LIMIT = 128
_SCRIPT_LIMIT = 60
_COUNT_LIMIT = 2**31
#: What one restart of an outer launcher counts for beside those of an inner one, which begin again at 0.
INNER_RESTARTS = 1000
_LOOPBACK = re.compile(r"localhost|127(\.\d+){3}|::1|\[::1\]", re.IGNORECASE)

Environ = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class ProcessFacts:
    """What the operating system knows of this process, read once at start."""

    script: str
    """Name of the script without folder and suffix: `train` of `/home/me/train.py`."""
    start_time: float
    """Unix time in seconds at which the facts were read, which is when recording starts."""
    hostname: str
    """Name of the host; in Kubernetes that of the pod."""
    process: str
    """A text that no other process on any host shares; equal each time it is read in one process."""
    launcher: str
    """The same text for the process that launched the ranks of this node: equal in all of them."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Who a process is within its run. Texts are printable and at most 128 characters long."""

    run: str
    """The default name of the run, `<script>-<launcher's id>`: equal on all ranks and over restarts."""
    run_id: str
    """Tells jobs apart that were given one name; see `identify` for what cannot be known."""
    rank: int = 0
    """Rank among all processes of the job."""
    local_rank: int = 0
    """Rank among the job's processes on this node."""
    node_rank: int = 0
    """Rank of this node among the job's nodes."""
    world_size: int = 1
    """Processes of the job."""
    local_world_size: int = 1
    """Processes of the job on this node."""
    hostname: str
    """Name of the host."""
    attempt: int
    """Grows with each restart: the launchers' restart counts, or the start as Unix time in seconds."""
    launcher: str
    """What gave the rank: torchrun, deepspeed, env (by hand), lightning, openmpi, mpich, slurm, kubernetes,
    process_group (torch.distributed's, where no launcher did), none."""
    warnings: tuple[str, ...] = ()
    """What was found wrong in the launcher's variables, one sentence each."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What ties the processes of a run together."""

    name: str
    """Id that the job's owner knows it by; the second half of the run's default name."""
    told_apart_by: str = ""
    """What tells two jobs of that name apart, as far as it is the same in all processes."""
    restarts: int | None = None
    """How often the whole job was restarted, None if nobody says."""


class MalformedError(ValueError):
    """A launcher's variable that cannot be right. The message names it and its value."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Where a process stands in its job."""

    rank: int = 0
    local_rank: int = 0
    node_rank: int = 0
    world_size: int = 1
    local_world_size: int = 1

    def identity(
        self,
        launcher: str,
        facts: ProcessFacts,
        job: Job,
        *,
        restarts: int | None = None,
        warnings: tuple[str, ...] = (),
    ) -> Identity:
        """The identity of this rank of that job; `restarts` are those within the present start of the job."""
        return Identity(
            run=run_name(facts.script, job.name),
            run_id=digest(job.name, job.told_apart_by),
            rank=self.rank,
            local_rank=self.local_rank,
            node_rank=self.node_rank,
            world_size=self.world_size,
            local_world_size=self.local_world_size,
            hostname=printable(facts.hostname),
            attempt=_attempt(facts, job, restarts),
            launcher=launcher,
            warnings=warnings,
        )


def _attempt(facts: ProcessFacts, job: Job, restarts: int | None) -> int:
    if job.restarts is None:
        # The inner count alone would begin again at 0 each time that the job itself is restarted.
        return int(facts.start_time)
    if restarts is None:
        return job.restarts
    return job.restarts * INNER_RESTARTS + restarts


def count(
    environ: Environ,
    name: str,
    *,
    default: int | None = None,
    least: int = 0,
    below: int = _COUNT_LIMIT,
    of: str = "2**31",
) -> int:
    """The whole number in variable `name`, at least `least` and below `below`, which `of` names.

    Raises:
        MalformedError: it is not that, or it is missing and there is no `default`.
    """
    text = environ.get(name)
    if text is None:
        if default is None:
            raise MalformedError(f"{name} is not set although the other variables of its launcher are")
        return default
    shown = printable(text, limit=40)
    try:
        value = int(text)
    except ValueError:
        raise MalformedError(f"{name}={shown!r} is not a whole number") from None
    if not least <= value < below:
        raise MalformedError(f"{name}={shown!r} must be at least {least} and below {of}")
    return value


def ranks_from(
    environ: Environ, *, rank: str, world_size: str, local_rank: str, local_world_size: str
) -> Ranks:
    """The numbers in the variables of these names, all of which must be there; nodes are filled in order."""
    world = count(environ, world_size, least=1)
    number = count(environ, rank, below=world, of=world_size)
    local_world = count(environ, local_world_size, least=1, below=world + 1, of=f"{world_size} + 1")
    return Ranks(
        rank=number,
        local_rank=count(environ, local_rank, below=local_world, of=local_world_size),
        node_rank=number // local_world,
        world_size=world,
        local_world_size=local_world,
    )


def endpoint(environ: Environ, facts: ProcessFacts) -> str:
    """Where the ranks of the job meet, as a text that is equal on all of them."""
    address = environ.get("MASTER_ADDR", "").strip()
    if not address:
        raise MalformedError("MASTER_ADDR is not set although the other variables of its launcher are")
    # Every host has a localhost: there it takes the host's name to tell two jobs apart.
    host = facts.hostname if is_loopback(address) else ""
    return f"{host}|{address}:{environ.get('MASTER_PORT', '').strip()}"


def is_loopback(address: str) -> bool:
    """Whether an address can be reached from its own host only."""
    return _LOOPBACK.fullmatch(address.strip()) is not None


def run_name(script: str, job: str) -> str:
    """`<script>-<job>`, printable and at most 128 characters long."""
    job = printable(job, limit=4 * TEXT_LIMIT)
    script = printable(script, limit=_SCRIPT_LIMIT) or "python"
    room = TEXT_LIMIT - len(script) - 1
    # Cutting alone would give one name to jobs whose long ids differ at the end.
    return f"{script}-{job if len(job) <= room else job[: room - 9] + '-' + short(job)}"


def digest(*parts: str) -> str:
    """Twelve hexadecimal digits that stand for these texts."""
    data = "\0".join(parts).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=6).hexdigest()


def short(*parts: str) -> str:
    """Eight hexadecimal digits that stand for these texts: enough for a name that people read."""
    return digest(*parts)[:8]


def printable(text: str, limit: int = TEXT_LIMIT) -> str:
    """The text fit for a label value: `_` for what cannot be printed, at most `limit` characters."""
    text = text[:limit].strip()
    return text if text.isprintable() else "".join(c if c.isprintable() else "_" for c in text)
