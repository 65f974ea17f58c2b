"""Chance that can be asked again: the same number for the same question, whenever it is asked."""

from __future__ import annotations

import math

_MASK = (1 << 64) - 1


def uniform(*key: int) -> float:
    """A number between 0 and 1 that belongs to this key. Whole numbers hash alike in every process."""
    state = hash(key) * 0x9E3779B97F4A7C15 & _MASK
    state = (state ^ state >> 32) * 0xBF58476D1CE4E5B9 & _MASK
    return (state ^ state >> 29) / (1 << 64)


def normal(*key: int) -> float:
    """A number of the standard normal distribution that belongs to this key."""
    radius = math.sqrt(-2.0 * math.log(1.0 - uniform(*key, 1)))
    return radius * math.cos(2.0 * math.pi * uniform(*key, 2))
