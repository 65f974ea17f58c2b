"""Who this process is: run, rank, attempt and host, from what its launcher left in the environment.

`identify()` is a pure function of the environment and of `ProcessFacts`; `read_facts()` asks the
operating system. Nothing here talks to another rank: every rank works out the same run name by itself.
A launcher that we cannot read never raises; the process then counts as a plain one and says so in
`Identity.warnings`.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath

#: Longest value of an identity field, in characters: they become label values.
TEXT_LIMIT = 128
_SCRIPT_LIMIT = 60
_COUNT_LIMIT = 2**31
_MOST_ANCESTORS = 16
_LOOPBACK = re.compile(r"localhost|127(\.\d+){3}|::1|\[::1\]", re.IGNORECASE)


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
    """Grows with each restart: the launcher's restart count, or the start as Unix time in seconds."""
    launcher: str
    """What started the ranks: `torchrun`, `env` (variables set by hand) or `none`."""
    warnings: tuple[str, ...] = ()
    """What was found wrong in the launcher's variables, one sentence each."""


class _MalformedError(ValueError):
    """A launcher's variable that cannot be right. The message names it, its value and the consequence."""


def current() -> Identity:
    """Who this process is. Reads a few files of /proc; takes well under a millisecond."""
    return identify(os.environ, read_facts())


def identify(environ: Mapping[str, str], facts: ProcessFacts) -> Identity:
    """Who a process with this environment is.

    The run name is equal on all ranks, stable over the launcher's restarts and unique among live jobs as far
    as the launcher tells them apart. What cannot be known:

    - torchrun over several nodes without `--rdzv-id`: only MASTER_ADDR and MASTER_PORT are common to the
      nodes. Two jobs one after the other at the same address share name and `run_id`, and with the c10d
      rendezvous a restart moves the port and so renames the run. Give `--rdzv-id` or `run=`.
    - torchrun over several nodes with one `--rdzv-id` used for two jobs: both have the same `run_id`.
    - RANK, WORLD_SIZE and MASTER_ADDR set by hand: again only the address is common; the restart count is not
      told, so that attempts are numbered by their start.
    - A job started anew (by a queue, by hand, as a new pod) is a new job: nothing ties it to the one before,
      so that its `run_id` differs even where the user gives both the same name.
    """
    try:
        found = next((identity for read in LAUNCHERS if (identity := read(environ, facts))), None)
        return found or _plain(facts)
    except _MalformedError as error:
        warning = f"{error}; this process counts as a run of its own with rank 0"
        return replace(_plain(facts), warnings=(warning,))


def _torchrun(environ: Mapping[str, str], facts: ProcessFacts) -> Identity | None:
    """Started by `torchrun` (torch.distributed.run), whose agent restarts ranks and outlives them."""
    if "TORCHELASTIC_RUN_ID" not in environ:
        return None
    ranks = _Ranks.read(environ)
    one_node = ranks.world_size == ranks.local_world_size
    job = environ["TORCHELASTIC_RUN_ID"].strip()
    if job.lower() in ("", "none"):
        job = _digest(facts.launcher if one_node else _endpoint(environ, facts))[:8]
    return ranks.identity(
        "torchrun",
        facts,
        job=job,
        # One agent started all ranks of a node, so it tells two jobs with one --rdzv-id apart.
        told_apart_by=facts.launcher if one_node else "",
        attempt=_count(environ, "TORCHELASTIC_RESTART_COUNT", default=0),
    )


def _by_hand(environ: Mapping[str, str], facts: ProcessFacts) -> Identity | None:
    """RANK, WORLD_SIZE and MASTER_ADDR set by a script or a pod template (PyTorch's `env://`)."""
    if "RANK" not in environ or "WORLD_SIZE" not in environ:
        return None
    endpoint = _endpoint(environ, facts)
    ranks = _Ranks.read(environ, one_node=_is_loopback(environ["MASTER_ADDR"]))
    return ranks.identity(
        "env", facts, job=_digest(endpoint)[:8], told_apart_by=endpoint, attempt=int(facts.start_time)
    )


#: Asked in this order; the first that knows its launcher's variables answers. A new launcher is one function
#: here: it returns None where it does not apply and raises `_MalformedError` for values that cannot be right.
LAUNCHERS: tuple[Callable[[Mapping[str, str], ProcessFacts], Identity | None], ...] = (_torchrun, _by_hand)


def _plain(facts: ProcessFacts) -> Identity:
    """A process that nobody launched as a rank: a run of its own, named by its start (UTC)."""
    started = time.strftime("%Y%m%d-%H%M%S", time.gmtime(facts.start_time))
    return Identity(
        run=_run_name(facts.script, started),
        run_id=_digest("none", facts.process),
        hostname=printable(facts.hostname),
        attempt=int(facts.start_time),
        launcher="none",
    )


