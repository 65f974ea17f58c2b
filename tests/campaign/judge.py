"""What the messages that arrived say about an injection, and what many of them come to.

Nothing here starts anything: it is all arithmetic over messages, so that it can be tested by itself.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.campaign.kinds import BY_NAME, Kind
from trainbeacon.stack.receiver import WATCHDOG, Notification

#: How the text of an alert without the label names a rank.
_NAMED = re.compile(r"(?:Look first at|Suspect:|the longest|in a collective for|the last time) rank (\d+)\b")
#: Severities that reach somebody; the shipped routes keep the others from people.
LOUD = ("critical", "warning")


@dataclass(frozen=True)
class Message:
    """One message of Alertmanager's, as a person would get it, with the time of its arrival."""

    at: float
    alerts: tuple[Notification, ...]

    def concerns(self, run: str, target: str = "") -> bool:
        """Whether any of its alerts is about that run or target, firing or over."""
        return any(_is_about(each, run, target) for each in self.alerts)

    def firing(self, run: str, target: str = "") -> list[Notification]:
        """Alerts about that run that are not resolved, or about that target and no run."""
        return [each for each in self.alerts if each.status == "firing" and _is_about(each, run, target)]


def _is_about(alert: Notification, run: str, target: str) -> bool:
    about = alert.labels.get("run", "")
    return about == run or (not about and target != "" and alert.labels.get("instance") == target)


@dataclass(frozen=True)
class Told:
    """One alert that somebody was told: the first time, and what it named in all messages."""

    alert: str
    seconds: float
    severity: str
    named: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Outcome:
    """What became of one injection.

    Attributes:
        verdict: `right` (an expected alert arrived in time) or `missed`; of a control `quiet`,
            or `false alarm` if anybody was told anything.
        seconds: from the fault to the first expected alert.
        culprit: whether it named the one at fault and nobody else; None where there is nobody to name.
        false_alarms: alerts that arrived and that the fault does not explain.
        consequences: those that it does, other than the expected ones.
        messages: how many messages were sent about the run, those of its end among them.
        told: everything that arrived about it.
        ending: what was reported of the end, if the kind has one: `right`; `early` (while the fault lasted),
            `missed` (not in time), `wrong` (in words that are not true), `again` (it fired once more).
        ending_seconds: from the end to its message.
        closed: what that message said.
    """

    number: int
    kind: str
    run: str
    world_size: int
    victim: int
    parameters: Mapping[str, Any]
    verdict: str
    seconds: float | None
    culprit: bool | None
    named: tuple[str, ...]
    false_alarms: tuple[str, ...]
    consequences: tuple[str, ...]
    messages: int
    watched_seconds: float
    load: float
    told: Sequence[Told] = field(default_factory=list)
    ending: str | None = None
    ending_seconds: float | None = None
    closed: str = ""


def names_in(alert: Notification, kind: Kind) -> str | None:
    """Whom an alert names: a rank by its label or in its text, or a target."""
    if kind.names == "target":
        return alert.labels.get("instance")
    if "rank" in alert.labels:
        return alert.labels["rank"]
    found = _NAMED.search(alert.annotations.get("description", ""))
    return found.group(1) if found else None


def told_about(
    run: str, messages: Iterable[Message], struck: float, kind: Kind, target: str = ""
) -> list[Told]:
    """What was told about a run, and a target of its own, each alert once, in order of arrival."""
    first: dict[str, tuple[float, Notification]] = {}
    named: dict[str, set[str]] = {}
    for message in messages:
        for alert in message.firing(run, target):
            first.setdefault(alert.alert, (message.at, alert))
            name = names_in(alert, kind)
            named.setdefault(alert.alert, set()).update([name] if name is not None else [])
    return [
        Told(
            name,
            round(at - struck, 2),
            alert.severity,
            tuple(sorted(named[name])),
            alert.annotations.get("description", ""),
        )
        for name, (at, alert) in first.items()
    ]


def is_culprit(kind: Kind, named: Sequence[str], victim: str, world_size: int) -> bool | None:
    """Whether those named are those at fault."""
    if kind.names == "rank" or kind.names == "target":
        return list(named) == [victim]
    if kind.names == "all":
        return sorted(named) == sorted(str(rank) for rank in range(world_size))
    return None


def verdict_of(kind: Kind, told: Sequence[Told]) -> tuple[str, Told | None, list[Told]]:
    """The verdict, the alert that it rests on, and the false alarms."""
    explained = {*kind.expected, *kind.consequences}
    # Before the fault nothing explains anything.
    false = [each for each in told if each.alert not in explained or each.seconds < 0]
    false = [each for each in false if each.severity in LOUD]
    right = next((each for each in told if each.alert in kind.expected and each.seconds >= 0), None)
    if not kind.expected:
        return ("false alarm" if false else "quiet"), None, false
    in_time = right is not None and right.seconds <= kind.within
    return ("right" if in_time else "missed"), right if in_time else None, false


