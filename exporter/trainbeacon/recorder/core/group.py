"""The default process group of torch.distributed, which knows best who this process is."""

from __future__ import annotations

import sys
from typing import Any

from trainbeacon.identity import Identity, Place, in_group, read_facts


def place_in_group() -> Place | None:
    """Rank and size as the initialised process group has them; None without one. Loads nothing."""
    distributed: Any = sys.modules.get("torch.distributed")
    try:
        if distributed is None or not distributed.is_available() or not distributed.is_initialized():
            return None
        return Place(distributed.get_rank(), distributed.get_world_size())
    except Exception:  # noqa: BLE001 - half imported, or being taken down by another thread
        return None


def corrected(identity: Identity) -> Identity:
    """The identity as the process group has it, where there is one and it says something else."""
    place = place_in_group()
    if place is None or place == Place(identity.rank, identity.world_size):
        return identity
    return in_group(identity, place, read_facts(), spawned=is_spawned())


def is_spawned() -> bool:
    """Whether `multiprocessing` started this process."""
    process: Any = sys.modules.get("multiprocessing.process")
    return process is not None and process.parent_process() is not None
