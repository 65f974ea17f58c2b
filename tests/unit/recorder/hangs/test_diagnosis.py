"""What holds up a run, from the state of its ranks."""

from __future__ import annotations

import pytest

from trainbeacon.recorder.hangs.diagnosis import (
    CLASSES,
    INPUT,
    LOST,
    MISMATCHED,
    MISSING,
    STORAGE,
    UNKNOWN,
    RankView,
    judge,
)

GROUP = "default:0-2"
WAITS, JOINED = {GROUP: (7.0, 6.0)}, {GROUP: (6.0, 6.0)}


def rank(number: int, phase: str = "backward", state: str = "running", silent: float = 1.0, **groups: object):  # type: ignore[no-untyped-def]
    return RankView(number, state, silent, phase, groups.get("groups", {}))  # type: ignore[arg-type]


CASES = {
    "who does not join": (
        [rank(0, groups=WAITS), rank(1, "forward", groups=JOINED), rank(2, groups=WAITS)],
        (MISSING, (1,)),
    ),
    "who waits for data is why the others wait": (
        [rank(0, groups=WAITS), rank(1, "data_wait", groups=JOINED)],
        (INPUT, (1,)),
    ),
    "who writes a checkpoint is why the others wait": (
        [rank(0, "checkpoint", groups=JOINED), rank(1, groups=WAITS)],
        (STORAGE, (0,)),
    ),
    "all wait for data": ([rank(0, "data_wait", groups=JOINED), rank(1, "data_wait")], (INPUT, (0, 1))),
    "all write a checkpoint": ([rank(0, "checkpoint"), rank(1, "checkpoint")], (STORAGE, (0, 1))),
    "everybody waits": ([rank(0, groups=WAITS), rank(1, groups=WAITS)], (MISMATCHED, ())),
    "a crash comes before what follows from it": (
        [rank(0, state="failed"), rank(1, state="crashed"), rank(2, groups=WAITS)],
        (LOST, (1,)),
    ),
    "a stopped process is lost": ([rank(0, groups=WAITS), rank(1, silent=40.0, groups=WAITS)], (LOST, (1,))),
    "a rank that waits in another group is not the cause": (
        [
            rank(0, groups={"dp:0,2": (8.0, 7.0)}),
            rank(2, groups={"dp:0,2": (7.0, 7.0), "tp:2,3": (5.0, 4.0)}),
            rank(3, "forward", groups={"tp:2,3": (4.0, 4.0)}),
        ],
        (MISSING, (3,)),
    ),
    "one that computes alone": ([rank(0, "forward")], (UNKNOWN, ())),
    "nothing is known": ([], (UNKNOWN, ())),
}


@pytest.mark.parametrize("case", CASES)
def test_class_and_ranks_at_fault(case: str) -> None:
    """Each class is distinguished from the others, with the ranks that it is about."""
    ranks, expected = CASES[case]
    verdict = judge(ranks)
    assert expected == (verdict.kind, verdict.ranks)


def test_sentence_names_collective_and_group() -> None:
    """What an operator reads first says who, doing what, and which collective is waited for."""
    verdict = judge([rank(0, groups=WAITS), rank(1, "forward", groups=JOINED)])
    assert "rank 1 in phase forward did not join collective 7 of default:0-2" == verdict.text


def test_numbers_of_the_recorded_rule_are_the_places_in_the_list() -> None:
    """`run:training_hang:class` counts from 1 in this order."""
    assert (LOST, MISSING, INPUT, STORAGE, MISMATCHED) == CLASSES
