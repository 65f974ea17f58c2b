"""What is posted to the bridge, read: anything may be."""

from __future__ import annotations

import json
from datetime import datetime, timezone

import pytest

from tests.unit.notify.payloads import alert, notification, payload
from trainbeacon.notify.message import compose
from trainbeacon.notify.webhook import MOST_ALERTS, Alert, Notification, PayloadError


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"{}", b'{"alerts": {}}', b'{"alerts": []}', b'{"alerts": [1]}', b"[" * 100_000],
)
def test_what_is_no_notification_is_said_so(body: bytes) -> None:
    """The answer says what was expected."""
    with pytest.raises(PayloadError):
        Notification.parse(body)


def test_strange_fields_do_no_harm() -> None:
    """Numbers for texts, lists for mappings, halves of letters: the rest is reported, and can be sent."""
    content = {
        "alerts": [{"labels": [], "annotations": {"summary": 3, "action": "a \ud83d b"}, "startsAt": None}],
        "truncatedAlerts": "x",
    }
    message = compose([Notification.parse(json.dumps(content).encode())], "text", 3500)
    assert "Alert" == message.title
    assert "a \ufffd b".encode() in message.body.encode()


def test_the_same_notification_again_is_known() -> None:
    """Identity survives a retry and changes with the alerts."""
    assert notification().identity == Notification.parse(payload()).identity
    assert notification().identity != notification(alert(status="resolved")).identity
    assert notification().identity != notification(group="other").identity


def test_many_alerts_are_counted() -> None:
    """What is beyond the bound, and what Alertmanager left out."""
    found = notification(*[alert()] * (MOST_ALERTS + 5), truncatedAlerts=60)
    assert (MOST_ALERTS, 65) == (len(found.alerts), found.left_out)


@pytest.mark.parametrize(
    ("text", "hour"),
    [
        ("2026-03-01T12:34:56.789Z", 12),
        ("2026-03-01T12:34:56Z", 12),
        ("2026-03-01T20:34:56.123456789+08:00", 12),
        ("2026-03-01T07:34:56-05:00", 12),
        ("0001-01-01T00:00:00Z", None),
        ("2026-13-01T12:34:56Z", None),
        ("", None),
    ],
)
def test_times_are_utc(text: str, hour: int | None) -> None:
    """Whatever the zone of the sender; what is not a time is None."""
    started = Alert(firing=True, starts_at=text).started
    assert started == (None if hour is None else datetime(2026, 3, 1, hour, 34, 56, tzinfo=timezone.utc))
