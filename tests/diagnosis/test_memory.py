"""A rank whose process leaks is named by the shipped rules, over real scrapes; `memory` has the campaign."""

from __future__ import annotations

import random

import pytest

from tests.diagnosis.memory import Injection, Outcome, inject_all
from tools import stack

pytest.importorskip("torch")

VICTIM = random.Random(20).randrange(3)


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    """What came of a job of three ranks of which one leaks."""
    if stack.find("promtool") is None:
        pytest.skip("promtool is not available here: `make tools`, or put it on the PATH")
    (found,) = inject_all([Injection(3, (VICTIM,), mib_per_step=0.5, seed=20)])
    return found


def test_the_rank_that_leaks_is_named_and_no_other(outcome: Outcome) -> None:
    """Batches, a cache that fills and evaluations are no leak; 16 minutes of the rules' time are enough."""
    assert (VICTIM,) == outcome.grows, outcome
    assert outcome.seconds is not None
    assert outcome.seconds <= 16 * 60


def test_the_alert_foretells_that_its_node_will_be_full(outcome: Outcome) -> None:
    """`TrainingHostMemoryNearlyFull` fires for that rank while most of the memory is left."""
    assert (VICTIM,) == outcome.warned, outcome


def test_the_speed_of_the_leak_is_told(outcome: Outcome) -> None:
    """Within a quarter of what the kernel says; that is what the process keeps, and somewhat more."""
    assert outcome.mib_per_step == pytest.approx(outcome.resident_mib_per_step, rel=0.25), outcome
    assert outcome.resident_mib_per_step > 0.4, outcome
