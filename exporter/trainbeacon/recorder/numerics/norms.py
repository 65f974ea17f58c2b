"""Norms of tensors, without waiting for a device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from trainbeacon.recorder.device.scalars import on_device

if TYPE_CHECKING:
    import torch

    #: A number, or a tensor on a device that holds it and is read later.
    Norm: TypeAlias = float | torch.Tensor


def total_norm(tensors: Sequence[torch.Tensor]) -> Norm:
    """L2 norm of all elements of the tensors together; a tensor if any of them is on a device."""
    import torch

    with torch.no_grad():
        norms = [_norm(tensor.detach()) for tensor in tensors]
        device = next((norm.device for norm in norms if on_device(norm)), norms[0].device)
        exact = torch.float32 if device.type == "mps" else torch.float64
        parts = [norm.to(exact).to(device, non_blocking=True) for norm in norms]
        total = torch.linalg.vector_norm(torch.stack(parts))
        return total if on_device(total) else float(total.item())


def joined(one: Norm | None, other: Norm) -> Norm:
    """The norm of two sets of elements together, of their norms."""
    if one is None:
        return other
    if isinstance(one, float) and isinstance(other, float):
        return math.hypot(one, other)
    return (one * one + other * other) ** 0.5


def _norm(tensor: torch.Tensor) -> torch.Tensor:
    import torch

    if tensor.is_sparse:
        tensor = tensor.coalesce().values()
    half = tensor.dtype in (torch.float16, torch.bfloat16)  # whose squares overflow
    norm: torch.Tensor = torch.linalg.vector_norm(tensor, dtype=torch.float32 if half else None)
    return norm
