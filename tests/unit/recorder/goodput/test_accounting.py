"""Into which kind each second goes, against a clock of the test's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.recorder.core.test_timeline import Rank
from trainbeacon.recorder.core.timeline import CHECKPOINT, DATA_WAIT, EVALUATE, OTHER, PHASE
from trainbeacon.recorder.goodput.accounting import STALL_SECONDS, TimeAccounting


@pytest.fixture
def rank() -> Iterator[Rank]:
    made = Rank()
    yield made
    made.close()


def seconds(accounting: TimeAccounting) -> dict[str, float]:
    """The kinds that took time."""
    return {kind: value for kind, value in accounting.account().seconds.items() if value}


def test_first_step_is_part_of_the_initialisation(rank: Rank) -> None:
    """Compiling and warming up is no progress, however long it takes: only the second step is productive."""
    accounting = TimeAccounting(rank.timeline)
    rank.wait(100.0)
    rank.timeline.observe(PHASE["forward"])
    rank.step(3000.0)
    rank.step(2.0)
    assert {"init": 3100.0, "productive": 2.0} == seconds(accounting)


def test_pauses_and_waits_are_kinds_of_their_own(rank: Rank) -> None:
    """Waiting for data, evaluating and saving take nothing from, and add nothing to, what is productive."""
    accounting = TimeAccounting(rank.timeline)
    rank.step(1.0)
    rank.timeline.observe(DATA_WAIT)
    rank.wait(4.0)
    rank.timeline.observe(OTHER)
    rank.wait(1.0)
    for phase, length in ((EVALUATE, 8.0), (CHECKPOINT, 16.0)):
        rank.push(phase)
        rank.wait(length)
        rank.pop()
    rank.step(1.0)
    assert {
        "init": 1.0,
        "data_wait": 4.0,
        "evaluate": 8.0,
        "checkpoint": 16.0,
        "productive": 2.0,
    } == seconds(accounting)


def test_step_under_way_is_pending(rank: Rank) -> None:
    """Nobody knows yet whether a step will be completed: its time is distinguished from what is settled."""
    accounting = TimeAccounting(rank.timeline)
    rank.step(1.0)
    rank.step(2.0)
    rank.wait(0.5)
    account = accounting.account()
    assert (2.0, 0.5, 2.0) == (account.seconds["productive"], account.pending, account.mean)


@pytest.mark.parametrize(("step", "limit"), [(1.0, STALL_SECONDS), (32.0, 320.0)])
def test_stall_begins_after_a_minute_or_ten_steps(rank: Rank, step: float, limit: float) -> None:
    """What a step takes beyond ten of its like, and beyond a minute, is stalled; also once it has ended."""
    accounting = TimeAccounting(rank.timeline)
    for _ in range(5):
        rank.step(step)
    for _ in range(4):  # the background loop's turns
        rank.wait((limit + 100.0) / 4)
        account = accounting.account()
    assert (limit, 100.0) == (account.pending, account.seconds["stalled"])
    rank.step(0.0)
    rank.step(step)
    assert {"init": step, "productive": 5 * step + limit, "stalled": 100.0} == seconds(accounting)


def test_steps_made_again_are_told_at_their_end(rank: Rank) -> None:
    """The productive time up to a step that was to be kept is exact, though nobody looked just then."""
    accounting = TimeAccounting(rank.timeline)
    accounting.keep(3)
    for length in (8.0, 1.0, 2.0, 64.0, 32.0):
        rank.step(length)
    assert 3.0 == accounting.productive_at(3, accounting.account())


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["step", "data_wait", "evaluate", "checkpoint", "forward", "resume", "look"]),
            st.sampled_from([0.125, 0.5, 2.0, 70.0]),
        ),
        max_size=60,
    )
)
def test_kinds_add_up_to_the_life_of_the_process(story: list[tuple[str, float]]) -> None:
    """Whatever happens in whatever order, no second is missed and none counts twice; no kind ever falls."""
    rank = Rank()
    try:
        accounting, before = TimeAccounting(rank.timeline), dict[str, float]()
        for what, length in story:
            if what in ("step", "look"):
                rank.wait(length)
                if what == "step":
                    rank.timeline.end_step()
                else:
                    before = accounting.account().seconds
            else:
                rank.push(PHASE[what])
                rank.wait(length)
                rank.pop()
        account = accounting.account()
        assert rank.clock.now - rank.began == pytest.approx(sum(account.seconds.values()) + account.pending)
        assert all(account.seconds[kind] >= value for kind, value in before.items())
    finally:
        rank.close()
