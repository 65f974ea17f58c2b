"""The truth table of paces: very short steps, very long ones, and attempts that go on where another died."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.serving import PATIENCE, REPOSITORY, environment
from trainbeacon import Beacon
from trainbeacon.blackbox.directory import open_directory
from trainbeacon.blackbox.reader import Box, BoxDirectory

VERY_MANY, LONG_SECONDS = 20_000, 1.0

#: Logs the steps from the first number on, saves after the sixth, and is killed after the tenth.
DIES = """
import os, signal, sys, trainbeacon
first, last = int(sys.argv[2]), int(sys.argv[3])
beacon = trainbeacon.start(run="truth", directory=sys.argv[1], serve="off")
for number in range(first, last + 1):
    with beacon.step(samples=4):
        beacon.log(loss=1.0, step=number)
if last == 10:
    os.kill(os.getpid(), signal.SIGKILL)
beacon.finish()
"""


def test_very_short_steps(beacon: Beacon, box: Callable[[], Box]) -> None:
    """Each is counted, and their durations are what the loop took."""
    begun = time.monotonic()
    for _ in range(VERY_MANY):
        with beacon.step(samples=1):
            pass
    took = time.monotonic() - begun
    found = box()
    counted = (found.number("training_steps_total"), found.number("training_samples_total"))
    assert (float(VERY_MANY),) * 2 == counted
    assert (found.number("training_step_duration_seconds", "sum") or 0.0) <= took
    assert pytest.approx(took, rel=0.2) == found.number("training_step_duration_seconds", "sum")


def test_a_very_long_step_among_short_ones(beacon: Beacon, box: Callable[[], Box]) -> None:
    """Until it ends nothing of it is counted; then its duration is its own."""
    begun = time.monotonic()
    for _ in range(5):
        with beacon.step(samples=4):
            pass
    with beacon.step(samples=4):
        time.sleep(LONG_SECONDS)
        assert 5.0 == box().number("training_steps_total")
        assert 20.0 == box().number("training_samples_total")
    took = time.monotonic() - begun
    beacon.finish()
    found = box()
    duration = found.number("training_step_duration_seconds", "sum") or 0.0
    assert LONG_SECONDS <= duration <= took
    assert 6.0 == found.number("training_steps_total")


def test_an_attempt_goes_on_with_the_steps_of_the_one_that_died(tmp_path: Path) -> None:
    """Its numbers are the run's, its counters its own, and the box of the dead one stays as it was."""
    for first, last in ((1, 10), (7, 12)):
        subprocess.run(
            [sys.executable, "-c", DIES, str(tmp_path), str(first), str(last)],
            env=environment(),
            cwd=REPOSITORY,
            timeout=PATIENCE,
        )
    boxes = BoxDirectory(open_directory(str(tmp_path))).scan()
    old, new = sorted(boxes, key=lambda each: each.identity.start)
    names = ("training_step", "training_steps_total", "training_samples_total")
    assert [10.0, 10.0, 40.0] == [old.number(name) for name in names]
    assert [12.0, 6.0, 24.0] == [new.number(name) for name in names]
    assert ("running", "finished") == (old.state, new.state)
    assert old.identity.start < new.identity.start
