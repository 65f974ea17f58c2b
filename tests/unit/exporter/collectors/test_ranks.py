"""Which boxes are served, and what of them: over boxes as the reader gives them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from trainbeacon import catalogue
from trainbeacon.blackbox import format as layout
from trainbeacon.blackbox.reader import Box, BoxIdentity
from trainbeacon.exporter.collectors import ranks
from trainbeacon.exporter.collectors.base import Families
from trainbeacon.exporter.collectors.ranks import RanksCollector, select

NOW = 1_000_000.0
LINGER = 60.0


def box(
    run: str = "r", rank: int = 0, start: float = NOW - 500, *, alive: bool = False, silent: float = 5.0
) -> Box:
    """A box whose last sign of life was that many seconds ago."""
    values = {("training_heartbeat_timestamp_seconds", ()): NOW - silent}
    state = "running" if alive else "crashed"
    return Box(f"{run}.{rank}.{start}.box", BoxIdentity(run, rank, start), state, alive, values, ())


def selected(*boxes: Box) -> list[tuple[str, int, float]]:
    chosen = select(boxes, NOW, LINGER)
    return [(b.identity.run, b.identity.rank, b.identity.start - NOW) for b in chosen]


def test_newest_attempt_of_each_rank_is_served() -> None:
    """One box a run and rank: the one that began last, in the order of the ranks."""
    boxes = [
        box("r", 1, NOW - 10, alive=True),
        box("r", 0, NOW - 20, alive=True),
        box("r", 0, NOW - 30),
        box("s", 0, NOW - 40, alive=True),
    ]
    assert [("r", 0, -20), ("r", 1, -10), ("s", 0, -40)] == selected(*boxes)


def test_living_attempt_is_served_before_a_dead_one() -> None:
    """Whatever their clocks say: one that trains must not be hidden for as long as a clock was wrong."""
    assert [("r", 0, -30)] == selected(box("r", 0, NOW - 10), box("r", 0, NOW - 30, alive=True))


def test_dead_rank_stays_as_long_as_its_run_lives() -> None:
    """A rank that died an hour ago may be what the others wait for."""
    dead = box("r", 1, silent=3600)
    assert [("r", 0, -500), ("r", 1, -500)] == selected(dead, box("r", 0, alive=True))
    assert [("s", 0, -500)] == selected(dead, box("s", 0, alive=True))


def test_run_that_is_over_is_served_for_the_linger() -> None:
    """The end can be scraped for a minute, then the series vanish."""
    assert [("r", 0, -500)] == selected(box(silent=LINGER - 1))
    assert [] == selected(box(silent=LINGER + 1))


class Directory:
    def __init__(self, *boxes: Box) -> None:
        self._boxes = boxes

    def scan(self) -> list[Box]:
        return list(self._boxes)


def served(one: Box) -> dict[str, dict[tuple[str, ...], float]]:
    families = Families()
    directory: Any = Directory(one)
    RanksCollector(directory, LINGER, clock=lambda: NOW).collect(families)
    return {
        family.name: {tuple(s.labels.values())[2:]: s.value for s in family.samples} for family in families
    }


def in_phase(phase: float, start: float, heartbeat: float, **change: Any) -> Box:
    """A box in that phase since `start`, last heard of at `heartbeat` (monotonic)."""
    values = {("training_phase_seconds_total", (name,)): 10.0 for name in catalogue.PHASES}
    values |= {
        (layout.PHASE_INDEX, ()): phase,
        (layout.PHASE_START, ()): start,
        (layout.HEARTBEAT, ()): heartbeat,
        ("training_heartbeat_timestamp_seconds", ()): NOW - 5,
    }
    fields = {"state": "running", "alive": True, **change}
    return Box("b", BoxIdentity("r", 0, NOW - 500), values=values, infos=(), **fields)


EVALUATE = catalogue.PHASES.index("evaluate")


def test_open_phase_counts_up_to_the_last_heartbeat() -> None:
    """An evaluation of minutes shows as such while it lasts, not as a leap at its end."""
    totals = served(in_phase(EVALUATE, 100.0, 107.0))["training_phase_seconds"]
    assert 17.0 == totals["evaluate",]
    assert {10.0} == {total for phase, total in totals.items() if phase != ("evaluate",)}


def test_crashed_rank_keeps_the_time_of_its_last_phase() -> None:
    """What was served before the crash must not fall after it: a counter that falls is a restart."""
    crashed = in_phase(EVALUATE, 100.0, 107.0, state="crashed", alive=False)
    shown = served(crashed)
    assert 17.0 == shown["training_phase_seconds"]["evaluate",]
    assert "training_phase" not in shown


@pytest.mark.parametrize(
    "change",
    [
        {"state": "finished", "alive": False},  # the beacon closed the phase itself
        {"state": "failed", "alive": False},
    ],
)
def test_closed_phase_is_not_counted_twice(change: dict[str, Any]) -> None:
    """At its end the beacon adds the open phase itself."""
    totals = served(in_phase(EVALUATE, 100.0, 107.0, **change))["training_phase_seconds"]
    assert {10.0} == set(totals.values())


def test_phase_that_began_after_the_heartbeat_takes_nothing_away() -> None:
    """Between two heartbeats a phase can begin: its time counts from 0."""
    totals = served(in_phase(EVALUATE, 107.5, 107.0))["training_phase_seconds"]
    assert {10.0} == set(totals.values())


@pytest.mark.parametrize("number", [-1.0, 99.0, math.nan, math.inf])
def test_phase_that_makes_no_sense_is_no_phase(number: float) -> None:
    """A damaged box says nothing of its phase, and all else."""
    shown = served(in_phase(number, 100.0, 107.0))
    assert {0.0} == set(shown["training_phase"].values())
    assert {10.0} == set(shown["training_phase_seconds"].values())


def test_exactly_one_phase_and_state_are_one() -> None:
    """A query for `== 1` finds one phase and one state."""
    shown = served(in_phase(EVALUATE, 100.0, 107.0))
    assert [("evaluate",)] == [phase for phase, value in shown["training_phase"].items() if value]
    assert [("running",)] == [state for state, value in shown["training_state"].items() if value]
    assert len(catalogue.PHASES) == len(shown["training_phase"])
    assert len(catalogue.STATES) == len(shown["training_state"])


def test_histogram_is_cumulated() -> None:
    """Buckets are stored each for itself and served as Prometheus counts them, with sum and count."""
    name = "training_step_duration_seconds"
    last = str(len(catalogue.STEP_BUCKETS))
    values = {(name, ("0",)): 3.0, (name, ("2",)): 2.0, (name, (last,)): 1.0, (name, ("sum",)): 70.5}
    values[("training_heartbeat_timestamp_seconds", ())] = NOW
    one = Box("b", BoxIdentity("r", 0, NOW), "running", True, values, ())
    families = Families()
    directory: Any = Directory(one)
    RanksCollector(directory, LINGER, clock=lambda: NOW).collect(families)
    family = families.get(name)
    assert family is not None
    shown = {sample.labels.get("le", sample.name[len(name) :]): sample.value for sample in family.samples}
    bounds = [str(bound) for bound in catalogue.STEP_BUCKETS]
    assert {bounds[0]: 3.0, bounds[1]: 3.0, **dict.fromkeys(bounds[2:], 5.0)} == {
        bound: shown[bound] for bound in bounds
    }
    assert (6.0, 70.5, 6.0) == (shown["+Inf"], shown["_sum"], shown["_count"])


def test_only_processes_of_our_own_namespace_are_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process id from another container means another process here."""
    monkeypatch.setattr(ranks, "pid_namespace", lambda: 7)
    identities = [
        (BoxIdentity("r", 0, NOW, pid=11, pid_namespace=7), True),
        (BoxIdentity("r", 1, NOW, pid=12, pid_namespace=8), True),
        (BoxIdentity("r", 2, NOW, pid=13, pid_namespace=7), False),
        (BoxIdentity("r", 3, NOW, pid=0, pid_namespace=7), True),
    ]
    boxes = [Box("b", who, "running" if alive else "crashed", alive, {}, ()) for who, alive in identities]
    directory: Any = Directory(*boxes)
    processes = RanksCollector(directory, LINGER, clock=lambda: NOW).processes()
    assert [("r", "0", 11)] == [(p.run, p.rank, p.pid) for p in processes]
