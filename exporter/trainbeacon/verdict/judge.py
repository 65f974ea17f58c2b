"""Findings: what is wrong, by what evidence, what to do first. The worst of them is the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trainbeacon.verdict import alerts
from trainbeacon.verdict.facts import Alert

#: What is said first where several things of one severity are true: a cause before what follows from it. The
#: dashboards and the messages have the same order, which a test compares.
_FIRST = (
    ("TrainingGpuLost",),
    ("TrainingGpuXid", "TrainingGpuMemoryErrors", "TrainingGpuRecoveryNeeded"),
    ("TrainingRunFailed",),
    ("TrainingRanksLost",),
    ("TrainingRankLost",),
    ("TrainingLossNotFinite",),
    ("TrainingStalled",),
    ("TrainingStraggler",),
    ("TrainingInputBound",),
)
_PLACES = {alert: place for place, together in enumerate(_FIRST) for alert in together}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth saying."""

    alert: str
    """Name of the alert for it; empty without one."""
    severity: str
    summary: str
    """The sentence of the alert."""
    detail: str = ""
    """Who and by what evidence."""
    action: str = ""
    run: str = ""
    rank: int | None = None
    gpu: str = ""
    fires: bool = False
    """Whether it is an alert that fires in Prometheus, and not what the numbers show by themselves."""

    @property
    def sentence(self) -> str:
        """Summary and detail, on one line."""
        return " ".join(f"{self.summary} {self.detail}".split())

    @property
    def order(self) -> tuple[int, int]:
        """The worst sorts first."""
        return alerts.severity_order(self.severity), _PLACES.get(self.alert, len(_FIRST))


def finding(
    alert: str, detail: str, *, reason: str = "", run: str = "", rank: int | None = None, gpu: str = ""
) -> Finding:
    """A finding in the words of the alert of that name."""
    words = alerts.words_of(alert, reason)
    return Finding(alert, words.severity, words.summary, detail, words.action, run, rank, gpu)


def of_alert(alert: Alert) -> Finding:
    """A firing alert as a finding: its own sentence, its own severity."""
    labels = alert.labels
    number = labels.get("rank", "")
    run = "/".join(labels[name] for name in ("cluster", "namespace", "run") if labels.get(name))
    return Finding(
        alert=alert.name,
        severity=alert.severity,
        summary=alert.summary or f"{alert.name} fires.",
        detail=alert.description or _who(labels),
        action=alert.action,
        run=run,
        rank=int(number) if number.isdigit() else None,
        gpu=labels.get("gpu", ""),
        fires=True,
    )


def _who(labels: Mapping[str, str]) -> str:
    named = (f"{name} {labels[name]}" for name in ("run", "rank", "gpu", "instance") if labels.get(name))
    return ", ".join(named)