@dataclass(frozen=True)
class Ending:
    """What was reported of the end of an incident: as in `Outcome`."""

    verdict: str
    seconds: float | None = None
    closed: str = ""


def ending_of(run: str, messages: Iterable[Message], kind: Kind, struck: float, ended: float) -> Ending:
    """Judge the messages about the expected alerts of a run whose fault lasted from `struck` to `ended`.

    It is over when the last of them is; that an alert which is over is repeated as such counts for nothing.
    """
    open_now: set[str] = set()
    over: list[tuple[float, Notification]] = []
    for message in messages:
        for alert in message.alerts:
            if alert.alert not in kind.expected or alert.labels.get("run") != run or message.at < struck:
                continue
            if alert.status == "firing":
                if alert.fingerprint in {each.fingerprint for _, each in over}:
                    return Ending("again", None, alert.annotations.get("description", ""))
                open_now.add(alert.fingerprint)
            elif alert.fingerprint in open_now:
                open_now.discard(alert.fingerprint)
                over.append((message.at, alert))
    texts = " | ".join(dict.fromkeys(each.annotations.get("closed", "").strip() for _, each in over))
    if any(at < ended for at, _ in over):
        return Ending("early", None, texts)
    if kind.end == "leave":
        return Ending("right" if open_now else "missed")
    if open_now or not over or over[-1][0] > ended + kind.end_within:
        return Ending("missed", None, texts)
    seconds = round(over[-1][0] - ended, 2)
    if not all(re.search(kind.closed, each.annotations.get("closed", "")) for _, each in over):
        return Ending("wrong", seconds, texts)
    return Ending("right", seconds, texts)


def without_run(messages: Iterable[Message], known: Sequence[str] = ()) -> list[Notification]:
    """Alerts that concern no run and no known target, other than the Watchdog: nobody expects any of them."""
    found: dict[str, Notification] = {}
    for message in messages:
        for alert in message.firing(""):
            is_known = alert.labels.get("instance") in known
            if alert.alert != WATCHDOG and alert.severity in LOUD and not is_known:
                found.setdefault(alert.fingerprint, alert)
    return list(found.values())


# Many


@dataclass(frozen=True)
class Share:
    """Some of a number, with the Wilson interval of 95 %."""

    right: int
    of: int

    @property
    def ratio(self) -> float:
        """The share; 1 of none."""
        return self.right / self.of if self.of else 1.0

    @property
    def interval(self) -> tuple[float, float]:
        """Least and most that the true share may well be."""
        return wilson(self.right, self.of)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.right}/{self.of} = {self.ratio:.3f} [{low:.3f}, {high:.3f}]"


def wilson(right: int, of: int, z: float = 1.959964) -> tuple[float, float]:
    """The Wilson score interval of a share; (0, 1) of none."""
    if of == 0:
        return 0.0, 1.0
    share, square = right / of, z * z
    middle = (share + square / (2 * of)) / (1 + square / of)
    half = z / (1 + square / of) * math.sqrt(share * (1 - share) / of + square / (4 * of * of))
    return max(0.0, middle - half), min(1.0, middle + half)


def poisson_most(events: int, exposure: float) -> float:
    """The upper bound (95 %, one-sided) of a rate, from the events seen over an exposure."""
    low, high = 0.0, 10.0 + 4.0 * events
    for _ in range(80):
        mean = (low + high) / 2
        below = sum(math.exp(-mean) * mean**count / math.factorial(count) for count in range(events + 1))
        low, high = (mean, high) if below > 0.05 else (low, mean)
    return high / exposure


@dataclass(frozen=True)
class Summary:
    """The figures of a campaign. Precision is over alerts, the expected ones against the false alarms."""

    recall: Share
    precision: Share
    culprit: Share
    seconds_median: float
    seconds_p95: float
    seconds_worst: float
    messages_median: float
    messages_most: int
    ending: Share
    ending_median: float


def summarise(outcomes: Sequence[Outcome], others: int = 0, kinds: Mapping[str, Kind] = BY_NAME) -> Summary:
    """Figures over outcomes; `others` are false alarms that concern no run."""
    faults = [each for each in outcomes if kinds[each.kind].expected]
    right = [each for each in faults if each.verdict == "right"]
    false = sum(len(each.false_alarms) for each in outcomes) + others
    judged = [each for each in right if each.culprit is not None]
    seconds = sorted(each.seconds for each in right if each.seconds is not None)
    messages = [each.messages for each in faults]
    ended = [each for each in faults if each.ending is not None]
    ends = [each.ending_seconds for each in ended if each.ending_seconds is not None]
    return Summary(
        Share(len(right), len(faults)),
        Share(len(right), len(right) + false),
        Share(sum(bool(each.culprit) for each in judged), len(judged)),
        statistics.median(seconds) if seconds else math.nan,
        quantile(seconds, 0.95),
        max(seconds, default=math.nan),
        statistics.median(messages) if messages else math.nan,
        max(messages, default=0),
        Share(sum(each.ending == "right" for each in ended), len(ended)),
        statistics.median(ends) if ends else math.nan,
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value that this share of the others does not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan
