"""What the process group of torch.distributed adds to, or corrects in, what the launcher left."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, NamedTuple

from .base import (
    Environ,
    Identity,
    MalformedError,
    ProcessFacts,
    digest,
    endpoint,
    is_loopback,
    run_name,
    short,
)

LAUNCHER = "process_group"


class Place(NamedTuple):
    """Where a process stands in its process group."""

    rank: int
    world_size: int


def in_group(
    identity: Identity,
    place: Place,
    facts: ProcessFacts,
    *,
    spawned: bool,
    environ: Environ | None = None,
) -> Identity:
    """The identity with the rank that the process group gives.

    A process that no launcher made a rank gets a name, too, that all ranks of its group work out: from the
    address where they met, or from the process that spawned them.

    Args:
        identity: what the launcher's variables said.
        place: what the process group says.
        facts: of this process.
        spawned: whether `multiprocessing` started it.
        environ: the environment, by default the process's own.
    """
    environ = os.environ if environ is None else environ
    local: dict[str, Any] = {"local_rank": place.rank, "local_world_size": place.world_size, "node_rank": 0}
    if identity.launcher != "none":
        kept = (
            identity.local_world_size <= place.world_size and identity.local_rank < identity.local_world_size
        )
        said = f"the launcher ({identity.launcher}) says rank {identity.rank} of {identity.world_size}"
        return replace(
            identity,
            rank=place.rank,
            world_size=place.world_size,
            **({} if kept else local),
            warnings=(
                f"{said}, torch.distributed rank {place.rank} of {place.world_size}, which counts: "
                "set RANK, LOCAL_RANK and WORLD_SIZE before the start",
            ),
        )
    meeting, one_host = _meeting(environ, facts, spawned=spawned)
    named: dict[str, Any] = {}
    warnings: tuple[str, ...] = ()
    if meeting:
        job = short(meeting)
        named = {"run": run_name(facts.script, job), "run_id": digest(job, meeting)}
    elif place.world_size > 1:
        warnings = (
            f"nothing tells what the {place.world_size} ranks have in common, so each names its own run: "
            "give start(run=...), or set MASTER_ADDR and MASTER_PORT",
        )
    where: dict[str, Any] = local if one_host else {"local_rank": _local_rank(environ, place)}
    return replace(
        identity,
        rank=place.rank,
        world_size=place.world_size,
        launcher=LAUNCHER if place.world_size > 1 else identity.launcher,
        warnings=warnings,
        **where,
        **(named if place.world_size > 1 else {}),
    )


def _meeting(environ: Environ, facts: ProcessFacts, *, spawned: bool) -> tuple[str, bool]:
    """What all ranks have in common, empty where nothing is known, and whether they are on one host."""
    try:
        address = environ.get("MASTER_ADDR", "").strip()
        if address and not is_loopback(address):
            return endpoint(environ, facts), False
        if spawned:  # the port of a tutorial is the same in every run
            return facts.launcher, True
        return (endpoint(environ, facts), True) if address else ("", False)
    except MalformedError:
        return "", False


def _local_rank(environ: Environ, place: Place) -> int:
    text = environ.get("LOCAL_RANK", "")
    return int(text) if text.isdecimal() and int(text) < place.world_size else 0
