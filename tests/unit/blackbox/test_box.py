"""Which attempt of a rank counts, where clocks were set, stand wrong or say nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from trainbeacon.blackbox import format as layout
from trainbeacon.blackbox.box import last_run, latest_started, newest
from trainbeacon.blackbox.machine import boot_id
from trainbeacon.blackbox.reader import Box, BoxIdentity

NOW = 1_800_000_000.0
DAY = 86400.0


def box(name: str, start: float, *, alive: bool = False, boot: float = 0.0, run: str = "r") -> Box:
    identity = BoxIdentity(run, 0, start, boot_id=boot_id() if boot else "", since_boot=boot)
    return Box(name, identity, "running" if alive else "crashed", alive, {}, ())


ORDERS = {
    "later start": (box("old", NOW - 20), box("new", NOW - 10)),
    "live before dead": (box("dead", NOW - 10), box("live", NOW - 20, alive=True)),
    "live before a dead one of the future": (box("dead", NOW + DAY), box("live", NOW - 5, alive=True)),
    "a clock that was a day ahead": (box("old", NOW + DAY, boot=100.0), box("new", NOW, boot=200.0)),
    "a clock that was set back meanwhile": (
        box("old", NOW - 10, boot=100.0),
        box("new", NOW - DAY, boot=200.0),
    ),
    "the future is not later": (box("wrong", NOW + DAY), box("right", NOW - 10)),
    "this boot after an earlier one": (box("earlier", NOW - 10), box("this", NOW - 20, boot=5.0)),
    "of two live ones the later": (box("a", NOW - 20, alive=True), box("b", NOW - 10, alive=True)),
}


@pytest.mark.parametrize(("old", "new"), ORDERS.values(), ids=ORDERS.keys())
def test_order_of_attempts(old: Box, new: Box) -> None:
    """The box that counts is the same in whatever order the files are listed."""
    assert {("r", 0): new} == newest([old, new], NOW) == newest([new, old], NOW)


def test_cleaning_looks_at_the_start_alone() -> None:
    """A later attempt that crashed is not superseded by an earlier one that hangs on."""
    hangs, crashed = box("hangs", NOW - 20, alive=True), box("crashed", NOW - 10)
    assert {("r", 0): crashed} == latest_started([crashed, hangs], NOW)


def test_run_that_is_shown_by_default() -> None:
    """A live run before one that is over, whatever their clocks say."""
    over, live = box("a", NOW + DAY, run="over"), box("b", NOW - DAY, run="live", alive=True)
    assert "live" == last_run([over, live], NOW) == last_run([live, over], NOW)
    assert None is last_run([], NOW)


@pytest.mark.parametrize(
    ("heartbeat", "silence"),
    [(NOW - 5, 5.0), (NOW + DAY, DAY), (math.nan, 50.0), (math.inf, 50.0), (-math.inf, 50.0)],
)
def test_a_heartbeat_makes_no_box_immortal(heartbeat: float, silence: float) -> None:
    """One in the future is as far away as one in the past; one that is no time counts as none."""
    found = replace(box("b", NOW - 50), values={("training_heartbeat_timestamp_seconds", ()): heartbeat})
    assert silence == found.silence(NOW)


def test_silence_by_the_clock_that_nobody_sets() -> None:
    """Where the heartbeat's monotonic clock is ours too, the wall clock does not matter."""
    found = replace(box("b", NOW + DAY), silent=7.0)
    assert 7.0 == found.silence(NOW) == found.silence(0.0)


def test_phase_that_makes_no_sense_is_none() -> None:
    """Neither a number beyond the phases nor one that is none."""
    values = [{(layout.PHASE_INDEX, ()): number} for number in (-1.0, 99.0, math.nan, math.inf)]
    assert [None] * 4 == [replace(box("b", NOW), values=each).phase for each in values]
