"""PyTorch's own conventions: torchrun (and accelerate, which starts it), DeepSpeed, `env://` by hand."""

from __future__ import annotations

from .base import Environ, Identity, Job, ProcessFacts, Ranks, count, endpoint, is_loopback, ranks_from, short


def torchrun(environ: Environ, facts: ProcessFacts, outer: Job | None) -> Identity | None:
    """Started by `torchrun` (torch.distributed.run), whose agent restarts ranks and outlives them."""
    if "TORCHELASTIC_RUN_ID" not in environ:
        return None
    ranks = _ranks(environ)
    job = outer or Job(name=_rendezvous(environ, facts, ranks), restarts=0)
    restarts = count(environ, "TORCHELASTIC_RESTART_COUNT", default=0)
    return ranks.identity("torchrun", facts, job, restarts=restarts)


def _rendezvous(environ: Environ, facts: ProcessFacts, ranks: Ranks) -> str:
    """The id of torchrun's job. It must not depend on how many nodes an elastic job has just now."""
    given = environ["TORCHELASTIC_RUN_ID"].strip()
    if given.lower() not in ("", "none"):
        return given
    one_node = ranks.world_size == ranks.local_world_size
    # Without an id: one agent started all ranks of a node, several agents meet at one address.
    return short(facts.launcher if one_node else endpoint(environ, facts))


def deepspeed(environ: Environ, facts: ProcessFacts, outer: Job | None) -> Identity | None:
    """Started by DeepSpeed's own launcher: `deepspeed train.py`, over several nodes through pdsh."""
    if not {"RANK", "CROSS_RANK", "CROSS_SIZE", "LOCAL_SIZE"} <= environ.keys():
        return None
    ranks = ranks_from(
        environ, rank="RANK", world_size="WORLD_SIZE", local_rank="LOCAL_RANK", local_world_size="LOCAL_SIZE"
    )
    one_node = count(environ, "CROSS_SIZE", least=1) == 1
    job = outer or Job(name=short(facts.launcher if one_node else endpoint(environ, facts)))
    return ranks.identity("deepspeed", facts, job)


def by_hand(environ: Environ, facts: ProcessFacts, outer: Job | None) -> Identity | None:
    """RANK and WORLD_SIZE set by a script, a pod template or an operator (PyTorch's `env://`)."""
    if "RANK" not in environ or "WORLD_SIZE" not in environ:
        return None
    place = "" if outer else endpoint(environ, facts)
    one_node = outer is None and is_loopback(environ["MASTER_ADDR"])
    job = outer or Job(name=short(place), told_apart_by=place)
    return _ranks(environ, one_node=one_node).identity("env", facts, job)


def lightning(environ: Environ, facts: ProcessFacts, outer: Job | None) -> Identity | None:
    """A rank that Lightning or Fabric started under plain `python`: the script run again, without RANK.

    The first rank is the script itself, before any of this is set: its process group tells it later. How
    many ranks the nodes before have is not said, so that those of further nodes are left to the group too.
    """
    known = {"LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR"} <= environ.keys()
    if not known or "RANK" in environ or count(environ, "NODE_RANK") or outer is not None:
        return None
    place = endpoint(environ, facts)
    world_size = count(environ, "WORLD_SIZE", least=1)
    rank = count(environ, "LOCAL_RANK", below=world_size, of="WORLD_SIZE")
    one_node = is_loopback(environ["MASTER_ADDR"])
    ranks = Ranks(
        rank=rank,
        local_rank=rank,
        world_size=world_size,
        local_world_size=world_size if one_node else rank + 1,
    )
    return ranks.identity("lightning", facts, Job(name=short(place), told_apart_by=place))


def _ranks(environ: Environ, *, one_node: bool = False) -> Ranks:
    """RANK and its companions; what is not set follows from one process a node, or from one node."""
    world_size = count(environ, "WORLD_SIZE", least=1)
    rank = count(environ, "RANK", below=world_size, of="WORLD_SIZE")
    local_size = count(
        environ,
        "LOCAL_WORLD_SIZE",
        default=world_size if one_node else 1,
        least=1,
        below=world_size + 1,
        of="WORLD_SIZE + 1",
    )
    # Where only LOCAL_RANK is set there is no size to hold it against.
    has_size = "LOCAL_WORLD_SIZE" in environ or one_node
    local_rank = count(
        environ,
        "LOCAL_RANK",
        default=rank if one_node and rank < local_size else 0,
        below=local_size if has_size else world_size,
        of="LOCAL_WORLD_SIZE" if has_size else "WORLD_SIZE",
    )
    return Ranks(
        rank=rank,
        local_rank=local_rank,
        node_rank=count(environ, "GROUP_RANK", default=0 if one_node else rank // local_size),
        world_size=world_size,
        local_world_size=local_size,
    )
