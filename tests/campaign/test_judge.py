"""The judging of the campaign: what counts as right, as a false alarm, as the culprit, and the figures."""

from __future__ import annotations

import dataclasses

import pytest
import yaml

from tests.campaign import history
from tests.campaign.campaign import Log
from tests.campaign.faults import PLANTED
from tests.campaign.injections import draw
from tests.campaign.judge import (
    LOUD,
    Ending,
    Message,
    Outcome,
    Share,
    ending_of,
    is_culprit,
    poisson_most,
    quantile,
    summarise,
    told_about,
    verdict_of,
    wilson,
    without_run,
)
from tests.campaign.kinds import BY_NAME, KINDS, SIMULATED
from trainbeacon.stack.receiver import Notification

STRUCK = 1000.0


def alert(name: str, run: str = "r", severity: str = "critical", text: str = "", **more: str) -> Notification:
    labels = {"alertname": name, "severity": severity, **({"run": run} if run else {}), **more}
    return Notification(name, "firing", "team", labels, {"description": text}, "", str(labels))


def message(after: float, *alerts: Notification) -> Message:
    return Message(STRUCK + after, alerts)


def outcome(kind: str = "killed_rank", **changes: object) -> Outcome:
    made = Outcome(0, kind, "r", 2, 1, {}, "right", 10.0, True, ("1",), (), (), 1, 60.0, 0.5)
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("right", "of", "expected"),
    [
        (0, 10, (0.0, 0.2775)),
        (10, 10, (0.7225, 1.0)),
        (50, 100, (0.4038, 0.5962)),
        (197, 200, (0.9569, 0.9949)),
        (0, 0, (0.0, 1.0)),
    ],
)
def test_wilson_interval(right: int, of: int, expected: tuple[float, float]) -> None:
    """The intervals are those of the published tables."""
    assert expected == pytest.approx(wilson(right, of), abs=1e-4)


def test_bound_of_a_rate() -> None:
    """Nothing in 30 days leaves a rate of at most 3 in 30 days; one leaves 4.74."""
    assert pytest.approx(2.9957 / 30, rel=1e-3) == poisson_most(0, 30)
    assert pytest.approx(4.7439 / 30, rel=1e-3) == poisson_most(1, 30)


def test_expected_alert_with_its_culprit() -> None:
    """The first message of an expected alert gives time and rank; repetitions and other runs do nothing."""
    kind = BY_NAME["killed_rank"]
    lost = alert("TrainingRankLost", rank="1")
    told = told_about(
        "r",
        [message(7, lost), message(9, alert("TrainingStalled", run="other")), message(20, lost)],
        STRUCK,
        kind,
    )
    verdict, right, false = verdict_of(kind, told)
    assert right is not None
    assert ("right", 7.0, ("1",), []) == (verdict, right.seconds, right.named, false)
    assert is_culprit(kind, right.named, "1", 2) is True


def test_a_second_rank_named_is_no_culprit() -> None:
    """Whoever names the victim and another one as well has not named the culprit."""
    kind = BY_NAME["killed_rank"]
    told = told_about(
        "r",
        [message(7, alert("TrainingRankLost", rank="1")), message(20, alert("TrainingRankLost", rank="0"))],
        STRUCK,
        kind,
    )
    assert ("0", "1") == told[0].named
    assert is_culprit(kind, told[0].named, "1", 2) is False


def over(name: str, closed: str, **labels: str) -> Notification:
    fired = alert(name, **labels)
    return dataclasses.replace(fired, status="resolved", annotations={"closed": closed})


AT_WORK = "The rank is at work again, at step 7; it was lost at step 3."


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([], Ending("missed")),
        ([message(70, over("TrainingRankLost", AT_WORK, rank="1"))], Ending("right", 20.0, AT_WORK)),
        ([message(40, over("TrainingRankLost", AT_WORK, rank="1"))], Ending("early", None, AT_WORK)),
        ([message(70, over("TrainingRankLost", "", rank="1"))], Ending("wrong", 20.0, "")),
        ([message(900, over("TrainingRankLost", AT_WORK, rank="1"))], Ending("missed", None, AT_WORK)),
        (
            [
                message(70, over("TrainingRankLost", AT_WORK, rank="1")),
                message(80, alert("TrainingRankLost", rank="1")),
            ],
            Ending("again"),
        ),
        (
            [
                message(20, alert("TrainingRankLost", rank="0")),
                message(70, over("TrainingRankLost", AT_WORK, rank="1")),
            ],
            Ending("missed", None, AT_WORK),
        ),
        ([message(70, over("TrainingRunFailed", AT_WORK))], Ending("missed")),
    ],
    ids=["open", "right", "early", "no words", "late", "again", "one of two", "another alert"],
)
def test_end_of_an_incident(messages: list[Message], expected: Ending) -> None:
    """It is right when all expected alerts are over in time after the end, in true words, and stay so."""
    first = message(10, alert("TrainingRankLost", rank="1"))
    found = ending_of("r", [first, *messages], BY_NAME["killed_rank"], STRUCK, STRUCK + 50)
    assert expected == found


