"""What people get: one text of one or several notifications, within the length that its channel takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .markup import STYLES, Size, Style, inert, web_address
from .webhook import Alert, Notification
from .wording import (
    NOT_KNOWN,
    dashboard_url,
    facts,
    fault,
    for_people,
    in_order,
    is_over,
    silence_url,
    title,
)

_LONGEST_TITLE = 200
#: Shares of the room of a message: what happened first keeps what to do.
_HEADING, _ACTION, _LINKS = 0.2, 0.3, 0.45
_LONGEST = {"heading": 200, "action": 400, "description": 1000}
#: Alerts that are shown: more of them are read by nobody, and are counted.
_MOST_SHOWN = 8
#: Of each alert after the first.
_LONGEST_BRIEF = {"heading": 160, "action": 160, "description": 240}


@dataclass(frozen=True)
class Entry:
    """An alert with its links, the best first."""

    alert: Alert
    links: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Message:
    """A text with a title, in the format of its receiver.

    Attributes:
        kind: failure, warning, info or success.
        entries: what the body says, for a service that has a style or a limit of its own.
        left_out: further alerts, of which only the number is known.
        longest: characters of the body at most.
    """

    title: str
    body: str
    kind: str
    entries: Sequence[Entry] = ()
    left_out: int = 0
    longest: int = 100_000

    def written(self, style: Style, longest: int, size: Size = len) -> str:
        """The body in another style, within `longest` as the service counts it and its own length."""
        longest = min(longest, self.longest)
        if not self.entries:
            return style.cut(self.body, longest, size)
        return _body(self.entries, self.left_out, style, longest, size)


def compose(notifications: Sequence[Notification], format: str, longest: int, grafana: str = "") -> Message:
    """One message of one or several notifications: firing alerts first, the worst of them on top.

    Args:
        notifications: at least one.
        format: a name in `STYLES`.
        longest: characters of the body.
        grafana: address of Grafana; without one there are no links to dashboards.
    """
    origin = {id(alert): each.external_url for each in notifications for alert in each.alerts}
    alerts = in_order(alert for each in notifications for alert in each.alerts)
    entries = [Entry(alert, _links(alert, origin[id(alert)], grafana)) for alert in alerts]
    left_out = sum(each.left_out for each in notifications)
    heading = STYLES["text"].cut(inert(title(alerts)), _LONGEST_TITLE)
    message = Message(heading, "", _kind(alerts), entries, left_out, longest)
    return replace(message, body=message.written(STYLES[format], longest))


def _kind(alerts: Sequence[Alert]) -> str:
    firing = [alert.severity for alert in alerts if alert.firing]
    if not firing:
        return "success" if is_over(alerts) else "info"
    return "failure" if "critical" in firing else "warning" if "warning" in firing else "info"


def _links(alert: Alert, external_url: str, grafana: str) -> list[tuple[str, str]]:
    found = [
        ("Dashboard", dashboard_url(grafana, alert)),
        ("Runbook", alert.annotations.get("runbook_url", "")),
    ]
    if external_url and alert.firing:
        found.append(("Silence", silence_url(external_url, alert.labels)))
    safe = ((label, web_address(url)) for label, url in found)
    return [(label, url) for label, url in safe if url]


def _body(entries: Sequence[Entry], left_out: int, style: Style, longest: int, size: Size) -> str:
    total = len(entries) + left_out
    reserved = size(_count(list(entries), left_out, style)) + size(style.paragraph) if total > 1 else 0
    parts = [_part(entries[0], style, longest - reserved, size)]
    room = longest - reserved - size(parts[0])
    for entry in entries[1:_MOST_SHOWN]:
        part = _brief(entry, style, size)
        room -= size(part) + size(style.paragraph)
        if room < 0:
            break
        parts.append(part)
    shown = len(parts)
    if shown < total:
        parts.append(_count(entries[shown:], left_out, style))
    return style.paragraph.join(parts)


def _count(entries: Sequence[Entry], left_out: int, style: Style) -> str:
    """What has no room: `... and 597 more.`, with the faults that are the most."""
    faults = Counter(fault(entry.alert) for entry in entries).most_common(3)
    named = ", ".join(f"{name} {count}" for name, count in faults)
    return style.cut(f"... and {len(entries) + left_out} more.{f' ({named})' * bool(named)}", 200)


def _part(entry: Entry, style: Style, room: int, size: Size) -> str:
    """The first alert, with all there is to say of it."""
    alert, limits = entry.alert, _LONGEST
    lines = _Lines(style, room, size)
    if alert.firing:  # the title of what is over says so, and its summary speaks of the present
        lines.add_bold(_heading(alert), min(limits["heading"], int(room * _HEADING)))
    place_of_description = len(lines.lines)
    action = alert.annotations.get("action", "") if alert.firing else ""
    lines.add(action, min(limits["action"], int(room * _ACTION)), "Do first: ")
    lines.add_links(entry.links, int(room * _LINKS))
    lines.add_whole(facts(alert))
    lines.add(_said(alert), limits["description"], at=place_of_description)
    return style.newline.join(lines.lines)


def _brief(entry: Entry, style: Style, size: Size) -> str:
    """Another alert, in three lines."""
    alert, limits = entry.alert, _LONGEST_BRIEF
    lines = _Lines(style, 10**6, size)
    lines.add_bold(f"{_severity(alert)}{inert(title([alert]))}", limits["heading"])
    lines.add(_said(alert), limits["description"])
    if alert.firing:
        lines.add(alert.annotations.get("action", ""), limits["action"], "Do first: ")
    return style.newline.join(lines.lines)


def _heading(alert: Alert) -> str:
    summary = alert.annotations.get("summary", "") or fault(alert)
    return f"{_severity(alert)}{summary}"


def _severity(alert: Alert) -> str:
    return f"[{alert.severity or 'alert'}] " if alert.firing else ""


def _said(alert: Alert) -> str:
    if alert.firing:
        return for_people(alert.annotations.get("description", ""))
    closed = alert.annotations.get("closed", "").strip()
    return for_people(f"Closed: {closed}") if closed else NOT_KNOWN


class _Lines:
    """Lines of one alert, each within what is left of the room."""

    def __init__(self, style: Style, room: int, size: Size) -> None:
        self.lines: list[str] = []
        self._style = style
        self._room = room
        self._size = size

    def add(self, raw: str, longest: int, label: str = "", at: int | None = None) -> None:
        """A text behind a bold label, cut to what has room."""
        if not raw:
            return
        head = self._style.strong(label.rstrip()) + " " if label else ""
        room = min(longest, self._left()) - self._size(head)
        written = self._style.cut(raw, room, self._size)
        if written:
            self._insert(head + written, at)

    def add_bold(self, raw: str, longest: int) -> None:
        """A text in bold, cut."""
        begin, end = self._style.bold
        written = self._style.cut(raw, min(longest, self._left()) - self._size(begin + end), self._size)
        if written:
            self._insert(f"{begin}{written}{end}")

    def add_whole(self, raw: str) -> None:
        """A text, if it has room as it is."""
        written = self._style.text(raw)
        if written and self._size(written) <= self._left():
            self._insert(written)

    def add_links(self, links: Sequence[tuple[str, str]], longest: int) -> None:
        """Those of the links that have room, the first ones first; none is ever cut."""
        between = self._style.newline if self._style is STYLES["text"] else " · "
        written = ""
        for label, url in links:
            longer = between.join(filter(None, (written, self._style.link(label, url))))
            if self._size(longer) <= min(longest, self._left()):
                written = longer
        if written:
            self._insert(written)

    def _left(self) -> int:
        return self._room - sum(self._size(line + self._style.newline) for line in self.lines)

    def _insert(self, line: str, at: int | None = None) -> None:
        self.lines.insert(len(self.lines) if at is None else at, line)
