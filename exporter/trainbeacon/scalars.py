"""Turning what a training script logs into a number.

CPU tensors and NumPy scalars are read at once. A tensor on a device is read plainly, which waits for
the device.
"""

from __future__ import annotations

from typing import Any


def to_float(name: str, value: Any) -> float:
    """The number in `value`. Raises TypeError that names the argument, what it was and the fix."""
    if isinstance(value, (float, int)):
        return float(value)
    if hasattr(value, "item"):
        if hasattr(value, "full_tensor"):
            raise TypeError(
                f"{name} is a distributed tensor, and reading it needs a collective, which TrainBeacon never "
                f"runs: log {name}.full_tensor() where all ranks call it"
            )
        elements = _elements(value)
        if elements != 1:
            raise TypeError(f"{name} has {elements} elements, not one: log a mean or a sum of it")
        number = value.item()
        if isinstance(number, (float, int)):
            return float(number)
        value = number
    raise TypeError(
        f"{name} must be a number, a NumPy scalar or a tensor of one element, not {type(value).__name__} "
        f"({str(value)[:40]!r}): convert it with float()"
    )


def _elements(value: Any) -> int:
    if hasattr(value, "numel"):
        return int(value.numel())
    return int(getattr(value, "size", 1))


def batch_size(batch: Any, depth: int = 3) -> int:
    """Samples in a batch: the first dimension of the first array found, else the length of a list of samples.

    Looks at most `depth` levels into tuples, lists and dicts; 0 if nothing tells.
    """
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
