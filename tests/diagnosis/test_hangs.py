"""Every kind of hang once, in real jobs side by side: what the rules name, and what the evidence says.

Many more, with random victims: `python -m tests.diagnosis.hangs`.
"""

from __future__ import annotations

import pytest

from tests.diagnosis.hangs import CLASS_OF, EVIDENCE_OF, KINDS, Injection, Outcome, inject_all
from tools import stack

PAIRS = ((0, 2), (1, 3))
INJECTIONS = {
    "skipped": Injection("skipped", 4, 2, PAIRS),
    "mismatched": Injection("mismatched", 3, 1),
    "stopped": Injection("stopped", 2, 0),
    "killed": Injection("killed", 3, 2),
    "worker": Injection("worker", 2, 1),
    "checkpoint": Injection("checkpoint", 2, 0),
    "interpreter": Injection("interpreter", 2, 1),
    "healthy": Injection("healthy", 2),
}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    """What came of each kind."""
    if stack.find("promtool") is None:
        pytest.skip("no promtool")
    return {outcome.injection.kind: outcome for outcome in inject_all([*INJECTIONS.values()])}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "mismatched"])
def test_rules_name_the_victim_and_nobody_else(kind: str, outcomes: dict[str, Outcome]) -> None:
    """Whoever holds up the run is the one suspect, within two minutes, and the class is reported."""
    outcome = outcomes[kind]
    assert ({INJECTIONS[kind].victim}, CLASS_OF[kind]) == (set(outcome.named), outcome.hang_class), outcome
    assert "right" == outcome.verdict
    assert outcome.seconds is not None
    assert outcome.seconds <= 120


@pytest.mark.parametrize("kind", ["skipped", "mismatched", "worker"])
def test_where_nobody_does_anything_somebody_is_paged_at_once(
    kind: str, outcomes: dict[str, Outcome]
) -> None:
    """Ranks that only wait for each other need no patience: with that, the page comes after 150 s."""
    outcome = outcomes[kind]
    assert outcome.paged is not None, outcome
    assert outcome.paged <= 90, outcome


def test_missing_rank_is_named_as_such(outcomes: dict[str, Outcome]) -> None:
    """The reason is the collective that the rank has not joined, though it is in two groups."""
    outcome = outcomes["skipped"]
    default = "default:0-3"
    assert {2: 6} == outcome.named
    assert {0: 2, 1: 2, 2: 0, 3: 2} == {rank: outcome.open[rank, default] for rank in range(4)}
    assert {0} == {opened for (_, group), opened in outcome.open.items() if group != default}


def test_collectives_that_do_not_match_are_a_class_of_their_own(outcomes: dict[str, Outcome]) -> None:
    """The rules name nobody, since counts cannot tell who is right; the files tell who is in another one."""
    outcome = outcomes["mismatched"]
    assert ({}, 5, (1,)) == (outcome.named, outcome.hang_class, outcome.odd), outcome


def test_healthy_run_names_nobody_and_keeps_no_evidence(outcomes: dict[str, Outcome]) -> None:
    """Ranks that are sampled at different moments lag behind each other, and none of them is blamed."""
    outcome = outcomes["healthy"]
    assert ({}, None, {}) == (outcome.named, outcome.hang_class, outcome.evidence), outcome
    assert outcome.paged is None, outcome


@pytest.mark.parametrize("kind", EVIDENCE_OF)
def test_evidence_has_the_same_class(kind: str, outcomes: dict[str, Outcome]) -> None:
    """The files of the ranks that live say which of the classes it is, without Prometheus."""
    outcome = outcomes[kind]
    others = {rank: said for rank, said in outcome.evidence.items() if rank != INJECTIONS[kind].victim}
    assert {EVIDENCE_OF[kind]} == set(others.values()), outcome


def test_held_interpreter_leaves_its_stacks(outcomes: dict[str, Outcome]) -> None:
    """Though no Python of the process can run, there is a file with the line that holds it."""
    assert [1] == [*outcomes["interpreter"].held]
    assert " in fail\n" in outcomes["interpreter"].held[1]
