"""Numbers as cells of a table."""

from __future__ import annotations

import math

from trainbeacon.verdict.durations import percent, short

__all__ = ["bytes_of", "number", "percent", "rate", "short", "whole"]

_UNITS = ("B", "K", "M", "G", "T", "P")


def number(value: float | None) -> str:
    """Four digits that count; NaN and infinity as what they are."""
    if value is None:
        return ""
    if not math.isfinite(value):
        return "NaN" if value != value else "inf" if value > 0 else "-inf"
    return f"{value:.4g}"


def whole(value: float | None) -> str:
    """A whole number with its thousands apart."""
    return "" if value is None or not math.isfinite(value) else f"{value:,.0f}"


def bytes_of(value: float | None) -> str:
    """An amount of memory: `58G`."""
    if value is None or not math.isfinite(value):
        return ""
    unit = 0
    while abs(value) >= 1000 and unit < len(_UNITS) - 1:
        value /= 1024
        unit += 1
    return f"{value:.1f}{_UNITS[unit]}" if abs(value) < 10 and unit else f"{value:.0f}{_UNITS[unit]}"


def rate(value: float | None) -> str:
    """An amount a second: `12.3k`."""
    if value is None or not math.isfinite(value):
        return ""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"