@dataclass(frozen=True, kw_only=True)
class _Ranks:
    """The numbers that launchers of PyTorch jobs set, checked against each other."""

    rank: int
    local_rank: int
    node_rank: int
    world_size: int
    local_world_size: int

    @classmethod
    def read(cls, environ: Mapping[str, str], *, one_node: bool = False) -> _Ranks:
        """Read RANK and its companions; what is not set follows from one process a node, or from one node."""
        world_size = _count(environ, "WORLD_SIZE", least=1)
        rank = _count(environ, "RANK", below=world_size, of="WORLD_SIZE")
        local_size = _count(
            environ,
            "LOCAL_WORLD_SIZE",
            default=world_size if one_node else 1,
            least=1,
            below=world_size + 1,
            of="WORLD_SIZE + 1",
        )
        # Where only LOCAL_RANK is told there is no size to hold it against.
        told = "LOCAL_WORLD_SIZE" in environ or one_node
        local_rank = _count(
            environ,
            "LOCAL_RANK",
            default=rank if one_node and rank < local_size else 0,
            below=local_size if told else world_size,
            of="LOCAL_WORLD_SIZE" if told else "WORLD_SIZE",
        )
        node_rank = _count(environ, "GROUP_RANK", default=0 if one_node else rank // local_size)
        return cls(
            rank=rank,
            local_rank=local_rank,
            node_rank=node_rank,
            world_size=world_size,
            local_world_size=local_size,
        )

    def identity(
        self, launcher: str, facts: ProcessFacts, *, job: str, told_apart_by: str, attempt: int
    ) -> Identity:
        """The identity of one of these ranks; `job` is the id that the launcher gives to all of them."""
        return Identity(
            run=_run_name(facts.script, job),
            run_id=_digest(launcher, job, told_apart_by),
            rank=self.rank,
            local_rank=self.local_rank,
            node_rank=self.node_rank,
            world_size=self.world_size,
            local_world_size=self.local_world_size,
            hostname=printable(facts.hostname),
            attempt=attempt,
            launcher=launcher,
        )


def _count(
    environ: Mapping[str, str],
    name: str,
    *,
    default: int | None = None,
    least: int = 0,
    below: int = _COUNT_LIMIT,
    of: str = "2**31",
) -> int:
    """The whole number in variable `name`, at least `least` and below `below`, which `of` names."""
    text = environ.get(name)
    if text is None:
        if default is None:
            raise _MalformedError(f"{name} is not set although the other variables of its launcher are")
        return default
    shown = printable(text, limit=40)
    try:
        value = int(text)
    except ValueError:
        raise _MalformedError(f"{name}={shown!r} is not a whole number") from None
    if not least <= value < below:
        raise _MalformedError(f"{name}={shown!r} must be at least {least} and below {of}")
    return value


def _endpoint(environ: Mapping[str, str], facts: ProcessFacts) -> str:
    """Where the ranks of the job meet, as a text that is equal on all of them."""
    address = environ.get("MASTER_ADDR", "").strip()
    if not address:
        raise _MalformedError("MASTER_ADDR is not set although the other variables of its launcher are")
    # Every host has a localhost: there it takes the host's name to tell two jobs apart.
    host = facts.hostname if _is_loopback(address) else ""
    return f"{host}|{address}:{environ.get('MASTER_PORT', '').strip()}"


def _is_loopback(address: str) -> bool:
    return _LOOPBACK.fullmatch(address.strip()) is not None


def _run_name(script: str, job: str) -> str:
    job = printable(job, limit=4 * TEXT_LIMIT)
    script = printable(script, limit=_SCRIPT_LIMIT) or "python"
    room = TEXT_LIMIT - len(script) - 1
    # Cutting alone would give one name to jobs whose long ids differ at the end.
    return f"{script}-{job if len(job) <= room else job[: room - 9] + '-' + _digest(job)[:8]}"


def _digest(*parts: str) -> str:
    """Twelve hexadecimal digits that stand for these texts."""
    data = "\0".join(parts).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=6).hexdigest()


def printable(text: str, limit: int = TEXT_LIMIT) -> str:
    """The text fit for a label value: `_` for what cannot be printed, at most `limit` characters."""
    text = text[:limit].strip()
    return text if text.isprintable() else "".join(c if c.isprintable() else "_" for c in text)


def read_facts() -> ProcessFacts:
    """Ask the operating system about this process. Missing pieces become empty texts, never an error."""
    hostname = os.uname().nodename
    machine = f"{hostname} {_read('/proc/sys/kernel/random/boot_id').strip()}"
    return ProcessFacts(
        script=script_name(getattr(sys, "argv", None) or [""]),
        start_time=time.time(),
        hostname=hostname,
        process=f"{machine} {os.getpid()} {_started(os.getpid())}",
        launcher=f"{machine} {_launcher_process()}",
    )


def script_name(argv: list[str]) -> str:
    """What the user would call the program: the script's stem, the module's last part, or `notebook`."""
    path = PurePath(argv[0])
    # `python -m package` runs package/__main__.py.
    name = path.parent.name if path.stem == "__main__" else path.stem
    if name == "ipykernel" or name.endswith("kernel_launcher"):
        return "notebook"
    return "python" if name in ("", "-", "-c", "-m") else name


def _launcher_process() -> str:
    """The process that launched this node's ranks: the nearest ancestor that is no rank itself.

    Usually the parent; a wrapper script between the two (numactl, a shell) has a rank's environment.
    """
    parent = pid = os.getppid()
    for _ in range(_MOST_ANCESTORS):
        if "\0TORCHELASTIC_RUN_ID=" not in "\0" + _read(f"/proc/{pid}/environ"):
            return f"{pid} {_started(pid)}"
        pid = _parent(pid)
    return f"{parent} {_started(parent)}"


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat that follow the command's name, which may itself hold anything."""
    return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()


def _parent(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[1]) if len(fields) > 1 else 0


def _started(pid: int) -> str:
    """When the process started, in clock ticks since boot: exact, unlike a time of day worked out from it."""
    fields = _stat(pid)
    return fields[19] if len(fields) > 19 else ""


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        # Another user's process, a process that is gone, or no /proc at all (macOS).
        return ""
