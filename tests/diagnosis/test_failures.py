"""The first rank to fail is named: the short form of `python -m tests.diagnosis.failures`."""

from __future__ import annotations

import pytest

from tests.diagnosis.failures import FAULTS, run_one


@pytest.mark.usefixtures("prometheus")
def test_the_first_of_three_ranks_to_end_is_named() -> None:
    """One of three is killed, its peers lose it, torchrun ends them: the one that was killed is named."""
    outcome = run_one("kill", victim=1, world=3, seed=4)
    assert ("right", f"1 {FAULTS['kill']}") == (outcome.verdict, outcome.named), outcome
