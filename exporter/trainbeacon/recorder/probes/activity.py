"""Time for which a rank has shown no sign of work.

A run that is stalled may be busy: an evaluation, a save or an upload of which the script says nothing.
Where no rank does anything at all, nothing will end the standstill, and nobody need wait to say so.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from trainbeacon.recorder.core.timeline import Timeline
from trainbeacon.recorder.probes.allocator import AllocatorProbe
from trainbeacon.recorder.probes.collectives import CollectivesProbe

#: Without any sign for so long, the process is looked at; before, that would cost time in healthy steps.
LOOK_AFTER_SECONDS = 3.0


class Process(Protocol):
    """What tells of the process's own work: `idle.ProcessActivity`."""

    def begin(self) -> None:
        """Count from now."""

    def used_cpu(self) -> bool:
        """Whether it took processor time."""

    def at_rest(self) -> bool:
        """Whether all it does is wait for others."""


class ActivityProbe:
    """Samples the signs of work from the background thread.

    Signs are a step, a change of phase, a collective begun or ended, device memory that is taken,
    processor time of the process, a child that works, begins or ends, a thread that waits for the file
    system. A host may spin while it waits for a collective of NCCL: while one is open, the first four are
    all that counts, if the device memory is known.

    Args:
        timeline: of the rank.
        collectives: the probe of its collectives, which looks first, if that is on.
        allocator: the probe of its device memory, likewise.
        process: tells of its own work.
        record: takes the seconds without a sign.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        timeline: Timeline,
        collectives: CollectivesProbe | None,
        allocator: AllocatorProbe | None,
        process: Process,
        record: Callable[[float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._timeline = timeline
        self._collectives = collectives
        self._allocator = allocator
        self._process = process
        self._record = record
        self._clock = clock
        self._signs: tuple[object, ...] = ()
        self._since = clock()

    def poll(self) -> None:
        """Take a sample; some 5 us while steps are made, 40 us a thread and child while none are."""
        now = self._clock()
        collectives = self._collectives
        signs = (
            self._timeline.step_end[0],
            self._timeline.phase_start,
            None if collectives is None else collectives.reported,
            self._allocations,
        )
        if signs != self._signs:
            self._signs = signs
            self._begin(now)
        elif self._works(now):
            self._begin(now)
        self._record(now - self._since)

    @property
    def _allocations(self) -> int | None:
        return None if self._allocator is None else self._allocator.allocations

    def _works(self, now: float) -> bool:
        may_spin = self._collectives is not None and self._collectives.waits_on_device
        if may_spin and self._allocations is not None:
            return False
        if self._process.used_cpu():
            return True
        return now - self._since >= LOOK_AFTER_SECONDS and not self._process.at_rest()

    def _begin(self, now: float) -> None:
        self._since = now
        self._process.begin()
