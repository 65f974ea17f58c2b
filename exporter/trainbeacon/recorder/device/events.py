"""What a CUDA device spends on each phase, by events around the phases of a step now and then.

The training thread records events from a bounded pool, which waits for nothing; the background thread asks
later whether the device has passed them. Work of other streams (collectives that overlap the backward
pass, copies) lies beside what is measured, so the phases promise no sum. No GPU has shown this yet.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from trainbeacon.recorder.device.pinned import captures_of_others_ignored

#: Seconds between two sampled steps at least; a sample costs the host some 10 us an event.
LEAST_INTERVAL = 1.0
#: Events that exist at most, and samples that the device has not passed yet.
MOST_EVENTS = 64
MOST_UNDER_WAY = 8


@dataclass
class Sample:
    """One step's events, a pair a pass of a phase; all passes that there were; the steps it stands for."""

    pairs: list[tuple[str, Any, Any]] = field(default_factory=list)
    passes: dict[str, int] = field(default_factory=dict)
    steps: int = 0


class Cuda:
    """The edge to the device, which a test replaces."""

    def event(self) -> Any:
        """A new event; it takes no memory of the device before it is recorded."""
        import torch

        return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]

    def may_record(self) -> bool:
        """Whether an event is not taken up into a graph that this thread captures."""
        import torch

        return not torch.cuda.is_current_stream_capturing()


class DevicePhases:
    """Samples of one rank.

    Args:
        set_total: takes a phase's seconds so far, in the background thread.
        edge: to the device.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        set_total: Callable[[str, float], None],
        edge: Cuda | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._set_total = set_total
        self._edge = edge or Cuda()
        self._clock = clock
        self._sample: Sample | None = None
        self._open: tuple[str, Any] | None = None
        self._steps = 0
        self._next = 0.0
        self._made = 0
        self._free: deque[Any] = deque()
        self._under_way: deque[Sample] = deque()
        self._totals: dict[str, float] = {}

    # The training thread's side

    def begin(self, phase: str) -> None:
        """The host begins to give the device the work of a phase."""
        sample = self._sample
        if sample is None or not self._edge.may_record():
            return
        sample.passes[phase] = sample.passes.get(phase, 0) + 1
        if self._open is None and self._room() >= 2:
            event = self._take()
            event.record()
            self._open = phase, event

    def end(self) -> None:
        """It has given all of it."""
        if self._open is None or self._sample is None:
            return
        (phase, start), self._open = self._open, None
        if not self._edge.may_record():
            return
        event = self._take()
        event.record()
        self._sample.pairs.append((phase, start, event))

    def step_over(self) -> None:
        """A step is done; the next one is sampled if that is due."""
        self._steps += 1
        sample, now = self._sample, self._clock()
        if sample is not None:
            sample.steps, self._steps = self._steps, 0
            self._sample = self._open = None
            self._under_way.append(sample)
            self._next = now + LEAST_INTERVAL
        elif now >= self._next and len(self._under_way) < MOST_UNDER_WAY:
            self._sample = Sample()

    def _room(self) -> int:
        return len(self._free) + MOST_EVENTS - self._made

    def _take(self) -> Any:
        if self._free:
            return self._free.popleft()
        self._made += 1
        return self._edge.event()

    # The background thread's side

    def poll(self) -> None:
        """Count the samples that the device has passed. Never waits for it."""
        if not self._under_way:
            return
        with captures_of_others_ignored():
            while self._under_way and self._count(self._under_way[0]):
                self._under_way.popleft()

    def _count(self, sample: Sample) -> bool:
        if not all(end.query() for _, _, end in sample.pairs):
            return False
        seconds: dict[str, float] = {}
        seen: dict[str, int] = {}
        for phase, start, end in sample.pairs:
            seconds[phase] = seconds.get(phase, 0.0) + start.elapsed_time(end) / 1000
            seen[phase] = seen.get(phase, 0) + 1
            self._free.extend((start, end))
        for phase, measured in seconds.items():
            each = measured * sample.passes[phase] / seen[phase]
            total = self._totals[phase] = self._totals.get(phase, 0.0) + each * sample.steps
            self._set_total(phase, total)
        return True
