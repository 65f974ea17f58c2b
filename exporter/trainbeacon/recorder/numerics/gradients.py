"""Norms of gradients, parameters and updates, sampled so that they cost at most 0.1 % of the time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from trainbeacon.recorder.device.scalars import on_device
from trainbeacon.recorder.numerics.norms import total_norm
from trainbeacon.recorder.numerics.shards import is_sharded, local, squared_norm

if TYPE_CHECKING:
    import torch

    from trainbeacon.recorder.numerics.norms import Norm

#: Share of the wall time that sampling may take: norms and layers (`layers`) come to 0.1 % together.
TIME_SHARE = 0.0005
#: Seconds between two samples at least, however cheap they are.
LEAST_INTERVAL = 1.0
#: Weights whose change the update ratio is estimated from.
UPDATE_WEIGHTS = 1 << 20
#: What a device is estimated to read in a second: its time cannot be measured without waiting for it.
DEVICE_BYTES_PER_SECOND = 200e9


class NormProbe:
    """Samples around one optimizer's step. Never runs a collective, never waits for a device.

    What is on a device gives a tensor, for `set_gauge` to have read later. If any parameter is sharded
    there is no norm of the whole on this rank: it gives the squares of what it holds (`shards`), and the
    update ratio of its own shards.

    Args:
        parameters: the optimizer's parameters.
        set_gauge: called with a metric's name and its value.
        clock: monotonic seconds.
        world_size: ranks that hold a copy of a parameter that is not sharded while others are.

    Attributes:
        next: when the next sample is due, by the clock.
    """

    def __init__(
        self,
        parameters: Sequence[torch.Tensor],
        set_gauge: Callable[[str, Norm], None],
        clock: Callable[[], float] = time.monotonic,
        world_size: int = 1,
    ) -> None:
        self._parameters = list(parameters)
        self._sharded = any(is_sharded(parameter) for parameter in parameters)
        self._world_size = world_size
        self._set = set_gauge
        self._clock = clock
        self.next = 0.0
        self._before: list[torch.Tensor] = []
        self._spent = 0.0

    def before_step(self, *, norm_is_known: bool) -> Norm | None:
        """Take a sample if one is due. Returns the gradient norm if it was not known and could be read."""
        start = self._clock()
        if start < self.next or not self._parameters:
            return None
        gradients = self._gradients()
        norm = None
        if _can_be_read(gradients):
            if self._sharded:
                self._set("training_gradient_squared_norm", squared_norm(gradients, self._world_size))
            elif not norm_is_known:
                norm = total_norm(gradients)
        self._before = [piece.clone() for piece in self._pieces()]
        self._spent = self._clock() - start
        return norm

    def norm_now(self) -> Norm | None:
        """The gradient norm, if it can be read."""
        gradients = self._gradients()
        return total_norm(gradients) if _can_be_read(gradients) and not self._sharded else None

    def _gradients(self) -> list[torch.Tensor]:
        return [parameter.grad for parameter in self._parameters if parameter.grad is not None]

    def after_step(self) -> None:
        """Finish the sample that `before_step` began, if it began one."""
        if not self._before:
            return
        start = self._clock()
        weights = total_norm(self._before)
        if on_device(weights) or weights > 0:
            changes = [now - before for now, before in zip(self._pieces(), self._before, strict=True)]
            self._set("training_update_ratio", total_norm(changes) / weights)
        if self._sharded:
            self._set("training_parameter_squared_norm", squared_norm(self._parameters, self._world_size))
        else:
            self._set("training_parameter_norm", total_norm(self._parameters))
        self._before = []
        end = self._clock()
        spent = max(self._spent + end - start, device_seconds(self._parameters))
        self.next = end + max(LEAST_INTERVAL, spent / TIME_SHARE)

    @property
    def sampling(self) -> bool:
        """Whether a sample is begun and not finished."""
        return bool(self._before)

    def _pieces(self) -> list[torch.Tensor]:
        """The first weights of every parameter, some 2^20 in all."""
        each = max(1, UPDATE_WEIGHTS // len(self._parameters))
        return [local(parameter).reshape(-1)[:each] for parameter in self._parameters]


def device_seconds(parameters: Iterable[torch.Tensor]) -> float:
    """What a sample costs a device: it reads the gradients and the weights once."""
    held = [local(parameter) for parameter in parameters]
    sizes = [part.numel() * part.element_size() for part in held if on_device(part)]
    return 2 * sum(sizes) / DEVICE_BYTES_PER_SECOND


def _can_be_read(gradients: Sequence[torch.Tensor]) -> bool:
    """Whether there is a norm that is had without a wait: to sum a sparse tensor's doubled rows takes one."""
    return bool(gradients) and not any(gradient.is_sparse and on_device(gradient) for gradient in gradients)
