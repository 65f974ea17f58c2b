"""A slow rank of a real job is named with its cause by the shipped rules; `stragglers` has the campaign."""

from __future__ import annotations

import shutil

import pytest

from tests.diagnosis.stragglers import CAUSES, inject
from tools import stack

pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def _promtool() -> None:
    if stack.find("promtool") is None and shutil.which("promtool") is None:
        pytest.skip("promtool is not available here: `make tools`, or put it on the PATH")


@pytest.mark.parametrize(("strategy", "place", "victim"), [("ddp", "data", 1), ("fsdp2", "host", 0)])
def test_the_slow_rank_is_named_with_its_cause(strategy: str, place: str, victim: int) -> None:
    """With DDP and FSDP2, and gradients accumulated over two batches, within two minutes of the rules' time.

    What is read is `training_self_seconds_total` of the real ranks' boxes, as a scrape would. The fault is
    large, because on a machine with too few cores other ranks are slow in truth, now and then.
    """
    outcome = inject(place, 3.0, strategy, 2, (victim,), micro_batches=2, healthy_scrapes=5, slow_scrapes=9)
    assert (victim, CAUSES[place]) in outcome.named
    assert outcome.share_lost.keys() <= {victim}  # at the end
    assert outcome.seconds is not None
    assert outcome.seconds <= 120
