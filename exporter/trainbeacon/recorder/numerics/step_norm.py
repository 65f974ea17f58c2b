"""The gradient norm of a step as the script's own clipping worked it out, joined over all of its calls."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from trainbeacon.recorder.numerics.norms import Norm

#: A call's parameters, known again by the first, the last and their number.
_Key = tuple[int, int, int]
_EVERYTHING: _Key = (0, 0, 0)
_MOST_KNOWN = 64


class Part(NamedTuple):
    """One call that clipped: of what, to which norm."""

    key: _Key
    norm: Norm
    limit: float | None


class StepNorm:
    """Keeps what the calls since the last backward pass found, of one optimizer's parameters.

    A backward pass changes the gradients, so that what was found before it no longer holds. Of calls for the
    same parameters the first counts: it saw the gradients before they were clipped.

    Args:
        parameters: of the optimizer.

    Attributes:
        parts: of which the joint norm is made.
        spoilt: whether the gradients were changed in a way that gives no norm of theirs.
    """

    def __init__(self, parameters: Sequence[Any]) -> None:
        self._own = {id(parameter): parameter for parameter in parameters}
        self._sets: dict[_Key, frozenset[int]] = {_EVERYTHING: frozenset(self._own)}
        self._rests: dict[tuple[_Key, ...], list[Any]] = {}
        self.parts: list[Part] = []
        self.spoilt = False

    def clear(self) -> None:
        """A backward pass begins, or the step is done."""
        if self.parts:
            self.parts = []
        self.spoilt = False

    def add(self, parameters: Any, norm: Norm, limit: float | None) -> None:
        """A call worked out the norm of these parameters' gradients; None stands for all the optimizer's."""
        key = self._key(parameters)
        if key is None:
            return
        if self.parts:
            ids = self._sets[key]
            if any(ids & self._sets[part.key] for part in self.parts):
                return
        self.parts.append(Part(key, norm, limit))

    def concerns(self, parameters: Any) -> bool:
        """Whether some of these are parameters of the optimizer."""
        return self._key(parameters) is not None

    @property
    def joint(self) -> Norm | None:
        """The norm of all parts together, None without any."""
        parts = self.parts
        if len(parts) < 2:
            return parts[0].norm if parts else None
        norms = [part.norm for part in parts]
        if all(isinstance(norm, float) for norm in norms):
            return math.hypot(*norms)
        total: Norm = sum(norm * norm for norm in norms) ** 0.5
        return total

    @property
    def excess(self) -> Norm | None:
        """How far the gradients were above the limits that they were clipped to, at most; None without."""
        ratios = [part.norm / part.limit for part in self.parts if part.limit]
        if not ratios or all(isinstance(ratio, float) for ratio in ratios):
            return max(ratios, default=None)
        import torch

        on_device: list[Any] = [ratio for ratio in ratios if not isinstance(ratio, float)]
        known = max((ratio for ratio in ratios if isinstance(ratio, float)), default=0.0)
        return functools.reduce(torch.maximum, on_device).clamp(min=known)  # type: ignore[no-any-return]

    def rest(self) -> list[Any]:
        """The gradients that no part is of."""
        keys = tuple(part.key for part in self.parts)
        if keys == (_EVERYTHING,):
            return []
        known = self._rests.get(keys)
        if known is None:
            covered = frozenset().union(*(self._sets[key] for key in keys))
            known = [parameter for number, parameter in self._own.items() if number not in covered]
            if len(self._rests) < _MOST_KNOWN:
                self._rests[keys] = known
        return [parameter.grad for parameter in known if parameter.grad is not None]

    def _key(self, parameters: Any) -> _Key | None:
        """The parameters' key; None if the optimizer has none of them."""
        if parameters is None or not isinstance(parameters, Sequence):
            is_one = getattr(parameters, "grad_fn", self) is not self  # a tensor
            if not is_one:
                return _EVERYTHING  # a generator, which only its owner may use up
            parameters = [parameters]
        if not parameters:
            return None
        key = (id(parameters[0]), id(parameters[-1]), len(parameters))
        ids = self._sets.get(key)
        if ids is None or len(self._sets) > _MOST_KNOWN:
            ids = frozenset(map(id, parameters)) & self._own.keys()
            if len(self._sets) > _MOST_KNOWN:
                self._sets = {_EVERYTHING: frozenset(self._own)}
                self.parts = []
            self._sets[key] = ids
        return key if ids else None
