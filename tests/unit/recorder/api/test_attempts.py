"""Attempts are numbered in their order, whatever the clock says."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import trainbeacon
from tests.boxes import boxes_of
from trainbeacon.blackbox.writer import Writer

NOW = int(time.time())


@pytest.fixture
def attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Make one attempt of a rank, at a time by its clock, and give its number."""

    def make(clock: float = NOW, rank: int = 0, run: str = "r", **environment: Any) -> int:
        for name, value in {"RANK": rank, "WORLD_SIZE": 4, "MASTER_ADDR": "127.0.0.1", **environment}.items():
            monkeypatch.setenv(name, str(value))
        with monkeypatch.context() as set_clock:
            set_clock.setattr(time, "time", lambda: float(clock))
            beacon = trainbeacon.start(run=run, directory=str(tmp_path), serve="off", gpu=False)
        beacon.finish()
        (number,) = (
            int(box.number("training_attempt") or 0)
            for box in boxes_of(tmp_path)
            if box.identity.start == float(clock) and (box.identity.run, box.identity.rank) == (run, rank)
        )
        return number

    return make


def test_clock_that_is_set_back(attempt: Callable[..., int]) -> None:
    """An attempt that began a day ahead is before the next one, and so on."""
    numbers = [attempt(NOW + 86400), attempt(NOW), attempt(NOW - 3600)]
    assert [NOW + 86400, NOW + 86401, NOW + 86402] == numbers
    assert NOW + 2 * 86400 == attempt(NOW + 2 * 86400)


def test_other_runs_and_ranks_do_not_count(attempt: Callable[..., int]) -> None:
    """A directory that many runs share, and a world that comes back smaller and larger."""
    attempt(NOW + 86400, rank=3)
    attempt(NOW + 86400, run="other")
    assert NOW == attempt(NOW, rank=0)
    assert NOW + 86401 == attempt(NOW + 1, rank=3)


def test_launcher_that_counts_is_believed(attempt: Callable[..., int]) -> None:
    """Its number of restarts is the attempt, whatever lies in the directory."""
    attempt(NOW)
    job = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "2", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"}
    assert 2 == attempt(NOW + 5, **job)


@pytest.mark.parametrize("number", [math.inf, math.nan, 1e300, -5.0])
def test_box_that_says_nonsense(number: float, tmp_path: Path, attempt: Callable[..., int]) -> None:
    """Anybody may have put it there."""
    writer = Writer.create(str(tmp_path), {"run": "r", "rank": 0, "start": 1.0, "pid": 1})
    writer.slots[writer.declare("training_attempt")] = number
    writer.end("finished")
    writer.close()
    assert NOW == attempt(NOW)


def test_live_process_is_no_earlier_attempt(tmp_path: Path, attempt: Callable[..., int]) -> None:
    """Ranks that all start as rank 0, before they join their group, are one attempt."""
    writer = Writer.create(str(tmp_path), {"run": "r", "rank": 0, "start": 1.0, "pid": 1})
    writer.slots[writer.declare("training_attempt")] = NOW + 100.0
    assert NOW == attempt(NOW)
    writer.close()
