"""For how long a rank has shown no sign of work."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import trainbeacon
from tests.serving import wait_for
from trainbeacon.blackbox.directory import open_directory
from trainbeacon.blackbox.reader import BoxDirectory
from trainbeacon.recorder.probes.activity import LOOK_AFTER_SECONDS, ActivityProbe
from trainbeacon.recorder.probes.collectives import Counts
from trainbeacon.testing import FakeClock

GROUP = ("gloo", "0")


@dataclass
class FakeProcess:
    """A process that works as told."""

    computes: bool = False
    rests: bool = True
    looks: int = 0

    def begin(self) -> None:
        """Count from now."""

    def used_cpu(self) -> bool:
        return self.computes

    def at_rest(self) -> bool:
        self.looks += 1
        return self.rests


@dataclass
class Rank:
    """A rank with an activity probe that looks once a second."""

    clock: FakeClock = field(default_factory=FakeClock)
    process: FakeProcess = field(default_factory=FakeProcess)
    timeline: Any = field(default_factory=lambda: SimpleNamespace(step_end=(1, ()), phase_start=0.0))
    collectives: Any = field(default_factory=lambda: SimpleNamespace(reported={}, waits_on_device=False))
    allocator: Any = field(default_factory=lambda: SimpleNamespace(allocations=None))
    seconds: float = -1.0

    def __post_init__(self) -> None:
        self.probe = ActivityProbe(
            self.timeline, self.collectives, self.allocator, self.process, self.record, self.clock
        )
        self.probe.poll()

    def record(self, seconds: float) -> None:
        self.seconds = seconds

    def poll(self, seconds: int) -> float:
        """The seconds told after as many looks."""
        for _ in range(seconds):
            self.clock.advance(1.0)
            self.probe.poll()
        return self.seconds


def test_without_any_sign_the_seconds_grow() -> None:
    """And the process is looked at only where there has been no sign for a while."""
    rank = Rank()
    assert rank.poll(2) == 2.0
    assert rank.process.looks == 0
    assert rank.poll(20) == 22.0
    assert rank.process.looks == 23 - LOOK_AFTER_SECONDS


def test_each_sign_of_work_ends_them() -> None:
    """A step, a phase, a collective, processor time, a wait for the file system."""
    rank = Rank()
    signs: list[tuple[Any, str, Any]] = [
        (rank.timeline, "step_end", (2, ())),
        (rank.timeline, "phase_start", 7.0),
        (rank.collectives, "reported", {GROUP: Counts(1, 0)}),
        (rank.collectives, "reported", {GROUP: Counts(1, 1)}),
    ]
    for thing, name, value in signs:
        assert rank.poll(10) >= 10.0 - 1.0
        setattr(thing, name, value)
        assert rank.poll(1) == 0.0, name
    rank.poll(10)
    rank.process.computes = True
    assert rank.poll(1) == 0.0
    rank.process.computes, rank.process.rests = False, False
    assert rank.poll(10) < LOOK_AFTER_SECONDS + 1.0


def test_a_host_that_spins_for_a_collective_of_its_gpu_does_not_work() -> None:
    """Waiting for NCCL takes all of a processor; who takes device memory meanwhile does work."""
    rank = Rank()
    rank.allocator.allocations = 1000
    rank.collectives.waits_on_device = True
    rank.process.computes, rank.process.rests = True, False
    assert rank.poll(25) >= 24.0
    rank.allocator.allocations += 1
    assert rank.poll(1) == 0.0


def test_where_device_memory_is_not_told_a_spinning_host_counts_as_working() -> None:
    """With an allocator of another kind, or the probe off: rather patience than a false alarm."""
    rank = Rank()
    rank.collectives.waits_on_device = True
    rank.process.computes = True
    assert rank.poll(25) == 0.0


@pytest.mark.parametrize("on", [True, False])
def test_a_real_run_that_does_nothing_says_so(on: bool, tmp_path: Path) -> None:
    """From the background loop into the box; and with the probe off there is no such series."""
    off = () if on else ("activity",)
    tmp_path.chmod(0o700)
    with trainbeacon.start(run="idle", directory=str(tmp_path), serve="off", probes_off=off) as beacon:
        with beacon.step():
            pass
        boxes = BoxDirectory(open_directory(str(tmp_path)))

        def told() -> float | None:
            return boxes.scan()[0].number("training_inactive_seconds")

        if on:
            wait_for(lambda: (told() or 0.0) > 1.0)
        else:
            begun = beacon.timeline.heartbeat
            wait_for(lambda: beacon.timeline.heartbeat > begun + 1.0)
            assert told() is None
