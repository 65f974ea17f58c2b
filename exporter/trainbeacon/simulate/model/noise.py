"""Chance that can be asked again: the same number for the same question, whenever it is asked."""

from __future__ import annotations

_MASK = (1 << 64) - 1
_THIRD = (1 << 21) - 1


def uniform(*key: int) -> float:
    """A number between 0 and 1 that belongs to this key. Whole numbers hash alike in every process."""
    return _bits(key) / (1 << 64)


def normal(*key: int) -> float:
    """A number of mean 0 and deviation 1 that belongs to this key: the sum of three even ones, at most 3."""
    bits = _bits(key)
    return ((bits & _THIRD) + (bits >> 21 & _THIRD) + (bits >> 42 & _THIRD)) * (2.0 / _THIRD) - 3.0


def _bits(key: tuple[int, ...]) -> int:
    state = hash(key) * 0x9E3779B97F4A7C15 & _MASK
    state = (state ^ state >> 32) * 0xBF58476D1CE4E5B9 & _MASK
    return state ^ state >> 29
