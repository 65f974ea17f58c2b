"""Kubernetes: the Job, JobSet, TrainJob or PyTorchJob that a pod belongs to, as far as the pod can tell.

A pod knows its own host name and what its template sets. It does not know how often its job was
restarted, unless the template passes that on.
"""

from __future__ import annotations

import re

from .base import Environ, Identity, Job, ProcessFacts, Ranks, count, is_loopback

# The first pod of a JobSet, and so of a TrainJob: <jobset>-<replicated job>-<job>-<pod>.<jobset>[...]
_IN_DOMAIN = re.compile(r"(?P<host>[^.:]+)\.(?P<domain>[^.:]+)(?:[.:].*)?")
# The first pod of a PyTorchJob: <job>-master-0, or of an elastic one <job>-worker-0
_REPLICA = re.compile(r"(?P<job>[^.:]+)-(?:master|worker)-\d+(?:[.:].*)?")
#: What torchrun takes for its options: set by the template, unlike MASTER_ADDR, which torchrun sets anew.
_OPTIONS = ("PET_MASTER_ADDR", "PET_RDZV_ENDPOINT")


def kubernetes_job(environ: Environ, facts: ProcessFacts) -> Job | None:
    """The job that the pod belongs to: the same in all pods of a run, also in those that replace others."""
    if "KUBERNETES_SERVICE_HOST" not in environ:
        return None
    if _is_alone(environ):
        # The pods of one Job may each train for themselves: a sweep.
        name = _own_name(environ, facts) or _named_by_address(environ, _OPTIONS)
    else:
        name = (
            environ.get("JOBSET_NAME", "").strip()
            or _named_by_address(environ, (*_OPTIONS, "MASTER_ADDR"))
            or _indexed_job(environ, facts)
        )
    return Job(name=name, restarts=_restarts(environ)) if name else None


def kubernetes(environ: Environ, facts: ProcessFacts, outer: Job | None) -> Identity | None:
    """A pod that nobody tells ranks: a run of one, which keeps its name when another pod takes its place."""
    return Ranks().identity("kubernetes", facts, outer) if outer else None


def _is_alone(environ: Environ) -> bool:
    """Whether the pod's ranks are all there are, now and if the job is elastic later."""
    if environ.get("PET_NNODES", "1").strip() != "1":
        return False
    if is_loopback(environ.get("MASTER_ADDR", "")):
        return True
    # torchrun and DeepSpeed have different names for the second one.
    local = (environ.get("LOCAL_WORLD_SIZE"), environ.get("LOCAL_SIZE"))
    return environ.get("WORLD_SIZE", "1") in ("1", *local)


def _restarts(environ: Environ) -> int | None:
    attempt = environ.get("JOBSET_RESTART_ATTEMPT", "").strip()
    return count(environ, "JOBSET_RESTART_ATTEMPT") if attempt else None


def _named_by_address(environ: Environ, variables: tuple[str, ...]) -> str | None:
    """The JobSet or PyTorchJob, out of the address of its first pod."""
    for variable in variables:
        address = environ.get(variable, "").strip()
        found = _IN_DOMAIN.fullmatch(address)
        if found and re.fullmatch(rf"{re.escape(found['domain'])}-.+-\d+-\d+", found["host"]):
            return found["domain"]
        if found := _REPLICA.fullmatch(address):
            return found["job"]
    return None


def _indexed_job(environ: Environ, facts: ProcessFacts) -> str | None:
    """The Indexed Job, whose pods have the host names <job>-<index>; not on the network of the node."""
    index = environ.get("JOB_COMPLETION_INDEX", "").strip()
    job, _, last = facts.hostname.rpartition("-")
    return job if index and last == index else None


def _own_name(environ: Environ, facts: ProcessFacts) -> str | None:
    """The host name of a pod of an Indexed Job: its successor gets the same."""
    return facts.hostname if _indexed_job(environ, facts) else None
