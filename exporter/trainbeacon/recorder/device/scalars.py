"""Turning what a training script logs into a number, at once or later.

Python numbers, NumPy scalars and CPU tensors are read at once. To read a tensor on a CUDA device so
would wait until the device has done everything it was given: its number is copied in the background
and read by the background thread (`deferred.DeferredScalars`). On any other kind of device a tensor is
read plainly.
"""

from __future__ import annotations

import math
from typing import Any

from trainbeacon.recorder.boundary import is_of_the_script

#: Kinds of tensors and scalars of which one was read: to look at each closely costs twice the reading.
_WITH_ITEM: set[type] = set()
_MOST_KINDS = 16


def to_float(name: str, value: Any) -> float:
    """The number in `value`. Raises TypeError that names the argument, what it was and the fix."""
    if isinstance(value, (float, int)):
        return float(value)
    kind: Any = value.__class__
    if kind in _WITH_ITEM:
        try:
            number = value.item()
        except (RuntimeError, ValueError) as error:  # of several elements: said better below
            if is_of_the_script(error):
                raise
            number = None
        if isinstance(number, (float, int)):
            return float(number)
    if hasattr(value, "item"):
        expect_one(name, value)
        number = value.item()
        if isinstance(number, (float, int)):
            if len(_WITH_ITEM) < _MOST_KINDS:
                _WITH_ITEM.add(kind)
            return float(number)
        value = number
    raise not_a_number(name, type(value).__name__, str(value))


def whole(name: str, value: Any) -> int:
    """The whole number in `value` as Python's own, which does not overflow, whatever type it comes in.

    Raises:
        TypeError: it is no number, or it lies on a device, where reading it would wait.
        ValueError: it is negative, infinite or NaN.
    """
    if value.__class__ is int and value >= 0:
        return value
    if on_device(value):
        raise TypeError(f"{name} is a tensor on a device, and reading it would wait for it: give an int")
    number = to_float(name, value)
    if not 0.0 <= number < math.inf:
        raise ValueError(f"{name}={number:g} is no count: give a whole number from 0")
    return int(value) if isinstance(value, int) else round(number)


def on_device(value: Any) -> bool:
    """Whether `value` is a tensor that is read later; asks no device."""
    return getattr(value, "is_cuda", False) is True


def expect_one(name: str, value: Any) -> None:
    """Raise TypeError where `value` is not one number that can be read without a collective."""
    if hasattr(value, "full_tensor"):
        raise TypeError(
            f"{name} is a distributed tensor, and reading it needs a collective, which TrainBeacon never "
            f"runs: log {name}.full_tensor() where all ranks call it"
        )
    elements = value.numel() if hasattr(value, "numel") else getattr(value, "size", 1)
    if elements != 1:
        raise TypeError(f"{name} has {elements} elements, not one: log a mean or a sum of it")


def not_a_number(name: str, kind: str, shown: str) -> TypeError:
    """The error for a value that is not a number, with the fix."""
    return TypeError(
        f"{name} must be a number, a NumPy scalar or a tensor of one element, not {kind} "
        f"({shown[:40]!r}): convert it with float()"
    )


def batch_size(batch: Any, depth: int = 3) -> int:
    """Samples in a batch: the first dimension of the first array found, else the length of a list of samples.

    Looks at most `depth` levels into tuples, lists and dicts; 0 if nothing tells.
    """
    if batch.__class__ is tuple or batch.__class__ is list:  # the usual batch, without a copy
        shape = getattr(batch[0], "shape", None) if batch else None
        if shape and shape[0]:
            return int(shape[0])
    shape = getattr(batch, "shape", None)
    if shape is not None:
        return int(shape[0]) if len(shape) else 0
    if isinstance(batch, dict):
        items = list(batch.values())
    elif isinstance(batch, (list, tuple)):
        items = list(batch)
    else:
        return 0
    if depth:
        for item in items:
            found = batch_size(item, depth - 1)
            if found:
                return found
    return len(items) if isinstance(batch, list) else 0
