"""Times and shares as people read them: `3 min 20 s`, `14:32`, `Tue 14:32`, `35 %`."""

from __future__ import annotations

import math
import time

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))


def duration(seconds: float) -> str:
    """A time span, to two units at most."""
    if not math.isfinite(seconds):
        return "?"
    whole = max(0, round(seconds))
    for position, (size, unit) in enumerate(_UNITS):
        if whole >= size:
            rest_size, rest_unit = (*_UNITS, (1, "s"))[position + 1]
            rest = whole % size // rest_size
            return f"{whole // size} {unit} {rest} {rest_unit}" if rest else f"{whole // size} {unit}"
    return f"{whole} s"


def short(seconds: float | None) -> str:
    """A time span in one unit, for a column: `850ms`, `12s`, `4m`, `3h`, `2d`."""
    if seconds is None or not math.isfinite(seconds):
        return ""
    if seconds < 1:
        return f"{max(0.0, seconds) * 1000:.0f}ms"
    if seconds < 10:
        return f"{seconds:.1f}s"
    for most, size, unit in ((100, 1, "s"), (6_000, 60, "m"), (172_800, 3_600, "h")):
        if seconds < most:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds / 86_400:.0f}d"


def moment(at: float, now: float) -> str:
    """A point in time, by the clock of this machine: the hour today, the day within a week, else the date."""
    if not math.isfinite(at) or abs(at - now) > 5e9:
        return "?"
    local, today = time.localtime(at), time.localtime(now)
    if local[:3] == today[:3]:
        return time.strftime("%H:%M", local)
    if abs(at - now) < 6 * 86_400:
        return time.strftime("%a %H:%M", local)
    return time.strftime("%Y-%m-%d %H:%M", local)


def percent(share: float | None) -> str:
    """A share: `35 %`, `0.4 %`."""
    if share is None or not math.isfinite(share):
        return ""
    return f"{share * 100:.0f} %" if abs(share) >= 0.01 else f"{share * 100:.1f} %"
