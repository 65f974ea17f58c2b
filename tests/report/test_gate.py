"""The gate of `trainbeacon report`: noise does not fail, a slowdown does, and what cannot be told is said."""

from __future__ import annotations

import random

import pytest

from trainbeacon.report.gate import Condition, ConditionError, default_gate
from trainbeacon.report.record import Point, Record

#: Noise of one window and how much the next resembles it: quiet, usual, and a shared machine with outliers.
NOISES = {"quiet": (0.005, 0.0, 0.0), "usual": (0.02, 0.5, 0.0), "rough": (0.02, 0.3, 0.05)}


def run(dice: random.Random, rate: float, noise: str = "usual", count: int = 120, **more: object) -> Record:
    """A run of so many windows about that rate."""
    spread, alike, outliers = NOISES[noise]
    windows, state = [], 0.0
    for _ in range(count):
        state = alike * state + dice.gauss(0.0, spread * (1 - alike**2) ** 0.5)
        drop = 0.5 if dice.random() < outliers else 1.0
        windows.append(rate * drop * (1 + state))
    record = Record("r", "made", 0.0, world_size=8, windows={"samples_per_second": windows})
    for name, value in more.items():
        setattr(record, name, value)
    return record


@pytest.mark.parametrize("noise", NOISES)
def test_equal_runs_do_not_fail(noise: str) -> None:
    """Of 100 pairs of the same run at most one fails: else nobody looks at the gate."""
    dice = random.Random(1)
    outcomes = [default_gate(run(dice, 1000.0, noise), run(dice, 1000.0, noise)).outcome for _ in range(100)]
    assert outcomes.count("failed") <= 1
    assert outcomes.count("passed") >= 95


@pytest.mark.parametrize("noise", NOISES)
def test_a_slowdown_of_five_percent_is_found(noise: str) -> None:
    """95 times of 100, by the default gate and by a condition that asks for four percent."""
    dice = random.Random(2)
    pairs = [(run(dice, 950.0, noise), run(dice, 1000.0, noise)) for _ in range(100)]
    assert [default_gate(*pair).outcome for pair in pairs].count("failed") >= 95
    condition = Condition.parse("samples_per_second < 0.98 * baseline")
    assert [condition.judge(*pair).outcome for pair in pairs].count("failed") >= 90


def test_what_cannot_be_told_is_said() -> None:
    """Few windows, or windows that differ by more than what is asked after: neither passed nor failed."""
    dice = random.Random(3)
    few = default_gate(run(dice, 1000.0, count=5), run(dice, 1000.0))
    assert ("cannot tell", "5 windows of the run, 8 are needed") == (few.outcome, few.sentence)
    wild = [
        run(dice, 1000.0 * dice.uniform(0.5, 1.5), count=1).windows["samples_per_second"][0]
        for _ in range(12)
    ]
    noisy = run(dice, 1.0, windows={"samples_per_second": wild})
    assert "cannot tell" == default_gate(noisy, run(dice, 1000.0)).outcome


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"world_size": 16}, "the world size differs: 16 and 8"),
        ({"hardware": ["H200"]}, "the GPU model differs: H200 and H100"),
        ({"samples_per_step": 64.0}, "samples a step differ: 64 and 32"),
        ({"hyperparameters": {"batch_size": "4"}}, "batch_size differs: 4 and 8"),
    ],
)
def test_what_is_not_comparable_is_refused(changed: dict[str, object], why: str) -> None:
    """A run on twice the GPUs is no evidence about code."""
    dice = random.Random(4)
    same = {"hardware": ["H100"], "samples_per_step": 32.0, "hyperparameters": {"batch_size": "8"}}
    found = default_gate(run(dice, 1000.0, **{**same, **changed}), run(dice, 1000.0, **same))
    assert ("not comparable", why) == (found.outcome, found.sentence)


def test_a_condition_on_the_run_alone() -> None:
    """Without a baseline it is a limit; the loss at the end may be asked after too."""
    dice = random.Random(5)
    losses = [Point(float(at), float(at), 2.0 + dice.gauss(0, 0.01)) for at in range(100)]
    record = run(dice, 1000.0, curves={"training loss": losses})
    for text, outcome in {
        "samples_per_second < 500": "passed",
        "samples_per_second < 1500": "failed",
        "2 * samples_per_second >= 500 + 1": "failed",
        "final_loss > 2.5": "passed",
        "final_loss > 1.5": "failed",
        "final_loss > 2.0": "cannot tell",
        "seconds_per_step > 1": "cannot tell",
    }.items():
        assert outcome == Condition.parse(text).judge(record, None).outcome, text


@pytest.mark.parametrize(
    "text",
    [
        "samples_per_second <",
        "samples_per_second",
        "1 < 2",
        "a < b",
        "a < f(1)",
        "a < 1 < 2",
        "a == 1",
        "a < 1 / 0",
    ],
)
def test_a_condition_that_makes_no_sense_is_refused(text: str) -> None:
    """It is read before anything is measured."""
    with pytest.raises(ConditionError):
        Condition.parse(text)
