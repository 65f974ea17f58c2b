"""What a rank holds of tensors that are sharded over many (DTensor, FSDP2), without any collective.

Squares add up: each rank gives the sum of the squares of what it holds, divided by how often the
same numbers are held, and the sum over all ranks is the square of the norm. A recording rule takes it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trainbeacon.recorder.numerics.norms import total_norm

if TYPE_CHECKING:
    import torch


def is_sharded(tensor: Any) -> bool:
    """Whether a tensor is a distributed one, of which a rank may hold a part only."""
    return hasattr(tensor, "full_tensor")


def local(tensor: Any) -> torch.Tensor:
    """The part of a tensor that lies on this rank; no copy, no collective, no autograd."""
    held: torch.Tensor = getattr(tensor, "_local_tensor", tensor)
    return held.detach()


def copies(tensor: Any, world_size: int) -> int:
    """How many ranks hold the same numbers as this one; 0 if what it holds is a summand of them.

    A plain tensor is taken to be the same on all ranks, as the parameters are that FSDP ignores.
    """
    if not is_sharded(tensor):
        return world_size
    placements = tensor.placements
    if any(placement.is_partial() for placement in placements):
        return 0
    mesh = tensor.device_mesh
    return math.prod(mesh.size(dim) for dim, each in enumerate(placements) if each.is_replicate())


def squared_norm(tensors: Sequence[Any], world_size: int) -> float | torch.Tensor:
    """Share of this rank in the squared L2 norm of all elements; a tensor if any of them is on a device.

    Reads no device. What is held as a summand only is left out: its squares do not add up.
    """
    import torch

    groups: dict[int, list[torch.Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(copies(tensor, world_size), []).append(local(tensor))
    groups.pop(0, None)
    share: float | torch.Tensor = 0.0
    for held_by, parts in groups.items():
        norm = total_norm(parts)
        if isinstance(norm, torch.Tensor):
            norm = norm.double()  # whose squares do not overflow
        share = share + norm * norm / held_by
    return share
