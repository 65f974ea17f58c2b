"""What is said of an alert, in one wording for all channels: fault, place, times, links, order.

`alertmanager/templates/trainbeacon.tmpl` says the same to the receivers of Alertmanager itself; a test
compares the two for every alert that is shipped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from urllib.parse import quote

from .webhook import Alert

#: Where the words of the alert's name are not those that people use.
_FAULTS = {
    "TrainingLossNotFinite": "NaN",
    "TrainingRankNotFinite": "NaN on a rank",
    "TrainingStalled": "Hang",
    "TrainingGpuXid": "GPU error",
    "TrainBeaconNotifyFailing": "Messages not delivered",
    "TrainBeaconErrors": "TrainBeacon errors",
}
#: Alerts by what they say of each other when they come together: a cause before its consequences.
_CAUSES = (
    re.compile(r"TrainingGpu(Lost|Xid|MemoryErrors|RecoveryNeeded)"),
    re.compile(r"TrainingRunFailed|TrainingRanksLost|TrainingRankLost"),
    re.compile(r"TrainingLossNotFinite"),
)
#: The dashboard that shows the fault, by the alert's name; the first that matches.
DASHBOARDS = (
    (re.compile(r"TrainBeacon|Watchdog"), "trainbeacon-exporter"),
    (re.compile(r"TrainingMfu"), "trainbeacon-efficiency"),
    (re.compile(r"Training(Gpu|Host|CheckpointDisk)"), "trainbeacon-hardware"),
    (
        re.compile(
            r"Training(Loss|Gradient|Accuracy|Metric|Plateau|Overfitting|Underfitting|LearningRate|Signal"
            r"|RankNotFinite)"
        ),
        "trainbeacon-model",
    ),
    (re.compile(r"Training(Rank|Straggler|Stage|Stalled)"), "trainbeacon-ranks"),
    (re.compile(r"Training"), "trainbeacon-run"),
)
_SEVERITIES = {"critical": 0, "warning": 1}
#: How descriptions name a rank and its host; a test holds the rules to it.
_RANK_AND_HOST = re.compile(r"\brank (\d+) \(host ([^,()]+)")
_NUMBER = re.compile(r"(?<![\w.\-/:=+])(\d+(?:\.\d+)?)(%|[mu]?s\b)")
_PARTS_OF_DURATION = re.compile(r"\d[dhm] $")
_BEFORE, _AFTER = timedelta(minutes=30), timedelta(minutes=10)
#: Reasons that are no good news, as the rules word them.
_GIVEN_UP = re.compile(r"given up|no longer watched|^still ", re.IGNORECASE)
_NOT_KNOWN = re.compile(r"not known|reported as lost|^$", re.IGNORECASE)

#: What is said of an alert that ended without saying why.
NOT_KNOWN = "No longer reported: what was measured is within limits again, or can no longer be seen."


def fault(alert: Alert) -> str:
    """What is wrong, in two or three words: `Rank lost`."""
    if alert.name in _FAULTS:
        return _FAULTS[alert.name]
    name = re.sub(r"^(Training|TrainBeacon)", "", alert.name) or alert.name
    words = re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower()
    return re.sub(r"\bgpu", "GPU", name[:1].upper() + words[1:], flags=re.IGNORECASE)


def place(alert: Alert) -> str:
    """Where it is: `rank 3, node-7`; empty where nothing names a place."""
    labels = alert.labels
    found = _RANK_AND_HOST.search(alert.annotations.get("description", ""))
    rank = labels.get("rank", "") or (found[1] if found else "")
    same_rank = found is not None and found[1] == rank
    host = labels.get("hostname", "") or (found[2] if found and same_rank else "")
    named = [
        f"rank {rank}" if rank else "",
        host or ("" if rank else labels.get("instance", "")),
        f"GPU {labels['gpu']}" if labels.get("gpu") else "",
        *(labels.get(name, "") for name in ("receiver", "collector", "rule_group")),
    ]
    return ", ".join(part for part in named if part)


def title(alerts: Sequence[Alert]) -> str:
    """One line for alerts in order: the worst fault, run, time, place, and how many others there are."""
    worst, others = alerts[0], [each for each in alerts[1:] if each.firing == alerts[0].firing]
    run = worst.labels.get("run", "")
    where = ", ".join(filter(None, (worst.labels.get(name, "") for name in ("cluster", "namespace"))))
    parts = [
        state(worst),
        fault(worst),
        f" in {run}" if run else "",
        f" ({where})" if where else "",
        _since(worst),
    ]
    at = place(worst)
    return "".join(parts) + (f": {at}" if at else "") + _others(run, others)


def state(alert: Alert) -> str:
    """How the title of an alert begins that is not firing."""
    if alert.firing:
        return ""
    closed = alert.annotations.get("closed", "").strip()
    if _GIVEN_UP.search(closed):
        return "No longer watched: "
    return "No longer reported: " if _NOT_KNOWN.search(closed) else "RESOLVED: "


def is_over(alerts: Iterable[Alert]) -> bool:
    """Whether all have ended, and said what ended them."""
    return all(state(alert) == "RESOLVED: " for alert in alerts)


def _others(run: str, others: Sequence[Alert]) -> str:
    runs = {each.labels.get("run", "") for each in others} - {run, ""}
    in_runs = f" in {len(runs)} more run{'s' * (len(runs) > 1)}" if runs else ""
    return f" (+{len(others)}{in_runs})" if others else ""


def _since(alert: Alert) -> str:
    started, ended = alert.started, alert.ended
    if started is None:
        return ""
    if ended is None:
        return f" since {started:%H:%M} UTC"
    return f", {started:%H:%M} to {ended:%H:%M} UTC"


def in_order(alerts: Iterable[Alert]) -> list[Alert]:
    """Firing before resolved, critical before the rest, causes before consequences, then the oldest."""
    return sorted(alerts, key=_urgency)


def _urgency(alert: Alert) -> tuple[bool, int, int, str, str, str]:
    cause = next((place for place, names in enumerate(_CAUSES) if names.fullmatch(alert.name)), len(_CAUSES))
    severity = _SEVERITIES.get(alert.severity, len(_SEVERITIES))
    rank = alert.labels.get("rank", "")
    return not alert.firing, severity, cause, alert.labels.get("run", ""), alert.starts_at, rank.zfill(6)


def facts(alert: Alert) -> str:
    """What identifies it: severity, times, owner, cluster, namespace, instance."""
    started, ended = alert.started, alert.ended
    named = ((name, alert.labels.get(name, "")) for name in ("owner", "cluster", "namespace", "instance"))
    parts = [
        alert.severity,
        f"since {started:%Y-%m-%d %H:%M:%S} UTC" if started else "",
        f"until {ended:%Y-%m-%d %H:%M:%S} UTC" if ended else "",
        *(f"{name} {value}" for name, value in named if value),
    ]
    return ", ".join(part for part in parts if part)


def for_people(text: str) -> str:
    """A text with its times and percentages rounded: `51.93s` is `52 s`, `7.731%` is `8 %`."""

    def rounded(found: re.Match[str]) -> str:
        number, unit = found[1], found[2]
        if _PARTS_OF_DURATION.search(found.string[: found.start()]):
            return found[0]  # 2m 3s
        value = float(number)
        shown = f"{int(value + 0.5)}" if value >= 1 or "." not in number else f"{value:.1g}"
        return f"{shown} {unit}"

    return _NUMBER.sub(rounded, text)


def dashboard_url(grafana: str, alert: Alert) -> str:
    """The dashboard that shows the fault, of its cluster, namespace, run and time; empty without Grafana."""
    if not grafana:
        return alert.annotations.get("dashboard_url", "")
    uid = next((uid for names, uid in DASHBOARDS if names.match(alert.name)), "trainbeacon-fleet")
    names = ("cluster", "namespace", "run", "rank", "instance", "gpu")
    chosen = {f"var-{name}": alert.labels[name] for name in names if alert.labels.get(name)}
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in (chosen | _range(alert)).items())
    return f"{grafana.rstrip('/')}/d/{uid}{'?' * bool(query)}{query}"


def _range(alert: Alert) -> dict[str, str]:
    started, ended = alert.started, alert.ended
    if started is None:
        return {}
    until = _milliseconds(ended + _AFTER) if ended else "now"
    return {"from": _milliseconds(started - _BEFORE), "to": until}


def _milliseconds(instant: datetime) -> str:
    return f"{int(instant.timestamp())}000"


def silence_url(external_url: str, labels: Mapping[str, str]) -> str:
    """The page of Alertmanager's own that silences an alert with these labels."""
    matchers = ", ".join(
        f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in sorted(labels.items())
    )
    return f"{external_url.rstrip('/')}/#/silences/new?filter={quote('{' + matchers + '}', safe='')}"
