"""A process that is stopped: what it said last is not taken for what it does now."""

from __future__ import annotations

import time

import pytest

from trainbeacon.blackbox.reader import Box, BoxIdentity
from trainbeacon.exporter.collectors import ranks
from trainbeacon.exporter.collectors.base import Families


def _rates(silent_for: float) -> list[float]:
    now = time.time()
    values = {
        ("training_heartbeat_timestamp_seconds", ()): now - silent_for,
        ("training_samples_per_second", ()): 500.0,
        ("training_steps_total", ()): 7.0,
    }
    box = Box("a.box", BoxIdentity("run", 0, now - 100), "running", True, values, ())
    families = Families()
    ranks._add_box(families, box, now)
    steps = families.get("training_steps_total")
    assert steps is not None
    assert [sample.value for sample in steps.samples] == [7.0]
    family = families.get("training_samples_per_second")
    return [] if family is None else [sample.value for sample in family.samples]


@pytest.mark.parametrize(("silent_for", "served"), [(1.0, [500.0]), (ranks.RATES_LAST_SECONDS + 5, [])])
def test_the_rates_of_a_silent_process_are_not_served(silent_for: float, served: list[float]) -> None:
    """A sum of throughput over the ranks falls when one of them is stalled; its step count stays."""
    assert _rates(silent_for) == served
