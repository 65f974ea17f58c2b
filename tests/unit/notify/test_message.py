"""The text that people get: which run, what happened, what to do first; in three formats, within bounds."""

from __future__ import annotations

import json
from urllib.parse import unquote

import pytest

from tests.unit.notify.payloads import alert, notification, payload
from trainbeacon.notify.message import Notification, PayloadError, compose, silence_url


def test_one_alert_says_all_that_is_needed() -> None:
    """Title with state, run and alert; then summary, description, first action, runbook and silence."""
    message = compose([notification()], "text", 3500)
    assert "FIRING run gpt: TrainingStalled" == message.title
    lines = message.body.splitlines()
    assert "[critical] The training makes no steps." == lines[0]
    assert "Run gpt: rank 3 (host node-7) has not joined." == lines[1]
    assert "First: Look at rank 3." == lines[2]
    assert "Runbook: https://example.org/runbooks/TrainingStalled.md" == lines[3]
    assert lines[4].startswith("Silence: http://alertmanager.example:9093/#/silences/new?filter=")
    assert "Since: 2026-03-01 12:34:56" == lines[5]
    assert "failure" == message.kind


def test_the_worst_comes_first_and_what_is_over_last() -> None:
    """Whoever reads only the first line of a long message reads the right one."""
    resolved = alert("TrainingLossSpike", "resolved")
    warning = alert("TrainingStraggler", severity="warning")
    body = compose(
        [notification(resolved, warning), notification(alert("TrainingRankLost"))], "text", 3500
    ).body
    states = [line.split()[0] for line in body.splitlines() if line.startswith("[")]
    assert ["[critical]", "[warning]", "[resolved]"] == states


def test_several_runs_and_alerts_are_counted_in_the_title() -> None:
    """A title stays short, and says of how much it speaks."""
    alerts = [alert(f"Training{number}", run=f"run{number}") for number in range(5)]
    assert (
        "FIRING 5 runs: Training0, Training1, Training2 and 2 more"
        == compose([notification(*alerts)], "text", 3500).title
    )


def test_all_resolved_is_good_news() -> None:
    """The title says so, the kind is success, and no action is asked for."""
    message = compose([notification(alert(status="resolved"))], "markdown", 3500)
    assert ("RESOLVED run gpt: TrainingStalled", "success") == (message.title, message.kind)
    assert "First" not in message.body


def test_long_messages_end_with_a_count() -> None:
    """What has no room, and what Alertmanager itself left out, is counted."""
    alerts = [alert(rank=str(rank)) for rank in range(40)]
    body = compose([notification(*alerts, truncatedAlerts=60)], "text", 1500).body
    shown = body.count("[critical]")
    assert 1 <= shown < 40
    assert body.endswith(f"... and {100 - shown} more.")
    assert len(body) < 1600


def test_texts_of_a_run_are_no_markup() -> None:
    """A run called like a link or a tag is shown as it is called."""
    odd = alert()
    odd["annotations"]["description"] = "<script>x</script> [a](http://evil.example) *b*"
    markdown = compose([notification(odd)], "markdown", 3500).body
    assert r"\<script\>x\</script\> \[a\](http://evil.example) \*b\*" in markdown
    html = compose([notification(odd)], "html", 3500).body
    assert "&lt;script&gt;x&lt;/script&gt;" in html
    assert "<script>" not in html


def test_only_web_addresses_become_links() -> None:
    """An annotation cannot smuggle in a script as a runbook."""
    odd = alert()
    odd["annotations"]["runbook_url"] = "javascript:alert(1)"
    assert "javascript" not in compose([notification(odd)], "html", 3500).body


def test_the_silence_link_matches_the_very_alert() -> None:
    """Alertmanager's own page opens with all labels as matchers, quotes included."""
    url = silence_url("http://am/", {"run": 'a "b"', "alertname": "X"})
    assert 'http://am/#/silences/new?filter={alertname="X", run="a \\"b\\""}' == unquote(url)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"{}", b'{"alerts": {}}', b'{"alerts": []}', b'{"alerts": [1]}', b"[" * 100_000],
)
def test_what_is_no_notification_is_said_so(body: bytes) -> None:
    """Anything may be posted to a port: the answer says what was expected."""
    with pytest.raises(PayloadError):
        Notification.parse(body)


def test_strange_fields_do_no_harm() -> None:
    """Numbers for texts, lists for mappings: the rest is still told."""
    content = {
        "alerts": [{"labels": [], "annotations": {"summary": 3}, "startsAt": None}],
        "truncatedAlerts": "x",
    }
    message = compose([Notification.parse(json.dumps(content).encode())], "text", 3500)
    assert "FIRING: alert" == message.title


def test_the_same_notification_again_is_known() -> None:
    """Identity survives a retry and changes with the alerts."""
    assert notification().identity == Notification.parse(payload()).identity
    assert notification().identity != notification(alert(status="resolved")).identity
    assert notification().identity != notification(group="other").identity
