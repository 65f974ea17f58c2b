"""Norms of gradients, parameters and updates, sampled so that they cost at most 0.1 % of the time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

#: Share of the wall time that sampling may take.
TIME_SHARE = 0.001
#: Seconds between two samples at least, however cheap they are.
LEAST_INTERVAL = 1.0
#: Weights whose change the update ratio is estimated from.
UPDATE_WEIGHTS = 1 << 20


class NormProbe:
    """Samples around one optimizer's step. Never runs a collective: sharded parameters are left out.

    Args:
        parameters: the optimizer's parameters.
        set_gauge: called with a metric's name and its value.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        parameters: Sequence[torch.Tensor],
        set_gauge: Callable[[str, float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._parameters = [parameter for parameter in parameters if not hasattr(parameter, "full_tensor")]
        self._set = set_gauge
        self._clock = clock
        self._next = 0.0
        self._before: list[torch.Tensor] = []
        self._spent = 0.0

    def before_step(self, *, norm_is_known: bool) -> float | None:
        """Take a sample if one is due. Returns the gradient norm if it was not known and could be read."""
        start = self._clock()
        if start < self._next or not self._parameters:
            return None
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        norm = None if norm_is_known or not gradients else total_norm(gradients)
        self._before = [piece.clone() for piece in self._pieces()]
        self._spent = self._clock() - start
        return norm

    def after_step(self) -> None:
        """Finish the sample that `before_step` began, if it began one."""
        if not self._before:
            return
        start = self._clock()
        weights = total_norm(self._before)
        if weights > 0:
            changes = [now - before for now, before in zip(self._pieces(), self._before, strict=True)]
            self._set("training_update_ratio", total_norm(changes) / weights)
        self._set("training_parameter_norm", total_norm(self._parameters))
        self._before = []
        end = self._clock()
        self._next = end + max(LEAST_INTERVAL, (self._spent + end - start) / TIME_SHARE)

    def _pieces(self) -> list[torch.Tensor]:
        """The first weights of every parameter, some 2^20 in all."""
        each = max(1, UPDATE_WEIGHTS // len(self._parameters))
        return [parameter.detach().reshape(-1)[:each] for parameter in self._parameters]


def total_norm(tensors: Sequence[torch.Tensor]) -> float:
    """L2 norm of all elements of the tensors together; waits for their device."""
    import torch

    with torch.no_grad():
        norms = [_norm(tensor.detach()) for tensor in tensors]
        norms = [norm.to(norms[0].device, torch.float32) for norm in norms]
        return float(torch.linalg.vector_norm(torch.stack(norms)).item())


def _norm(tensor: torch.Tensor) -> torch.Tensor:
    import torch

    if tensor.is_sparse:  # an embedding's: rows that occur more than once count as their sum
        tensor = tensor.coalesce().values()
    is_half = tensor.dtype in (torch.float16, torch.bfloat16)
    norm: torch.Tensor = torch.linalg.vector_norm(tensor, dtype=torch.float32 if is_half else None)
    return norm
