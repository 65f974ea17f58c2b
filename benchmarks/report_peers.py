"""The rows of the table that stand beside other loggers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Row = tuple[str, str, str, str]


def beside(part: dict[str, Any]) -> Iterator[Row]:
    """Logging ten numbers, and the watched step, each in a process of its own."""
    ours = part["log"]["trainbeacon"]
    for number, (name, figures) in enumerate(part["log"].items()):
        if figures is not ours:
            what = "`beacon.log` of 10 numbers, a process each"
            yield what, _logged(ours), f"{name}: {_logged(figures, ours)}", "" if number > 1 else "2.5 us"
    ours = part["step"]["trainbeacon"]
    for number, (name, figures) in enumerate(part["step"].items()):
        if figures is not ours and name != "plain":
            what = "hooked step, a process each: watch, batches, log"
            yield what, _added(ours), f"{name}: {_added(figures)}", "" if number > 1 else "30 us"


def footprint(part: dict[str, Any]) -> Iterator[Row]:
    """What starting takes, and what serving holds."""
    start = part["start"]
    others = "; ".join(
        f"{name}: {_started(told)}" for name, told in start.items() if "trainbeacon" not in name
    )
    modes = {
        "trainbeacon": "off",
        "trainbeacon, exporter process": "process",
        "trainbeacon, exporter thread": "thread",
    }
    for name, serve in modes.items():
        what = f'import, `start(serve="{serve}")` and 10 numbers, torch loaded before'
        yield what, _started(start[name]), others if serve == "off" else "", ""
    ours, theirs = part["serving"]["trainbeacon"], part["serving"]["prometheus-client"]
    what = "memory of a process that only serves: first scrape, after 200"
    yield what, _served(ours), f"prometheus-client's thread: {_served(theirs)}", ""


def spread(figures: dict[str, Any]) -> str:
    """Median and quartiles."""
    if "median" not in figures:
        return "-"
    low, high = figures["quartiles"]
    return f"{figures['median']:.3g} ({low:.3g} to {high:.3g})" if low < high else f"{figures['median']:.3g}"


def short(value: float, digits: int = 3) -> str:
    """Rounded, without an exponent."""
    return f"{float(f'{value:.{digits}g}'):,.12g}"


def _logged(figures: dict[str, Any], ours: dict[str, Any] | None = None) -> str:
    if "absent" in figures:
        return str(figures["absent"])
    processor, clock = (figures[key]["median"] for key in ("microseconds", "wall_microseconds"))
    wall = f"{short(processor)} us, {short(clock)} us by the clock"
    if ours is None:
        return wall
    return f"{wall}; {short(1 / figures['trainbeacon/this']['median'], 2)} times as long"


def _added(figures: dict[str, Any]) -> str:
    if "absent" in figures:
        return str(figures["absent"])
    return f"{spread(figures['more_than_plain'])} us more"


def _started(figures: dict[str, Any]) -> str:
    if "absent" in figures:
        return str(figures["absent"])
    wall, processor, memory, threads, others = (
        figures[part]["median"]
        for part in ("wall", "processor", "mebibytes", "threads", "mebibytes_of_processes_started")
    )
    told = f"{short(wall)} ms, {short(processor)} ms of processor time, {short(memory)} MiB"
    told += f", {threads:g} more thread{'' if threads == 1 else 's'}"
    return f"{told}, {short(others)} MiB in processes of its own" if others else told


def _served(figures: dict[str, Any]) -> str:
    first, last = figures["mebibytes"], figures["mebibytes_after_200_scrapes"]
    return f"{first:.3g} MiB, {last:.3g} MiB with {figures['series']} series"
