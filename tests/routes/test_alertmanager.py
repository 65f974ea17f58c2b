"""The shipped routes in the real Alertmanager on loopback: how many messages an incident is.

Only the addresses and the waiting times differ from the file that is shipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.routes.served import Alertmanager, Message, serving

#: Short waits; a group that has been reported waits so long that it is seen which message waited for it.
FASTER = {
    "group_wait 10s": "1s",
    "group_wait 5s": "1s",
    "group_interval 2m": "4s",
    "group_interval 5m": "1h",
    "repeat_interval 24h": "1h",
    "repeat_interval 12h": "1h",
}


@pytest.fixture
def stack(alertmanager: str, repository: Path, tmp_path: Path) -> Iterator[Alertmanager]:
    with serving(alertmanager, repository, tmp_path, FASTER) as server:
        yield server


def critical(alertname: str, run: str = "a", **labels: str) -> dict[str, str]:
    return {"alertname": alertname, "severity": "critical", "run": run, **labels}


def warning(alertname: str, run: str = "a", **labels: str) -> dict[str, str]:
    return {**critical(alertname, run, **labels), "severity": "warning"}


def states(message: Message) -> list[str]:
    return sorted(
        f"{each['labels']['alertname']}{each['labels'].get('rank', '')} {each['status']}"
        for each in message["alerts"]
    )


def test_an_incident_is_two_messages(stack: Alertmanager) -> None:
    """Other ranks that follow, and consequences, join the message that says that it is over."""
    stack.post(critical("TrainingRankLost", rank="3"))
    assert ["TrainingRankLost3 firing"] == states(stack.message())
    stack.post(critical("TrainingRankLost", rank="1"), critical("TrainingStalled"), warning("TrainingSlow"))
    lost = (critical("TrainingRankLost", rank="3"), critical("TrainingRankLost", rank="1"))
    stack.post(*lost, critical("TrainingStalled"), warning("TrainingSlow"), over=True, closed="at work again")
    last = stack.message()
    assert ["TrainingRankLost1 resolved", "TrainingRankLost3 resolved"] == [
        state for state in states(last) if "Stalled" not in state
    ]
    assert "resolved" == last["status"]
    assert {"at work again"} == {each["annotations"]["closed"] for each in last["alerts"]}
    assert stack.receiver.messages["/alerts"].empty()


def test_what_gets_worse_does_not_wait(stack: Alertmanager) -> None:
    """A page comes at once where a warning of the run is out, whose group would wait for an hour."""
    stack.post(warning("TrainingThroughputDrop"))
    assert ["TrainingThroughputDrop firing"] == states(stack.message())
    stack.post(critical("TrainingStalled"))
    assert ["TrainingStalled firing"] == states(stack.message())


def test_a_run_is_one_message(stack: Alertmanager) -> None:
    """Alerts of several ranks and names are one message of their run; another run has its own."""
    stack.post(
        critical("TrainingRankLost", rank="1"),
        critical("TrainingRankLost", rank="2"),
        critical("TrainingLossNotFinite"),
        critical("TrainingLossNotFinite", "b"),
    )
    first, second = sorted((stack.message(), stack.message()), key=lambda each: each["groupLabels"]["run"])
    assert first["groupLabels"] == {"run": "a"}
    assert states(first) == [
        "TrainingLossNotFinite firing",
        "TrainingRankLost1 firing",
        "TrainingRankLost2 firing",
    ]
    assert second["groupLabels"] == {"run": "b"}
    assert states(second) == ["TrainingLossNotFinite firing"]


@pytest.mark.parametrize("label", ["cluster", "namespace"])
def test_one_name_in_two_places_is_two_runs(label: str, stack: Alertmanager) -> None:
    """Each cluster and namespace has its own message, and mutes nothing of the other."""
    stack.post(
        critical("TrainingRankLost", rank="1", **{label: "eu"}),
        critical("TrainingStalled", **{label: "eu"}),
        critical("TrainingStalled", **{label: "us"}),
    )
    first, second = sorted((stack.message(), stack.message()), key=lambda each: each["groupLabels"][label])
    assert ({"run": "a", label: "eu"}, {"run": "a", label: "us"}) == (
        first["groupLabels"],
        second["groupLabels"],
    )
    assert (["TrainingRankLost1 firing"], ["TrainingStalled firing"]) == (states(first), states(second))


def test_alerts_without_a_run_mute_nothing(stack: Alertmanager) -> None:
    """Labels absent on both sides count as equal, so a critical alert of no run must not mute warnings."""
    stack.post(
        {"alertname": "SomethingElse", "severity": "critical"},
        {"alertname": "TrainBeaconScrapeSlow", "severity": "warning", "instance": "a:1"},
    )
    both = states(stack.message()) + states(stack.message())  # a page and a ticket have routes of their own
    assert sorted(both) == ["SomethingElse firing", "TrainBeaconScrapeSlow firing"]


def test_the_watchdog_has_a_receiver_of_its_own_and_information_none(stack: Alertmanager) -> None:
    """The sign of life is not mixed with messages to people, and information reaches no one."""
    stack.post(
        {"alertname": "Watchdog", "severity": "none"},
        {"alertname": "TrainingNote", "severity": "info", "run": "a"},
    )
    assert states(stack.message("/watchdog")) == ["Watchdog firing"]
    stack.post(critical("TrainingStalled", "z"))  # what had to come before it would have come by now
    assert stack.message()["groupLabels"] == {"run": "z"}
    assert stack.receiver.messages["/alerts"].empty()
