"""Two jobs that were given one name, on one node: seen and counted, and a restart is not mistaken for it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.serving import node, wait_for
from trainbeacon.blackbox.directory import open_directory
from trainbeacon.blackbox.reader import Box, BoxDirectory, BoxIdentity
from trainbeacon.blackbox.writer import Writer
from trainbeacon.exporter.collectors import health
from trainbeacon.exporter.collectors.base import Families
from trainbeacon.exporter.collectors.health import HealthCollector, collisions
from trainbeacon.exporter.collectors.ranks import RanksCollector
from trainbeacon.exporter.health import Health

NOW = 1_000_000.0


def box(run: str = "r", rank: int = 0, *, started: float, silent: float = 0.5, state: str = "running") -> Box:
    """A box of a process that started, and gave its last sign of life, that many seconds ago."""
    values = {("training_heartbeat_timestamp_seconds", ()): NOW - silent}
    identity = BoxIdentity(run, rank, NOW - started)
    return Box(f"{run}.{rank}.{started}.box", identity, state, state == "running", values, ())


def test_jobs_with_one_name_are_counted_by_the_processes_that_are_hidden() -> None:
    """Of two jobs of two ranks, the two older processes are not served: that many are counted."""
    boxes = [box(rank=rank, started=start) for rank in (0, 1) for start in (500, 100)]
    assert {"r": 2, "other": 0} == collisions([*boxes, box("other", started=300)])
    assert {"r": 4} == collisions([*boxes, *(box(rank=rank, started=50) for rank in (0, 1))])


def test_jobs_that_started_at_one_moment_are_two() -> None:
    """A loop in a shell starts several in the same instant."""
    assert {"r": 1} == collisions([box(started=100), box(started=100)])


def test_ranks_of_one_job_are_none() -> None:
    """Many ranks of a run on a node are what a run is; the run shows with 0, so that a rise can be seen."""
    assert {"r": 0} == collisions([box(rank=rank, started=100) for rank in range(8)])


@pytest.mark.parametrize(
    "before",
    [
        box(started=500, silent=100, state="crashed"),
        box(started=500, silent=100, state="failed"),
        # Still within the grace after its last sign of life, or slow to end.
        box(started=500, silent=101),
        box(started=500, silent=100 - health.OVERLAP_SECONDS),
        # Stopped, and no longer doing anything.
        box(started=500, silent=300),
    ],
)
def test_restart_in_place_is_none(before: Box) -> None:
    """The process before a restart is dead, or dies while its successor starts."""
    assert {"r": 0} == collisions([before, box(started=100)])


def test_no_box_can_claim_a_collision(tmp_path: Path) -> None:
    """The figure is the exporter's own: what a box says of it is not served."""
    writer = Writer.create(str(tmp_path), {"run": "r", "rank": 0, "start": time.time()})
    writer.slots[writer.declare("trainbeacon_run_name_collisions", ())] = 7.0
    writer.slots[writer.declare("training_steps_planned", ())] = 5.0
    descriptor = open_directory(str(tmp_path))
    directory = BoxDirectory(descriptor)
    families = Families()
    for collector in (RanksCollector(directory, 60), HealthCollector(Health(), directory, "agent")):
        collector.collect(families)
    os.close(descriptor)
    writer.close()

    served = {
        name: families.get(name) for name in ("trainbeacon_run_name_collisions", "training_steps_planned")
    }
    assert {
        name: [sample.value for sample in family.samples] for name, family in served.items() if family
    } == {
        "trainbeacon_run_name_collisions": [0.0],
        "training_steps_planned": [5.0],
    }


def test_two_real_jobs_and_the_end_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second process that records as the same rank is counted until one of the two ends."""
    monkeypatch.setattr(health, "OVERLAP_SECONDS", 1.0)
    with node(tmp_path / "boxes", serve="off") as made:
        descriptor = open_directory(str(made.folder))
        collector = HealthCollector(Health(), BoxDirectory(descriptor), "agent")

        def counted() -> float:
            families = Families()
            collector.collect(families)
            family = families.get("trainbeacon_run_name_collisions")
            assert family is not None
            [sample] = family.samples
            assert {"run": "r"} == sample.labels
            return float(sample.value)

        first = made.rank()
        assert 0.0 == counted()
        made.rank()
        wait_for(lambda: counted() == 1.0, what="collision")
        first.kill()
        wait_for(lambda: counted() == 0.0, what="end of the collision")
        os.close(descriptor)
