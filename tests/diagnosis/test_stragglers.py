"""A slow rank of a real job is named with its cause by the shipped rules; `stragglers` has the campaign."""

from __future__ import annotations

import pytest

from tests.diagnosis.stragglers import CAUSES, Injection, Outcome, inject_all
from tools import stack

pytest.importorskip("torch")

#: The first two accumulate over two batches, DDP with its one batch waits in every backward pass, and of the
#: pipeline the second stage takes half as long again. A step is long beside what a busy machine
#: adds to it, and is asleep for most of that time.
INJECTIONS = {
    "ddp": Injection("data", 0.5, "ddp", 2, (1,), micro_batches=2, step_seconds=0.6),
    "ddp, in its backward pass": Injection("backward", 0.5, "ddp", 2, (1,), step_seconds=0.6),
    "pipeline": Injection("forward", 0.5, "pipeline2", 4, (1,), micro_batches=4, step_seconds=0.6),
    "fsdp2": Injection("host", 0.5, "fsdp2", 2, (0,), micro_batches=2, step_seconds=0.6),
    "as a whole": Injection("forward", 0.5, "fsdp2", 2, (0, 1), step_seconds=0.6),
}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    """What came of each job."""
    if stack.find("promtool") is None:
        pytest.skip("promtool is not available here: `make tools`, or put it on the PATH")
    found = inject_all([*INJECTIONS.values()], haste=6, healthy_scrapes=2, slow_scrapes=9)
    return dict(zip(INJECTIONS, found, strict=True))


@pytest.mark.parametrize("strategy", ["ddp", "ddp, in its backward pass", "fsdp2", "pipeline"])
def test_the_slow_rank_is_named_with_its_cause(strategy: str, outcomes: dict[str, Outcome]) -> None:
    """It takes half of a step longer; within two minutes for the rules it is named, and nobody else ever.

    Not those either of a stage that is longer by design. What is read is `training_self_seconds_total` of
    the real ranks' boxes, as a scrape would.
    """
    outcome, injection = outcomes[strategy], INJECTIONS[strategy]
    assert {(injection.victims[0], CAUSES[injection.place])} == set(outcome.named), outcome
    assert outcome.seconds is not None
    assert outcome.seconds <= 120


def test_a_job_that_is_slow_as_a_whole_names_nobody(outcomes: dict[str, Outcome]) -> None:
    """Both ranks take half of a step longer: neither holds the other up."""
    assert {} == outcomes["as a whole"].named
