"""What is read of a page of /metrics, whoever wrote it."""

from __future__ import annotations

import math

import pytest

from trainbeacon.terminal.facts_of import facts_of
from trainbeacon.terminal.table import Look, Table
from trainbeacon.verdict.facts import Rank

START = 'training_start_timestamp_seconds{rank="3",run="r"} 1000\n'


def look_at(table: Table, page: str, at: float = 2000.0) -> Look:
    look = table.new_look(at)
    table.read_page(look, page.encode())
    return look


def ranks(page: str, table: Table | None = None) -> list[Rank]:
    """The ranks of one page."""
    table = table or Table("a:9797")
    found = facts_of("a:9797", table, look_at(table, page), None)
    return [rank for run in found.runs.values() for rank in run.ranks]


@pytest.mark.parametrize(
    ("line", "step"),
    [
        ('training_step{rank="3",run="r"} 42', 42.0),
        ('training_step{run="r",rank="3"} 42.0', 42.0),
        ('training_step{rank="3",run="r"} 4.2e1', 42.0),
        ('training_step{rank="3",run="r"} 42 1700000000000', 42.0),
        ('training_step{instance="x",job="y",rank="3",run="r"} 42', 42.0),
        ('training_step{rank="3",run="r"} nonsense', None),
        ('training_step{rank="three",run="r"} 42', None),
        ('training_step{rank="3"} 42', None),
        ("training_step 42", None),
        ("", None),
        ("\x00\xff{{{", None),
    ],
)
def test_lines_are_read_in_every_form(line: str, step: float | None) -> None:
    """Order of labels, foreign labels, times after values: all are valid; nonsense is left out."""
    assert [step] == [rank.step for rank in ranks(START + line + "\n")]


def test_a_name_may_hold_anything() -> None:
    """Quotes, braces, spaces and line ends in a run's name are part of the name."""
    page = START.replace('run="r"', r'run="a \"b\" {c} \\ \n 1"')
    table = Table()
    found = facts_of("s", table, look_at(table, page), None)
    assert [("", "", 'a "b" {c} \\ \n 1')] == list(found.runs)


def test_nan_is_a_value_and_absence_is_none() -> None:
    """A loss that is NaN is news, one that is not served is not known."""
    (rank,) = ranks(START + 'training_loss{rank="3",run="r",split="train"} NaN\n')
    assert rank.loss is not None
    assert math.isnan(rank.loss)
    assert rank.validation_loss is None


def test_what_is_served_no_longer_is_not_shown() -> None:
    """A look shows what was served then, not what an earlier one has left behind."""
    table = Table()
    assert 1 == len(ranks(START, table))
    assert [] == ranks(START.replace('rank="3"', 'rank="4"').replace("1000", "x"), table)
    assert [4] == [rank.number for rank in ranks(START.replace('rank="3"', 'rank="4"'), table)]


def test_a_state_is_the_label_whose_value_is_one() -> None:
    """Of the series of a state or phase, the one that is 1 counts, however that is written."""
    page = START + 'training_state{rank="3",run="r",state="running"} 0\n'
    page += 'training_state{rank="3",run="r",state="crashed"} 1.0\n'
    assert ["crashed"] == [rank.state for rank in ranks(page)]


def test_rates_are_of_one_process() -> None:
    """Between two looks counters give rates; a process that was started anew begins from nothing."""
    table = Table()

    def page(count: float, started: float) -> str:
        labels = 'rank="3",run="r"'
        return (
            f"training_start_timestamp_seconds{{{labels}}} {started}\n"
            f"training_step_duration_seconds_count{{{labels}}} {count}\n"
            f"training_step_duration_seconds_sum{{{labels}}} {count * 0.5}\n"
        )

    first = look_at(table, page(1000, 1000), 2000)
    second = look_at(table, page(1100, 1000), 2100)
    again = look_at(table, page(10, 2150), 2200)
    (rank,) = next(iter(facts_of("s", table, second, first).runs.values())).ranks
    assert (0.5, 100.0) == (rank.step_seconds, rank.window)
    (rank,) = next(iter(facts_of("s", table, again, second).runs.values())).ranks
    assert (0.5, 0.0) == (rank.step_seconds, rank.window)