def test_what_nobody_ends_must_stay_open() -> None:
    """A rank that is left dead is not reported as over, however long that lasts."""
    kind = BY_NAME["killed_and_left"]
    fired = message(10, alert("TrainingRankLost", rank="1"))
    later = message(900, over("TrainingRankLost", AT_WORK, rank="1"))
    assert Ending("right") == ending_of("r", [fired], kind, STRUCK, STRUCK + 1200)
    assert Ending("early", None, AT_WORK) == ending_of("r", [fired, later], kind, STRUCK, STRUCK + 1200)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (
            "nan_loss",
            "Run r: the loss is NaN or infinite on 2 rank(s). Look first at rank 3 (host a, GPU none).",
        ),
        (
            "skipped_collective",
            "Run r has made no step for 2m. Suspect: rank 3 (host a), which has not joined.",
        ),
        (
            "blocked_checkpoint",
            "Run r: ranks have been in the phase checkpoint for 1m, the longest rank 3 (host).",
        ),
        ("restart_loop", "Run r was started 3 times anew within an hour; the last time rank 3 ended first."),
    ],
)
def test_the_rank_is_found_in_the_text(kind: str, text: str) -> None:
    """Alerts of a whole run name a rank in words."""
    (told,) = told_about("r", [message(1, alert("TrainingStalled", text=text))], STRUCK, BY_NAME[kind])
    assert ("3",) == told.named


def test_what_a_fault_does_not_explain_is_a_false_alarm() -> None:
    """Consequences count neither way, another alert counts against, and one for information not at all."""
    kind = BY_NAME["killed_rank"]
    told = told_about(
        "r",
        [
            message(5, alert("TrainingRankLost", rank="1")),
            message(70, alert("TrainingRunFailed", rank="1")),
            message(80, alert("TrainingLossRising", severity="warning")),
            message(90, alert("TrainingRunFinished", severity="info")),
        ],
        STRUCK,
        kind,
    )
    verdict, _, false = verdict_of(kind, told)
    assert ("right", ["TrainingLossRising"]) == (verdict, [each.alert for each in false])


def test_before_the_fault_every_alert_is_false() -> None:
    """Also the one that is expected, which then is not found later either."""
    kind = BY_NAME["killed_rank"]
    told = told_about("r", [message(-5, alert("TrainingRankLost", rank="1"))], STRUCK, kind)
    verdict, _, false = verdict_of(kind, told)
    assert ("missed", 1) == (verdict, len(false))


def test_too_late_is_missed() -> None:
    """A message after the time of the kind does not count."""
    kind = BY_NAME["killed_rank"]
    told = told_about("r", [message(kind.within + 1, alert("TrainingRankLost", rank="1"))], STRUCK, kind)
    assert "missed" == verdict_of(kind, told)[0]


def test_a_control_must_be_quiet() -> None:
    """Any alert that reaches somebody about a healthy job is a false alarm; resolved ones are none."""
    kind = BY_NAME["healthy"]
    resolved = dataclasses.replace(alert("TrainingStalled"), status="resolved")
    assert "quiet" == verdict_of(kind, told_about("r", [message(5, resolved)], STRUCK, kind))[0]
    told = told_about(
        "r", [message(5, alert("TrainingStraggler", severity="warning", rank="0"))], STRUCK, kind
    )
    assert "false alarm" == verdict_of(kind, told)[0]


def test_alerts_about_no_run() -> None:
    """Nobody expects one but the Watchdog."""
    found = without_run(
        [
            message(1, alert("Watchdog", "", "none"), alert("TrainBeaconRulesFailing", "")),
            message(2, alert("A")),
        ]
    )
    assert ["TrainBeaconRulesFailing"] == [each.alert for each in found]


