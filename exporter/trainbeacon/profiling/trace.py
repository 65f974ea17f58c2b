"""What a trace of torch.profiler says: the operations that took the time, and the time between them.

Read as Chrome's trace format, of which torch writes complete events (`"ph": "X"`). Times are seconds.
"""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

#: Of the host: operations, and what the script or torch named; and what a GPU does.
_HOST, _NAMED = "cpu_op", "user_annotation"
_DEVICE = {"kernel", "gpu_memcpy", "gpu_memset"}
_MICROSECOND = 1e-6
MOST_TRACE_BYTES = 2 * 1024**3


class TraceError(ValueError):
    """That file is no trace; the text says what to do."""


@dataclass(frozen=True)
class Operation:
    """An operation by name: seconds of its own (those of operations inside it are theirs), and calls."""

    name: str
    seconds: float
    calls: int


@dataclass(frozen=True)
class Gap:
    """Time of the training thread in which no operation ran, between two by name."""

    after: str
    before: str
    seconds: float
    times: int


@dataclass(frozen=True)
class Profile:
    """What a trace says.

    Attributes:
        seconds: from the first operation to the last one.
        busy: seconds in which the training thread ran an operation.
        host, device: operations, the heaviest first.
        device_busy: seconds in which the GPU did something, None without a GPU.
        gaps: the time between operations, the longest in all first.
    """

    seconds: float
    busy: float
    host: tuple[Operation, ...]
    device: tuple[Operation, ...]
    device_busy: float | None
    gaps: tuple[Gap, ...]

    @property
    def between(self) -> float:
        """Seconds in which the training thread ran no operation."""
        return max(0.0, self.seconds - self.busy)


@dataclass(frozen=True)
class _Event:
    name: str
    start: float
    end: float


def read(path: str) -> Profile:
    """Read a trace, packed or not. Raises TraceError, OSError."""
    try:
        with open(path, "rb") as file:
            packed = gzip.GzipFile(fileobj=file) if path.endswith(".gz") else file
            document = json.loads(packed.read(MOST_TRACE_BYTES))
    except (ValueError, EOFError, gzip.BadGzipFile) as error:
        raise TraceError(f"{path} is no trace of torch.profiler: {error}") from None
    events = document.get("traceEvents") if isinstance(document, dict) else None
    if not isinstance(events, list):
        raise TraceError(f"{path} is no trace of torch.profiler: it has no traceEvents")
    return summary(event for event in events if isinstance(event, dict))


def summary(events: Iterable[Mapping[str, Any]]) -> Profile:
    """The profile of a trace's events. The training thread is the one with the most operations' time."""
    threads: dict[object, list[_Event]] = defaultdict(list)
    device: list[_Event] = []
    for event in events:
        kind, start, length = event.get("cat"), event.get("ts"), event.get("dur")
        if (
            event.get("ph") != "X"
            or not isinstance(start, int | float)
            or not isinstance(length, int | float)
        ):
            continue
        found = _Event(str(event.get("name")), start * _MICROSECOND, (start + length) * _MICROSECOND)
        if kind == _HOST:
            threads[event.get("tid")].append(found)
        elif kind in _DEVICE:
            device.append(found)
    covered = {thread: _covered(found) for thread, found in threads.items()}
    main = max(covered, key=lambda thread: covered[thread], default=None)
    training = sorted(threads.get(main, ()), key=lambda event: event.start)
    everything = [event for found in threads.values() for event in found] + device
    begin = min((event.start for event in everything), default=0.0)
    end = max((event.end for event in everything), default=0.0)
    return Profile(
        seconds=end - begin,
        busy=covered.get(main, 0.0),
        host=_heaviest(each for found in threads.values() for each in _own_times(found)),
        device=_heaviest((event.name, event.end - event.start) for event in device),
        device_busy=_covered(device) if device else None,
        gaps=_gaps(training),
    )


def _covered(events: Iterable[_Event]) -> float:
    """Seconds in which at least one of them ran."""
    total, reached = 0.0, float("-inf")
    for event in sorted(events, key=lambda event: event.start):
        total += max(0.0, event.end - max(event.start, reached))
        reached = max(reached, event.end)
    return total


def _own_times(events: Iterable[_Event]) -> list[tuple[str, float]]:
    """Name and own seconds of each event of one thread, in which they are nested."""
    own: list[list[Any]] = []
    open_: list[tuple[_Event, int]] = []
    for event in sorted(events, key=lambda event: (event.start, -event.end)):
        while open_ and open_[-1][0].end <= event.start:
            open_.pop()
        if open_:
            parent, at = open_[-1]
            own[at][1] -= min(event.end, parent.end) - event.start
        open_.append((event, len(own)))
        own.append([event.name, event.end - event.start])
    return [(name, max(0.0, seconds)) for name, seconds in own]


def _heaviest(found: Iterable[tuple[str, float]]) -> tuple[Operation, ...]:
    seconds: dict[str, float] = defaultdict(float)
    calls: dict[str, int] = defaultdict(int)
    for name, spent in found:
        seconds[name] += spent
        calls[name] += 1
    operations = (Operation(name, seconds[name], calls[name]) for name in seconds)
    return tuple(sorted(operations, key=lambda operation: (-operation.seconds, operation.name)))


def _gaps(events: Iterable[_Event]) -> tuple[Gap, ...]:
    """The gaps between outermost events that are in order of their start."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    last: _Event | None = None
    for event in events:
        if last is not None and event.start > last.end:
            found[last.name, event.name].append(event.start - last.end)
        if last is None or event.end > last.end:
            last = event
    gaps = (Gap(*names, sum(lengths), len(lengths)) for names, lengths in found.items())
    return tuple(sorted(gaps, key=lambda gap: -gap.seconds))
