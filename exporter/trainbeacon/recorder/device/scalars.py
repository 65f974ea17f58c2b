"""Turning what a training script logs into a number, at once or later.

Python numbers, NumPy scalars and CPU tensors are read at once. To read a tensor on a CUDA device so
would wait until the device has done everything it was given: its number is copied in the background
and read by the background thread (`deferred.DeferredScalars`). On any other kind of device a tensor is
read plainly.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from decimal import Decimal
from numbers import Rational
from typing import Any

from trainbeacon.recorder.boundary import is_of_the_script

#: Kinds of tensors and scalars of which one was read: to look at each closely costs twice the reading.
_WITH_ITEM: set[type] = set()
_MOST_KINDS = 16
#: Arrays of one shape in a list: up to so many are taken for inputs and targets of a batch, more for samples.
_MOST_PARTS = 4


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
    if isinstance(value, (Decimal, Rational)):
        return float(value)
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
    exact = value.item() if hasattr(value, "item") else value
    return int(exact) if isinstance(exact, int) else round(number)


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
    """Samples in a batch: the first dimension of the first array found, or the length of a list of samples.

    Looks at most `depth` levels into tuples, lists, mappings and dataclasses; 0 if nothing tells.
    """
    if batch.__class__ is tuple:  # the usual batch, without a copy
        shape = getattr(batch[0], "shape", None) if batch else None
        if shape and shape[0]:
            return int(shape[0])
    size = _size_given(batch)
    if size is not None:
        return size
    if isinstance(batch, list) and _holds_samples(batch):
        return len(batch)
    items = _parts_of(batch)
    if depth:
        for item in items:
            found = batch_size(item, depth - 1)
            if found:
                return found
    return len(items) if isinstance(batch, list) else 0


def _size_given(batch: Any) -> int | None:
    """What the batch itself says: a graph batch, a packed sequence, an array."""
    graphs = getattr(batch, "num_graphs", None)
    if isinstance(graphs, int):
        return graphs
    packed = getattr(batch, "batch_sizes", None)
    if packed is not None and hasattr(batch, "data"):
        return int(packed[0]) if len(packed) else 0
    shape = getattr(batch, "shape", None)
    if shape is None:
        return None
    return int(shape[0]) if len(shape) else 0


def _parts_of(batch: Any) -> list[Any]:
    if isinstance(batch, Mapping):
        return list(batch.values())
    if isinstance(batch, (list, tuple)):
        return list(batch)
    if dataclasses.is_dataclass(batch):
        return [getattr(batch, field.name) for field in dataclasses.fields(batch)]
    return []


def _holds_samples(batch: list[Any]) -> bool:
    """Whether a list is of samples, one by one, and not of the parts of a batch (`default_collate`)."""
    if not batch or isinstance(batch[0], Mapping):
        return bool(batch)
    shapes = [tuple(getattr(item, "shape", None) or ()) for item in batch]
    if not all(shapes):
        return False
    same = len(set(shapes)) == 1
    return len(batch) > _MOST_PARTS if same else len({shape[0] for shape in shapes}) > 1
