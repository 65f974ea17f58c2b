"""What Alertmanager sends: its webhook, version 4. The one place that reads it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

#: Alerts of one notification that are read; more of them are only counted.
MOST_ALERTS = 1000
_LONGEST_TEXT = 4000
_INSTANT = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.\d+)?(Z|([+-])(\d\d):(\d\d))")
_SURROGATES = re.compile("[\ud800-\udfff]")


class PayloadError(ValueError):
    """What was sent is not a notification of Alertmanager."""


@dataclass(frozen=True)
class Alert:
    """One alert of a notification.

    Attributes:
        firing: false once Alertmanager calls it resolved.
        starts_at: when it began to fire, RFC 3339 as it was sent.
        ends_at: when it ended, or will be taken for ended.
        fingerprint: identifies the labels; empty where the sender gives none.
    """

    firing: bool
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    starts_at: str = ""
    ends_at: str = ""
    fingerprint: str = ""

    @property
    def name(self) -> str:
        """Its alertname."""
        return self.labels.get("alertname", "alert")

    @property
    def severity(self) -> str:
        """The label `severity`; empty without one."""
        return self.labels.get("severity", "")

    @property
    def started(self) -> datetime | None:
        """When it began to fire, in UTC; None if the time cannot be read."""
        return _instant(self.starts_at)

    @property
    def ended(self) -> datetime | None:
        """When it ended, in UTC; None while it fires."""
        return None if self.firing else _instant(self.ends_at)


@dataclass(frozen=True)
class Notification:
    """One notification: the alerts of a group.

    Attributes:
        left_out: alerts of the group that are not in `alerts`.
        external_url: address of the Alertmanager that sent it.
        identity: the same when the notification is sent again.
        receiver: name of the receiver in Alertmanager's configuration.
    """

    alerts: Sequence[Alert]
    left_out: int
    external_url: str
    identity: str
    receiver: str = ""

    @classmethod
    def parse(cls, body: bytes) -> Notification:
        """Read the JSON of a request. Raises PayloadError."""
        try:
            content = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise PayloadError(f"the request is not JSON: {error}") from None
        if not isinstance(content, dict) or not isinstance(content.get("alerts"), list):
            raise PayloadError('there is no list "alerts": send what Alertmanager\'s webhook sends')
        listed = content["alerts"]
        alerts = tuple(_alert(each) for each in listed[:MOST_ALERTS])
        if not alerts:
            raise PayloadError('the list "alerts" is empty')
        return cls(
            alerts,
            len(listed) - len(alerts) + _whole(content.get("truncatedAlerts")),
            _text(content.get("externalURL")),
            _identity(content),
            _text(content.get("receiver")),
        )


def _alert(content: object) -> Alert:
    if not isinstance(content, dict):
        raise PayloadError('"alerts" holds something that is not an alert')
    return Alert(
        firing=content.get("status") != "resolved",
        labels=_texts(content.get("labels")),
        annotations=_texts(content.get("annotations")),
        starts_at=_text(content.get("startsAt")),
        ends_at=_text(content.get("endsAt")),
        fingerprint=_text(content.get("fingerprint")),
    )


def _texts(content: object) -> dict[str, str]:
    return {_text(name): _text(text) for name, text in content.items()} if isinstance(content, dict) else {}


def _text(content: object) -> str:
    """A text that can be encoded, of bounded length; JSON may hold halves of surrogate pairs."""
    return _SURROGATES.sub("\ufffd", content[:_LONGEST_TEXT]) if isinstance(content, str) else ""


def _whole(content: object) -> int:
    return content if isinstance(content, int) and content > 0 else 0


def _instant(text: str) -> datetime | None:
    found = _INSTANT.match(text)
    if found is None or found[1] == "0001-01-01":
        return None
    try:
        instant = datetime.fromisoformat(f"{found[1]}T{found[2]}+00:00")
        if found[4]:
            offset = timedelta(hours=int(found[5]), minutes=int(found[6]))
            instant += -offset if found[4] == "+" else offset
    except (ValueError, OverflowError):
        return None
    return instant.astimezone(timezone.utc)


def _identity(content: Mapping[str, object]) -> str:
    """The same for the same group in the same state, so that a notification tried again is known."""
    alerts = [
        [each.get(key) for key in ("status", "labels", "startsAt")]
        for each in content["alerts"]  # type: ignore[attr-defined]
        if isinstance(each, dict)
    ]
    text = json.dumps([content.get("groupKey"), content.get("receiver"), alerts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
