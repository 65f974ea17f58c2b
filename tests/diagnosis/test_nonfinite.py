"""NaNs planted in real jobs: the shipped rules name the rank and the layer; and the norms of sharded models.

The short form. `python -m tests.diagnosis.nonfinite` repeats it with random victims.
"""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from tests.diagnosis.nonfinite import GRADIENT_NORM, PARAMETER_NORM, Outcome, inject_all
from tests.diagnosis.nonfinite_rank import Fault
from tools import stack

pytestmark = pytest.mark.skipif(stack.find("promtool") is None, reason="needs promtool: make tools")


def fault(strategy: str, place: str, layer: str = "", victim: int = 1, clip: bool = False) -> Fault:
    return Fault("", "", strategy, place, layer, victim, 3, clip, False, 3)


FAULTS = (
    fault("ddp", "weight", "2.up"),
    fault("ddp", "activation", "2.down"),
    fault("ddp", "activation", "0", victim=0, clip=True),
    fault("ddp", "gradient", "3.norm"),
    fault("ddp", "gradient", "1.up", victim=0, clip=True),
    fault("fsdp2", "weight", "1.norm"),
    fault("fsdp2", "activation", "3.down", victim=0),
    fault("fsdp2", "activation", "4", clip=True),
    fault("fsdp2", "gradient", "2.up", clip=True),
    fault("ddp", "nothing"),
    fault("fsdp2", "nothing"),
    fault("fsdp2", "nothing", clip=True),
    fault("hsdp", "nothing"),
)


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    """All of it in two processes."""
    return inject_all(FAULTS, world_size=2)


@pytest.mark.parametrize("number", [at for at, each in enumerate(FAULTS) if each.place != "nothing"])
def test_rank_layer_and_step_of_a_planted_nan_are_told(outcomes: list[Outcome], number: int) -> None:
    """A NaN in a weight, an activation or a gradient, with DDP and FSDP2: who, where and when are right."""
    outcome = outcomes[number]
    # Of a sharded gradient a rank sees a part: it names two layers, of which it is one.
    layer = "range" if (outcome.fault.strategy, outcome.fault.place) == ("fsdp2", "gradient") else "right"
    assert (outcome.rank, outcome.layer, outcome.step) == ("right", layer, True), outcome.named


def test_a_healthy_run_names_nobody(outcomes: list[Outcome]) -> None:
    """Without a NaN no rank tells of one."""
    assert [each.named for each in outcomes if each.fault.place == "nothing"] == [()] * 4


def test_the_squares_of_the_ranks_add_up_to_the_true_norms(outcomes: list[Outcome]) -> None:
    """The rules' sums of training_gradient_squared_norm and training_parameter_squared_norm are the norms.

    A shard that two replicas hold counts once. Where clipping has worked out a norm it is that one.
    """
    healthy = [each for each in outcomes if each.fault.place == "nothing"]
    assert [each.shares for each in healthy] == [0, 2, 2, 2]
    for outcome in healthy:
        truth = "last_gradient_norm" if outcome.fault.clip else "gradient_norm"
        assert outcome.norms[GRADIENT_NORM] == pytest.approx(outcome.truth[truth], rel=1e-5)
        assert outcome.norms[PARAMETER_NORM] == pytest.approx(outcome.truth["parameter_norm"], rel=1e-5)
