"""Which losses are spikes."""

from __future__ import annotations

import math
import random

import pytest

from trainbeacon.recorder.learning.loss_spikes import WARM_UP_LOSSES, LossJudge


def settled(level: float = 2.0, noise: float = 0.05, count: int = 200, seed: int = 1) -> LossJudge:
    """A judge that has seen a quiet run."""
    judge, chance = LossJudge(), random.Random(seed)
    for _ in range(count):
        judge.is_spike(chance.gauss(level, noise))
    return judge


@pytest.mark.parametrize(("level", "noise"), [(2.0, 0.01), (2.0, 0.3), (0.0, 1.0), (-5.0, 0.5), (1e-6, 1e-7)])
def test_noise_is_no_spike(level: float, noise: float) -> None:
    """10,000 losses of normal noise at any level and width: none is called a spike."""
    judge, chance = LossJudge(), random.Random(42)
    assert sum(judge.is_spike(chance.gauss(level, noise)) for _ in range(10_000)) == 0


def test_a_falling_loss_is_no_spike() -> None:
    """An ordinary course, falling with noise that shrinks along, raises nothing."""
    judge, chance = LossJudge(), random.Random(3)
    losses = [8.0 * math.exp(-step / 500) + 1.0 + chance.gauss(0, 0.1) for step in range(5000)]
    assert sum(map(judge.is_spike, losses)) == 0


def test_a_spike_is_counted_once() -> None:
    """One loss far above its course is one spike, and those after it are judged as before."""
    judge, chance = settled(), random.Random(2)
    losses = [*(chance.gauss(2.0, 0.05) for _ in range(100))]
    losses[50] = 20.0
    assert [step for step, loss in enumerate(losses) if judge.is_spike(loss)] == [50]


def test_a_spike_does_not_hide_the_next() -> None:
    """Two spikes with a quiet stretch between them are two."""
    judge = settled()
    spikes = [judge.is_spike(1000.0)]
    assert not any(judge.is_spike(2.0) for _ in range(30))
    spikes.append(judge.is_spike(1000.0))
    assert spikes == [True, True]


@pytest.mark.parametrize("height", [6.0, 12.0])
def test_one_bad_batch_in_ten_does_not_become_normal(height: float) -> None:
    """Also soon after a steep start, whose fall is still in the averages, most of them are reported."""
    judge, chance = LossJudge(), random.Random(7)
    told = 0
    for step in range(500):
        bad = step >= 150 and step % 10 == 0
        loss = 0.25 + 2.0 * math.exp(-step / 25) + chance.gauss(0, 0.01)
        told += judge.is_spike(loss * height if bad else loss)
    assert told >= 18


def test_a_loss_that_stays_high_becomes_normal() -> None:
    """A lasting rise is a spike for some dozens of steps, then the new level; a spike above that is told."""
    judge, chance = settled(), random.Random(5)
    spikes = [judge.is_spike(chance.gauss(6.0, 0.05)) for _ in range(300)]
    assert spikes[0]
    assert sum(spikes) < 100
    assert not any(spikes[100:])
    assert judge.is_spike(60.0)


def test_a_drop_is_no_spike() -> None:
    """Only rises are spikes."""
    judge = settled()
    assert not judge.is_spike(-1000.0)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_losses_that_are_not_finite_are_not_judged(loss: float) -> None:
    """They are counted elsewhere, are no spikes, and do not spoil the averages."""
    judge = settled()
    assert not any(judge.is_spike(loss) for _ in range(50))
    assert judge.is_spike(20.0)
    assert not judge.is_spike(2.0)


def test_early_training_is_not_judged() -> None:
    """Of the first losses none is a spike, however they leap; right after them one is."""
    wild = LossJudge()
    assert not any(wild.is_spike(loss) for loss in [1.0, 100.0] * (WARM_UP_LOSSES // 2))
    calm = LossJudge()
    assert [calm.is_spike(1.0) for _ in range(WARM_UP_LOSSES)] == [False] * WARM_UP_LOSSES
    assert calm.is_spike(50.0)


def test_the_size_of_the_loss_does_not_matter() -> None:
    """The same course a million times larger or smaller is judged the same."""
    chance = random.Random(9)
    losses = [chance.gauss(2.0, 0.1) * (6.0 if step % 97 == 96 else 1.0) for step in range(500)]
    judged = []
    for factor in (1.0, 2.0**20, 2.0**-20):
        judge = LossJudge()
        judged.append([judge.is_spike(loss * factor) for loss in losses])
    assert judged[0] == judged[1] == judged[2]
    assert sum(judged[0]) == 5


@pytest.mark.parametrize(("level", "noise"), [(2.0, 0.01), (2.0, 0.3), (0.0, 1.0), (-5.0, 0.5)])
def test_noise_does_not_rise_for_long(level: float, noise: float) -> None:
    """In 100,000 losses of mere noise no five stretches in a row count as rising."""
    judge, chance = LossJudge(), random.Random(7)
    longest = 0
    for _ in range(100_000):
        judge.is_spike(chance.gauss(level, noise))
        longest = max(longest, judge.rises)
    assert longest < 5


def test_a_loss_that_climbs_is_counted_until_it_turns() -> None:
    """A slow climb under noise counts one rise a stretch, and the first fall sets it back to 0."""
    judge, chance = settled(noise=0.05), random.Random(5)
    for step in range(500):
        judge.is_spike(2.0 + step * 0.002 + chance.gauss(0, 0.05))
    assert judge.rises >= 8
    for _ in range(100):
        judge.is_spike(2.0)
    assert judge.rises == 0
