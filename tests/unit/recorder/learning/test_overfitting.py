"""In how many evaluations a run overfits."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable

import pytest

from trainbeacon.recorder.learning.loss_spikes import LossJudge
from trainbeacon.recorder.learning.overfitting import Overfitting


def counted(evaluations: Iterable[tuple[float, float]], scatter: float = 0.0) -> list[int]:
    """What is counted at each evaluation, of pairs of validation and training loss."""
    judge, best, counts = Overfitting(), math.inf, []
    for validation, training in evaluations:
        best = min(best, validation)
        counts.append(judge.judge(validation, best, training, scatter))
    return counts


def test_validation_worse_and_training_better_is_counted() -> None:
    """From the first evaluation that is clearly above the best; one as good as ever begins anew."""
    course = [(2.0, 1.9), (2.01, 1.8), (2.1, 1.7), (2.2, 1.6), (2.3, 1.5), (1.99, 1.4), (2.2, 1.3)]
    assert counted(course) == [0, 0, 1, 2, 3, 0, 1]


def test_where_both_get_worse_nothing_is_counted() -> None:
    """As when gradients explode, also long after an early best evaluation with a high training loss."""
    level = [(0.257, 0.30)] + [(0.258, 0.25)] * 20
    assert set(counted([*level, *[(0.275, 0.265)] * 5])) == {0}


def test_where_training_stands_still_nothing_is_counted() -> None:
    """A per cent up and down is no course."""
    assert set(counted([(2.0, 1.0), (2.2, 0.995), (2.3, 1.005), (2.4, 0.992)])) == {0}


def test_a_training_loss_that_is_lower_by_chance_does_not_count() -> None:
    """Where single losses scatter, their mean is not lower until it is so by more than they do."""
    course = [(2.0, 1.0), (2.2, 0.9), (2.2, 0.85), (2.2, 0.7), (2.2, 0.65)]
    assert counted(course, scatter=0.0) == [0, 1, 2, 3, 4]
    assert counted(course, scatter=0.2) == [0, 0, 0, 1, 2]


@pytest.mark.parametrize("batch", [8, 16])
def test_a_level_run_is_not_taken_to_overfit(batch: int) -> None:
    """A linear model at its best, of noisy data and a small validation set: 120 evaluations, none of them."""
    dice = random.Random(batch)
    losses = LossJudge()
    judge, best, most = Overfitting(), math.inf, 0
    for _ in range(120):
        for _ in range(25):
            losses.is_spike(noisy_loss(dice, batch))
        validation = noisy_loss(dice, 32)
        best = min(best, validation)
        most = max(most, judge.judge(validation, best, losses.latest_mean, losses.deviation))
    assert most < 3  # as TrainingOverfitting asks


def noisy_loss(dice: random.Random, batch: int) -> float:
    """The mean of that many squared errors."""
    return math.fsum(dice.gauss(0.0, 0.5) ** 2 for _ in range(batch)) / batch


def test_losses_below_zero_are_judged_by_their_size() -> None:
    """As those of likelihoods are."""
    assert counted([(-2.0, -1.0), (-1.99, -1.1), (-1.9, -1.2), (-1.8, -1.3)]) == [0, 0, 1, 2]


def test_an_evaluation_that_is_not_finite_is_none() -> None:
    """It is reported as what it is, and what comes after is judged as before."""
    assert counted([(2.0, 1.9), (2.2, 1.7), (math.nan, 1.6), (2.2, 1.5)]) == [0, 1, 0, 1]
