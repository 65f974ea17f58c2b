"""The webhook takes what Alertmanager sends."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import pytest

from trainbeacon.demo.terminal import notification_lines
from trainbeacon.stack.receiver import Notification, Receiver, parse

# As Alertmanager 0.25 sent it, values shortened.
PAYLOAD = {
    "receiver": "team",
    "status": "firing",
    "alerts": [
        {
            "status": "firing",
            "labels": {"alertname": "TrainingRankLost", "rank": "1", "run": "demo", "severity": "critical"},
            "annotations": {"summary": "A rank is lost.", "action": "Look at\nthat host."},
            "startsAt": "2026-11-21T12:21:06.917Z",
            "endsAt": "0001-01-01T00:00:00Z",
            "generatorURL": "http://host:9090/graph",
            "fingerprint": "dc38c7786eacadeb",
        }
    ],
    "groupLabels": {"run": "demo"},
    "commonLabels": {"alertname": "TrainingRankLost"},
    "commonAnnotations": {},
    "externalURL": "http://host:9093",
    "version": "4",
    "groupKey": '{}:{run="demo"}',
    "truncatedAlerts": 0,
}


def send(url: str, body: bytes) -> int:
    """Post a body; returns the HTTP status."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, body), timeout=120) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def resolved() -> bytes:
    alert = {**PAYLOAD["alerts"][0], "status": "resolved"}  # type: ignore[index]
    return json.dumps({**PAYLOAD, "alerts": [alert]}).encode()


def test_a_message_is_told_as_its_alerts() -> None:
    """Name, state, labels and annotations of each alert are kept."""
    (notification,) = parse(json.dumps(PAYLOAD).encode())
    assert notification == Notification(
        alert="TrainingRankLost",
        status="firing",
        receiver="team",
        labels={"alertname": "TrainingRankLost", "rank": "1", "run": "demo", "severity": "critical"},
        annotations={"summary": "A rank is lost.", "action": "Look at\nthat host."},
        starts_at="2026-11-21T12:21:06.917Z",
        fingerprint="dc38c7786eacadeb",
    )


def test_repetitions_are_kept_but_told_once() -> None:
    """`on_change` gets the alert and its end, not Alertmanager's repetition; the list has all."""
    told: list[str] = []
    with Receiver(lambda notification: told.append(notification.status)) as receiver:
        for body in (json.dumps(PAYLOAD).encode(), json.dumps(PAYLOAD).encode(), resolved()):
            assert send(receiver.url, body) == 200
        found = receiver.wait_for(lambda notification: notification.status == "resolved", 120)
        statuses = [notification.status for notification in receiver.notifications]
    assert found is not None
    assert found.labels["rank"] == "1"
    assert told == ["firing", "resolved"]
    assert statuses == ["firing", "firing", "resolved"]


def test_waiting_ends_without_the_wanted() -> None:
    """What does not arrive in time is None."""
    with Receiver() as receiver:
        assert receiver.wait_for(lambda _: True, 0.01) is None


@pytest.mark.parametrize("body", [b"no json", b"[]", b'{"alerts": [{}], "receiver": "a"}', b"{}"])
def test_nonsense_is_refused_and_the_receiver_lives_on(body: bytes) -> None:
    """Anything but a message gets 400, and the next message is received."""
    with Receiver() as receiver:
        assert send(receiver.url, body) == 400
        assert send(receiver.url, resolved()) == 200
        assert len(receiver.notifications) == 1


def test_a_notification_says_who_what_and_what_to_do() -> None:
    """The printed lines hold severity, run, rank, summary and action, each on one line."""
    (notification,) = parse(json.dumps(PAYLOAD).encode())
    lines = [line for line, _style in notification_lines(notification, "7 s after the fault")]
    assert lines == [
        "! CRITICAL  TrainingRankLost  run=demo  rank=1  7 s after the fault",
        "    what: A rank is lost.",
        "    first: Look at that host.",
    ]
    (ended,) = parse(resolved())
    assert notification_lines(ended) == [("! RESOLVED  TrainingRankLost  run=demo  rank=1", "green")]
