"""What Alertmanager sends (its webhook, version 4), as one text for people."""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

#: Alerts of one notification that are read; more of them are only counted.
MOST_ALERTS = 1000
_LONGEST_LABEL = 2000


class PayloadError(ValueError):
    """What was sent is no notification of Alertmanager."""


@dataclass(frozen=True)
class Alert:
    """One alert of a notification."""

    firing: bool
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    starts_at: str

    @property
    def name(self) -> str:
        """Its alertname."""
        return self.labels.get("alertname", "alert")


@dataclass(frozen=True)
class Notification:
    """One notification: the alerts of a group. `identity` is the same when it is sent again."""

    alerts: Sequence[Alert]
    left_out: int
    external_url: str
    identity: str

    @classmethod
    def parse(cls, body: bytes) -> Notification:
        """Read the JSON of a request. Raises PayloadError."""
        try:
            content = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise PayloadError(f"the request is no JSON: {error}") from None
        if not isinstance(content, dict) or not isinstance(content.get("alerts"), list):
            raise PayloadError('there is no list "alerts": send what Alertmanager\'s webhook sends')
        listed = content["alerts"]
        alerts = tuple(_alert(each) for each in listed[:MOST_ALERTS])
        if not alerts:
            raise PayloadError('the list "alerts" is empty')
        left_out = len(listed) - len(alerts) + _whole(content.get("truncatedAlerts"))
        return cls(alerts, left_out, _text(content.get("externalURL")), _identity(content))


@dataclass(frozen=True)
class Message:
    """A text with a title, in the format of its receiver. `kind` is failure, warning, info or success."""

    title: str
    body: str
    kind: str


def compose(notifications: Sequence[Notification], format: str, longest: int) -> Message:
    """One message of one or several notifications: firing alerts first, the worst of them on top."""
    pairs = [(alert, each.external_url) for each in notifications for alert in each.alerts]
    pairs.sort(key=lambda pair: _urgency(pair[0]))
    alerts = [alert for alert, _ in pairs]
    left_out = sum(each.left_out for each in notifications)
    parts = [_WRITERS[format](alert, url) for alert, url in pairs]
    return Message(_title(alerts), _fitting(parts, longest, left_out), _kind(alerts))


def _urgency(alert: Alert) -> tuple[bool, int, str, str]:
    order = {"critical": 0, "warning": 1}
    severity = order.get(alert.labels.get("severity", ""), 2)
    return not alert.firing, severity, alert.labels.get("run", ""), alert.starts_at


def _title(alerts: Sequence[Alert]) -> str:
    firing = [alert for alert in alerts if alert.firing]
    shown = firing or alerts
    runs = _distinct(alert.labels.get("run", "") for alert in shown)
    names = _distinct(alert.name for alert in shown)
    where = f" run {runs[0]}" if len(runs) == 1 else f" {len(runs)} runs" if runs else ""
    what = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"{'FIRING' if firing else 'RESOLVED'}{where}: {what}"[:250]


def _kind(alerts: Sequence[Alert]) -> str:
    firing = [alert.labels.get("severity", "") for alert in alerts if alert.firing]
    if not firing:
        return "success"
    return "failure" if "critical" in firing else "warning" if "warning" in firing else "info"


def _fitting(parts: Sequence[str], longest: int, left_out: int) -> str:
    kept: list[str] = []
    room = longest
    for part in parts:
        if kept and len(part) + 2 > room:
            break
        kept.append(part[:longest])
        room -= len(part) + 2
    more = len(parts) - len(kept) + left_out
    if more:
        kept.append(f"... and {more} more.")
    return "\n\n".join(kept)


# The formats


def _plain(alert: Alert, external_url: str) -> str:
    lines = [f"{_state(alert)} {alert.annotations.get('summary', alert.name)}"]
    lines += _unless_empty("", alert.annotations.get("description"))
    if alert.firing:
        lines += _unless_empty("First: ", alert.annotations.get("action"))
        lines += [f"{label}: {url}" for label, url in _links(alert, external_url)]
        lines += _unless_empty("Since: ", alert.starts_at)
    return "\n".join(lines)


