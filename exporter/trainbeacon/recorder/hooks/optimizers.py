"""Finding the torch optimizers in what a framework hands over, and telling a step that no hook shows."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

#: Where wrappers keep what they wrap: accelerate, DeepSpeed, Apex; Lightning; sharpness-aware ones; others.
_INNER = ("optimizer", "_optimizer", "base_optimizer", "basic_optimizer", "inner_optimizer", "optim")
#: Where those of several optimizers keep them: Megatron's chain; one that steps in the backward pass.
_SEVERAL = ("chained_optimizers", "optimizers", "optim_map")
_MOST_WRAPPERS = 8
#: Parameters whose versions stand for all of an optimizer's.
_MOST_WATCHED = 4


@dataclass(frozen=True)
class Found:
    """A torch optimizer, and what it was wrapped in, the outermost first."""

    optimizer: Any
    wrappers: tuple[Any, ...] = ()

    @property
    def inner(self) -> Any:
        """The torch optimizer that this one holds for the same parameters; None without one.

        The script may step it by other methods of the outer one, as sharpness-aware optimizers are.
        """
        inner = _inner(self.optimizer)
        if not _has_hooks(inner) or inner is self.optimizer:
            return None
        own = {id(parameter) for parameter in parameters_of(self.optimizer)}
        return inner if own.intersection(map(id, parameters_of(inner))) else None

    def whole_norm(self) -> Any:
        """The gradient norm before clipping that a wrapper worked out for its last step; None without one.

        DeepSpeed's optimizers keep it, and clip by code of their own.
        """
        for wrapper in self.wrappers:
            norm = getattr(wrapper, "_global_grad_norm", None)
            if norm is not None:
                return norm
        return None

    @property
    def clips_by_itself(self) -> bool:
        """Whether a wrapper changes gradients out of sight."""
        return any(hasattr(wrapper, "_global_grad_norm") for wrapper in self.wrappers)


def optimizers_in(given: Any) -> list[Found]:
    """The torch optimizers in what was given to `watch`: one, several, a mapping of them, or wrappers.

    Raises:
        TypeError: something that holds none.
    """
    return list(_find(given, (), _MOST_WRAPPERS))


def _find(given: Any, wrappers: tuple[Any, ...], depth: int) -> Iterator[Found]:
    inner = _inner(given)
    if _has_hooks(given) and not _shares_hooks(given, inner):
        yield Found(given, wrappers)
    elif isinstance(given, Mapping):
        for each in given.values():
            yield from _find(each, wrappers, depth)
    elif isinstance(given, Iterable) and not hasattr(given, "step"):
        for each in given:
            yield from _find(each, wrappers, depth)
    elif inner is not None and depth:
        yield from _find(inner, (*wrappers, given), depth - 1)
    else:
        raise TypeError(
            f"watch() found no torch optimizer in {type(given).__name__}: give the torch.optim.Optimizer "
            "that it steps, or none and call step() around each step"
        )


def _inner(given: Any) -> Any:
    """What a wrapper wraps, None of what wraps nothing."""
    for name in (*_INNER, *_SEVERAL):
        found = _attribute(given, name)
        if found is not None and found is not given and (name in _SEVERAL or hasattr(found, "step")):
            return found
    return next((each for each in _own(given).values() if _has_hooks(each)), None)


def _attribute(given: Any, name: str) -> Any:
    try:
        return getattr(given, name, None)
    except Exception:  # noqa: BLE001 - a property of the wrapper's own
        return None


def _own(given: Any) -> Mapping[str, Any]:
    return getattr(given, "__dict__", None) or {}


def _has_hooks(given: Any) -> bool:
    """Whether hooks can be put on it: not on a subclass that never called `Optimizer.__init__`."""
    return "_optimizer_step_pre_hooks" in _own(given)


def _shares_hooks(given: Any, inner: Any) -> bool:
    """Whether it is a copy of the attributes of what it wraps, as Lightning's are."""
    hooks = _own(given).get("_optimizer_step_pre_hooks")
    return inner is not None and _own(inner).get("_optimizer_step_pre_hooks") is hooks


def parameters_of(optimizer: Any) -> list[Any]:
    """All parameters of an optimizer."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def versions_of(optimizer: Any) -> Callable[[], int]:
    """Gives a number that changes with the weights of an optimizer: torch counts the writes to a tensor.

    Asks no device.
    """
    trained = [each for each in parameters_of(optimizer) if each.requires_grad]
    apart = max(1, len(trained) // _MOST_WATCHED)
    watched = [weakref.ref(each) for each in trained[::apart][:_MOST_WATCHED]]

    def versions() -> int:
        total = 0
        for reference in watched:
            parameter = reference()
            if parameter is not None:
                total += parameter._version
        return total

    return versions
