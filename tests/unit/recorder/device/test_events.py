"""Device events around phases, with a device of the test's own at the outermost edge."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

import trainbeacon
from trainbeacon.recorder.device import events as device_phases
from trainbeacon.recorder.device.events import MOST_EVENTS, DevicePhases


class Device:
    """Passes its events when told; its clock stands at `now` when the host records one."""

    def __init__(self) -> None:
        self.now = 0.0
        self.passed = True
        self.events: list[Event] = []
        self.capturing = False

    def event(self) -> Event:
        self.events.append(Event(self))
        return self.events[-1]

    def may_record(self) -> bool:
        return not self.capturing


class Event:
    def __init__(self, device: Device) -> None:
        self._device = device
        self.at = 0.0

    def record(self) -> None:
        assert not self._device.capturing
        self.at = self._device.now

    def query(self) -> bool:
        return self._device.passed

    def elapsed_time(self, end: Event) -> float:
        assert self._device.passed, "asked before the device was there: that would wait"
        return (end.at - self.at) * 1000


class Rank:
    def __init__(self) -> None:
        self.device = Device()
        self.seconds: dict[str, float] = {}
        self.clock = 100.0
        edge: Any = self.device
        self.phases = DevicePhases(self.seconds.__setitem__, edge, lambda: self.clock)

    def step(self, *, passes: int = 1, wall: float = 0.1) -> None:
        for _ in range(passes):
            self._phase("forward", 0.25)
            self._phase("backward", 0.5)
        self._phase("optimizer", 0.125)
        self.clock += wall
        self.phases.step_over()

    def _phase(self, name: str, seconds: float) -> None:
        self.phases.begin(name)
        self.device.now += seconds
        self.phases.end()


@pytest.fixture
def rank(monkeypatch: pytest.MonkeyPatch) -> Rank:
    monkeypatch.setattr(device_phases, "captures_of_others_ignored", nullcontext)
    return Rank()


def test_sampled_steps_stand_for_those_in_between(rank: Rank) -> None:
    """Two steps a second apart are sampled, the 2nd and the 11th: together they count for eleven."""
    for _ in range(14):
        rank.step(wall=0.125)
        rank.phases.poll()
    assert {"forward": 11 * 0.25, "backward": 11 * 0.5, "optimizer": 11 * 0.125} == rank.seconds


def test_events_are_read_once_the_device_has_passed_them(rank: Rank) -> None:
    """While the device is behind nothing is asked of it and nothing waits; later the sample counts."""
    rank.device.passed = False
    rank.step()
    rank.step()
    rank.phases.poll()
    assert {} == rank.seconds
    rank.device.passed = True
    rank.phases.poll()
    assert 2 * 0.25 == rank.seconds["forward"]


def test_events_are_bounded_and_used_again(rank: Rank) -> None:
    """A step of a thousand micro-batches takes no more events than the pool has, and is scaled up to all."""
    for _ in range(50):
        rank.step(passes=1000, wall=2.0)
        rank.phases.poll()
    assert len(rank.device.events) <= MOST_EVENTS
    assert rank.seconds["forward"] == pytest.approx(49 * 1000 * 0.25, rel=0.05)


def test_a_device_that_never_answers_takes_no_memory(rank: Rank) -> None:
    """Samples that are not passed stop further ones; training goes on."""
    rank.device.passed = False
    for _ in range(1000):
        rank.step(wall=2.0)
        rank.phases.poll()
    assert len(rank.device.events) <= MOST_EVENTS


def test_nothing_is_recorded_into_a_graph(rank: Rank) -> None:
    """While the training thread captures a CUDA graph no event is recorded: it would become part of it."""
    rank.device.capturing = True
    for _ in range(5):
        rank.step(wall=2.0)
    rank.phases.poll()
    assert {} == rank.seconds
    assert [] == rank.device.events


def test_a_beacon_serves_them_from_its_helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`training_device_phase_seconds_total` is unset without a device, and filled by the helper's look."""
    monkeypatch.setattr(device_phases, "captures_of_others_ignored", nullcontext)
    with trainbeacon.start(run="device", directory=str(tmp_path), serve="off") as beacon:
        recorder = beacon.recorder
        at = recorder.at("training_device_phase_seconds_total", "forward")
        assert recorder.writer.slots[at] != recorder.writer.slots[at]
        phases, device = recorder.device_phases, Device()
        assert phases is not None
        phases._edge = device  # type: ignore[assignment]
        phases.step_over()
        phases.begin("forward")
        device.now += 0.5
        phases.end()
        phases.step_over()
        phases.poll()
        assert recorder.writer.slots[at] == 1.0  # of two steps