def test_alerts_about_the_target_of_a_run() -> None:
    """What is said of a GPU when its run is gone is said of the run that was on its node."""
    kind = BY_NAME["xid"]
    gone = message(
        5, alert("TrainingGpuLost", "", instance="a:1"), alert("TrainingGpuLost", "", instance="b:1")
    )
    (told,) = told_about("r", [gone], STRUCK, kind, "a:1")
    assert ("TrainingGpuLost", 5.0) == (told.alert, told.seconds)
    assert ["b:1"] == [each.labels["instance"] for each in without_run([gone], ["a:1"])]


def test_summary() -> None:
    """Recall over faults, precision over alerts, culprit over what was right and has one."""
    outcomes = [
        outcome(),
        outcome(seconds=30.0, culprit=False, messages=3),
        outcome(verdict="missed", seconds=None, culprit=None, false_alarms=("TrainingStalled",)),
        outcome("nan_gradients_skipped", culprit=None, seconds=20.0),
        outcome("healthy", verdict="quiet", seconds=None, culprit=None, messages=0),
    ]
    found = summarise(outcomes, others=1)
    assert (Share(3, 4), Share(3, 5), Share(1, 2)) == (found.recall, found.precision, found.culprit)
    assert (20.0, 30.0, 3) == (found.seconds_median, found.seconds_worst, found.messages_most)
    assert 19 == quantile(list(range(1, 21)), 0.95)


def test_outcomes_are_kept(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """A campaign that is stopped goes on with what it has."""
    path = tmp_path / "outcomes.jsonl"
    kept = outcome(told=told_about("r", [message(1, alert("A", rank="1"))], STRUCK, BY_NAME["killed_rank"]))
    Log(path).add(kept)
    assert [kept] == Log(path).outcomes
    assert {0} == Log(path).numbers


def test_the_plan_of_the_campaign() -> None:
    """At least 200 injections over 20 kinds, the same from the same seed, with random victims."""
    injections = draw(20)
    assert injections == draw(20)
    assert injections != draw(21)
    faults = [each for each in injections if BY_NAME[each.kind].expected]
    assert len(faults) >= 190
    assert len({each.kind for each in faults}) >= 20
    assert len({each.run for each in injections}) == len(injections)
    assert {0, 1, 2, 3} == {each.victim for each in faults}
    assert all(each.victim < each.world_size for each in injections)


def test_the_plan_knows_the_shipped_alerts() -> None:
    """Whatever a kind expects or explains is the name of a shipped alert; what it expects reaches people."""
    rules = [
        rule
        for path in history.RULES.glob("alerts/*.yml")
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]
    names = {rule["alert"] for rule in rules}
    loud = {rule["alert"] for rule in rules if rule["labels"]["severity"] in LOUD}
    for kind in (*KINDS, *SIMULATED):
        assert {*kind.expected, *kind.consequences} <= names, kind.name
        assert {*kind.expected} <= loud, kind.name
        assert not {*kind.expected} & {*kind.consequences}, kind.name
    assert set(PLANTED) <= {kind.name for kind in KINDS}


def test_history_in_promtools_words() -> None:
    """Repetitions are shortened; what ends is stale, what comes later begins late."""
    columns = history.Columns({"a", "b", "c_timestamp_seconds"})
    for moment in range(6):
        lines = ['a{run="r"} 5.0 1\n'] if moment != 3 else []
        lines += ['b{run="r"} nan 1\n'] if moment in (2, 3) else []
        lines += [f"c_timestamp_seconds{{}} {history.BEGIN + moment!r} 1\n", "d{} 1.0 1\n"]
        columns.add(moment, lines)
    texts = dict(columns.texts(6))
    assert "5.0x2 stale 5.0x1" == texts['a{run="r"}']
    assert "_x2 NaN NaN stale" == texts['b{run="r"}']
    assert "0.0 1.0 2.0 3.0 4.0 5.0" == texts["c_timestamp_seconds{}"]
    assert 3 == len(columns)


def test_what_promtool_found_is_read() -> None:
    """Each alert once, with the time at which it began."""
    labels = '{alertname="A", alertstate="firing", run="r", severity="warning"}'
    output = "".join(
        f'expr: "{question}", time: 1m,\n exp: nil\n got: {labels} {value}\n'
        for question, value in (("count_over_time(x[9s])", "3E+00"), ("min_over_time(x[9s:1s])", "6E+01"))
    )
    (fired,) = history.fired_in(output)
    assert ("A", "warning", "r", 60.0, 3 * history.EVALUATION_SECONDS) == (
        fired.alert,
        fired.severity,
        fired.run,
        fired.first,
        fired.lasted,
    )
