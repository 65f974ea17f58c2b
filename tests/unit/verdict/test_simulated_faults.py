"""Of each fault of the simulator the verdict names condition and rank; of a healthy fleet it is silent."""

from __future__ import annotations

from contextlib import closing

import pytest

from tests.seen import Seen
from tests.simulated import READY, simulated
from trainbeacon.terminal import view
from trainbeacon.verdict.alerts import severity_order

AFTER = READY + 200.0
#: A run that has ended is served for a minute.
SOON, ENDING = READY + 40.0, ("TrainingRankLost", "TrainingRunFailed", "TrainingGpuLost")
#: Scenario: the alert whose words the verdict must have, and whether it names the rank at fault.
EXPECTED = {
    "nan": ("TrainingLossNotFinite", True),
    "hang": ("TrainingStalled", True),
    "stuck-loader": ("TrainingStalled", True),
    "straggler-data": ("TrainingStraggler", True),
    "straggler-compute": ("TrainingStraggler", True),
    "straggler-host": ("TrainingStraggler", True),
    "crash": ("TrainingRankLost", True),
    "oom": ("TrainingRunFailed", True),
    "input-bound": ("TrainingInputBound", False),
    "xid": ("TrainingGpuLost", True),
    "throttling": ("TrainingGpuThrottled", True),
}


@pytest.mark.parametrize("scenario", EXPECTED)
def test_the_verdict_names_the_fault(scenario: str) -> None:
    """Whoever looks at the first line knows what is wrong, and where."""
    alert, names_rank = EXPECTED[scenario]
    with simulated(scenario, ranks=8, seed=5) as fleet, closing(Seen(fleet)) as seen:
        sight = seen.at(SOON if alert in ENDING else AFTER)
        truth = fleet.truth[0]
        first = view.verdict(sight)
        named = {(each.alert, each.rank) for each in sight.findings}
        assert (alert, truth.rank if names_rank else None) in named, [
            each.sentence for each in sight.findings
        ]
        assert severity_order(first.severity) <= severity_order("warning")
        assert truth.run in first.sentence


@pytest.mark.parametrize("scenario", ["", "stage-imbalance", "straggler-compute"])
def test_ranks_of_a_pipeline_are_compared_with_those_of_their_stage(scenario: str) -> None:
    """A stage that is longer than the others is no rank's fault; a slow rank in a pipeline is named."""
    with (
        simulated(*filter(None, [scenario]), ranks=16, stages=4, seed=7) as fleet,
        closing(Seen(fleet)) as seen,
    ):
        sight = seen.at(AFTER)
        slow = [fleet.truth[0].rank] if scenario == "straggler-compute" else []
        assert slow == [each.rank for each in sight.findings if each.alert == "TrainingStraggler"]


@pytest.mark.parametrize("seed", range(4))
def test_a_healthy_fleet_is_silent(seed: int) -> None:
    """A verdict that cries wolf is not read."""
    with simulated(ranks=8, runs=2, seed=seed) as fleet, closing(Seen(fleet)) as seen:
        for seconds in range(20, 420, 40):
            sight = seen.at(seconds)
            assert [] == [each.sentence for each in sight.findings], seconds
    assert "No fault in sight: 8 ranks of 2 runs at work." == view.verdict(sight).sentence


def test_a_silent_source_is_said_and_nobody_called_dead() -> None:
    """Ranks of a node that cannot be seen are out of sight; the age of what is shown is said."""
    with simulated(ranks=8, seed=2) as fleet, closing(Seen(fleet)) as seen:
        seen.at(READY + 60)
        seen.sources[0].broken = "Connection refused"
        sight = seen.at(READY + 120)
        first = view.verdict(sight)
        assert "A source does not answer." == first.summary
        assert "Connection refused. What it showed is 1 min" in first.detail
        states = {rank.state for run in sight.facts.runs for rank in run.ranks}
        assert {"running", "unseen"} == states