def _markdown(alert: Alert, external_url: str) -> str:
    lines = [f"**{_escaped(_state(alert))} {_escaped(alert.annotations.get('summary', alert.name))}**"]
    lines += _unless_empty("", _escaped(alert.annotations.get("description", "")))
    if alert.firing:
        lines += _unless_empty("**First:** ", _escaped(alert.annotations.get("action", "")))
        links = [f"[{label}]({url})" for label, url in _links(alert, external_url)]
        lines += [" · ".join(links)] if links else []
        lines += _unless_empty("Since ", alert.starts_at)
    return "  \n".join(lines)  # two spaces: a new line, not a new paragraph


def _html(alert: Alert, external_url: str) -> str:
    lines = [
        f"<b>{html.escape(_state(alert))} {html.escape(alert.annotations.get('summary', alert.name))}</b>"
    ]
    lines += _unless_empty("", html.escape(alert.annotations.get("description", "")))
    if alert.firing:
        lines += _unless_empty("<b>First:</b> ", html.escape(alert.annotations.get("action", "")))
        links = [f'<a href="{html.escape(url)}">{label}</a>' for label, url in _links(alert, external_url)]
        lines += [" &middot; ".join(links)] if links else []
        lines += _unless_empty("Since ", html.escape(alert.starts_at))
    return "<br/>\n".join(lines)


_WRITERS: Mapping[str, Callable[[Alert, str], str]] = {"text": _plain, "markdown": _markdown, "html": _html}


def _state(alert: Alert) -> str:
    return f"[{alert.labels.get('severity', 'alert')}]" if alert.firing else "[resolved]"


def _links(alert: Alert, external_url: str) -> list[tuple[str, str]]:
    found = [
        ("Runbook", alert.annotations.get("runbook_url")),
        ("Dashboard", alert.annotations.get("dashboard_url")),
    ]
    if external_url:
        found.append(("Silence", silence_url(external_url, alert.labels)))
    return [(label, url) for label, url in found if url and url.startswith(("http://", "https://"))]


def silence_url(external_url: str, labels: Mapping[str, str]) -> str:
    """The page of Alertmanager's own that silences an alert with these labels."""
    matchers = ", ".join(
        f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in sorted(labels.items())
    )
    return f"{external_url.rstrip('/')}/#/silences/new?filter={quote('{' + matchers + '}', safe='')}"


def _escaped(text: str) -> str:
    """Text in which nothing is taken for markdown."""
    return "".join("\\" + each if each in "\\`*_[]<>#|~" else each for each in text)


def _unless_empty(label: str, text: str | None) -> list[str]:
    return [f"{label}{text}"] if text else []


def _distinct(texts: Iterable[str]) -> list[str]:
    return [text for text in dict.fromkeys(texts) if text]


# The payload


def _alert(content: object) -> Alert:
    if not isinstance(content, dict):
        raise PayloadError('"alerts" holds something that is no alert')
    return Alert(
        firing=content.get("status") != "resolved",
        labels=_texts(content.get("labels")),
        annotations=_texts(content.get("annotations")),
        starts_at=_text(content.get("startsAt"))[:19].replace("T", " "),
    )


def _texts(content: object) -> dict[str, str]:
    return {str(name): _text(text) for name, text in content.items()} if isinstance(content, dict) else {}


def _text(content: object) -> str:
    return content[:_LONGEST_LABEL] if isinstance(content, str) else ""


def _whole(content: object) -> int:
    return content if isinstance(content, int) and content > 0 else 0


def _identity(content: Mapping[str, object]) -> str:
    """The same for the same group in the same state, so that a notification tried again is known."""
    alerts = [
        [each.get(key) for key in ("status", "labels", "startsAt")]
        for each in content["alerts"]  # type: ignore[attr-defined]
        if isinstance(each, dict)
    ]
    text = json.dumps([content.get("groupKey"), content.get("receiver"), alerts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
