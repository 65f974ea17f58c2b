"""What is shown of the facts, and in which order."""

from __future__ import annotations

import pytest

from trainbeacon.terminal import view
from trainbeacon.terminal.signs import ASCII, UNICODE, Signs, width_of
from trainbeacon.terminal.watch import Sight
from trainbeacon.verdict.conditions import judge
from trainbeacon.verdict.durations import duration, short
from trainbeacon.verdict.facts import Facts, Rank, Run

NOW = 10_000.0


def sight(*runs: Run) -> Sight:
    facts = Facts(NOW, list(runs))
    return Sight(facts, judge(facts))


def rank(number: int, state: str = "running", **more: object) -> Rank:
    known = {"started": NOW - 100, "heartbeat": NOW, "last_step_at": NOW, "steps_made": 50.0, **more}
    return Rank(number, state=state, **known)  # type: ignore[arg-type]


def test_what_has_ended_does_not_hide_what_is_at_work() -> None:
    """Old news stands below what trains now, and first where nothing does."""
    old = Run(("", "", "old"), [rank(0, "finished", step=7.0)])
    new = Run(("", "", "new"), [rank(0), rank(1)])
    assert "No fault in sight: 2 ranks of 1 run at work." == view.verdict(sight(old, new)).sentence
    assert ["new", "old"] == [run.name for run in view.runs_by_trouble(sight(old, new))]
    assert "The run is finished. Run old: After step 7." == view.verdict(sight(old)).sentence


def test_trouble_comes_before_work_and_work_before_rest() -> None:
    """The worst ranks are on the screen, however many there are."""
    run = Run(("", "", "r"), [rank(n) for n in range(100)])
    run.ranks += [rank(100, "finished"), rank(101, "crashed"), rank(102, "unseen"), rank(103, excess=0.5)]
    seen = sight(run)
    shown = view.worst_first(view.members(seen), NOW, 5)
    assert [101, 102, 103, 0, 1] == [each.rank.number for each in shown]


def test_many_lost_ranks_are_one_finding() -> None:
    """A job that dies as a whole is one line, not thousands."""
    run = Run(("", "", "r"), [rank(n, "crashed") for n in range(2000)] + [rank(2000)])
    (found,) = judge(Facts(NOW, [run]))
    assert "TrainingRanksLost" == found.alert
    assert "Run r: 2000 ranks, among them rank 0." == found.detail


@pytest.mark.parametrize("by", ["RANK", "STEP", "PEERS", "MEM", "LOSS", "STATE", "PHASE", "HOST"])
def test_every_column_sorts_and_what_is_not_known_comes_last(by: str) -> None:
    """Sorting never fails on a rank that lacks the number."""
    known = rank(1, step=5.0, excess=0.1, memory=1e9, loss=float("nan"), phase="forward", host="h")
    seen = sight(Run(("", "", "r"), [rank(0), known, rank(2)]))
    (column,) = [each for each in view.columns(many_runs=True) if each.title == by]
    for reverse in (False, True):
        shown = view.sort_by(view.members(seen), column, NOW, 3, reverse=reverse)
        assert {0, 1, 2} == {each.rank.number for each in shown}
        if by not in ("RANK", "STATE"):
            assert 1 == shown[0].rank.number


def test_the_end_is_a_time_at_the_present_pace() -> None:
    """900 steps of 2 s are half an hour; a run without a plan has no end."""
    run = Run(("", "", "r"), [rank(0, step=100.0, step_seconds=2.0)], steps_planned=1000.0)
    assert view.end_of(run, NOW) == view.moment(NOW + 1800, NOW)
    run.steps_planned = None
    assert "" == view.end_of(run, NOW)


@pytest.mark.parametrize("signs", [UNICODE, ASCII])
@pytest.mark.parametrize("text", ["plain", "größe", "训练任务", "a\x1b[31mb\r\n", "é", ""])
def test_a_cell_is_as_wide_as_it_should_be(signs: Signs, text: str) -> None:
    """Wide characters, combining ones and escape sequences do not push a table out of line."""
    for width in (1, 3, 4, 7, 20):
        for right in (False, True):
            cell = signs.fit(text, width, right=right)
            assert width == width_of(cell)
            assert cell.isprintable()


@pytest.mark.parametrize(
    ("seconds", "long", "brief"),
    [
        (0.05, "0 s", "50ms"),
        (9.94, "10 s", "9.9s"),
        (75, "1 min 15 s", "75s"),
        (3600, "1 h", "60m"),
        (90_061, "1 d 1 h", "25h"),
        (400_000, "4 d 15 h", "5d"),
        (float("nan"), "?", ""),
    ],
)
def test_times_read_at_a_glance(seconds: float, long: str, brief: str) -> None:
    """Two units in a sentence, one in a column."""
    assert (long, brief) == (duration(seconds), short(seconds))
