"""Chance that can be asked again: the same number for the same question, whenever it is asked."""

from __future__ import annotations

import math

_MASK = (1 << 64) - 1


def uniform(*key: int) -> float:
    """A number between 0 and 1 that belongs to this key (splitmix64 of its parts)."""
    state = 0x9E3779B97F4A7C15
    for part in key:
        state = (state ^ (part & _MASK)) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ state >> 27) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return (state >> 11) / (1 << 53)


def normal(*key: int) -> float:
    """A number of the standard normal distribution that belongs to this key."""
    radius = math.sqrt(-2.0 * math.log(1.0 - uniform(*key, 1)))
    return radius * math.cos(2.0 * math.pi * uniform(*key, 2))
