"""Prometheus: the whole cluster, its firing alerts, and the past of the loss."""

from __future__ import annotations

import http.client
import json
import math
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

from trainbeacon.stack import web
from trainbeacon.terminal.facts_of import rows
from trainbeacon.terminal.sources.base import FactSource
from trainbeacon.terminal.table import Look
from trainbeacon.terminal.wanted import SUBJECTS, WANTED, Want
from trainbeacon.verdict.facts import Alert, RunKey

_THREADS = 4
_SECONDS_TO_ANSWER = 15.0
#: The window of rates, and of what is counted rarely.
_RATE, _RARE = "1m", "10m"
_RARELY = ("allocator_retries", "checkpoint_failures")
_LOSS_MINUTES, _LOSS_POINTS = 60, 60
_LOSS_EVERY_SECONDS = 30.0


class AlertSource(FactSource):
    """The firing alerts of a Prometheus, beside another source of numbers."""

    seconds = 2.0

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no address of Prometheus: give http://HOST:PORT")
        self._url = parts.geturl().rstrip("/")
        self._alerts: Sequence[Alert] = ()
        super().__init__(f"Prometheus {parts.netloc.rpartition('@')[2]}")

    def alerts(self) -> Sequence[Alert]:
        """The alerts of the last look."""
        return self._alerts

    def close(self) -> None:
        """Nothing is kept open."""

    def _take(self) -> Look:
        look = self._table.new_look(self._clock())
        self._alerts = [
            _alert(each) for each in self._get("alerts")["alerts"] if each.get("state") == "firing"
        ]
        return look

    def _get(self, path: str, **parameters: str) -> Any:
        try:
            answer = web.get_json(f"{self._url}/api/v1/{path}", _SECONDS_TO_ANSWER, **parameters)
            return answer["data"]
        except (KeyError, TypeError, http.client.HTTPException, json.JSONDecodeError) as error:
            raise OSError("it answers, but not as Prometheus does") from error


class PrometheusSource(AlertSource):
    """Everything from one Prometheus."""

    seconds = 5.0
    rates = True

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="trainbeacon-queries")
        self._losses: dict[RunKey, Sequence[float]] = {}
        self._next_losses = 0.0

    def losses(self) -> Mapping[RunKey, Sequence[float]]:
        """The mean training loss of the last hour."""
        return self._losses

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _take(self) -> Look:
        look = super()._take()
        names = list(WANTED)
        for name, answer in zip(names, self._pool.map(self._series, names), strict=True):
            for labels, value in answer:
                key = (name, *labels.values())
                self._table.add(look, key, name, labels, value)
        if time.monotonic() >= self._next_losses and any(True for _ in rows(self._table, look, "rank")):
            self._next_losses = time.monotonic() + _LOSS_EVERY_SECONDS
            self._losses = self._past_losses()
        return look

    def _series(self, name: str) -> list[tuple[Mapping[str, str], float]]:
        answer = self._get("query", query=expression(name, WANTED[name]))
        return [
            (
                # Every label of the subject is there, so that equal values mean equal series.
                {**dict.fromkeys(_labels(WANTED[name]), ""), **series["metric"]},
                float(series["value"][1]),
            )
            for series in answer["result"]
        ]

    def _past_losses(self) -> dict[RunKey, Sequence[float]]:
        end = self._clock()
        answer = self._get(
            "query_range",
            query='avg by (cluster, namespace, run) (training_loss{split="train"})',
            start=f"{end - _LOSS_MINUTES * 60:.0f}",
            end=f"{end:.0f}",
            step=f"{_LOSS_MINUTES * 60 // _LOSS_POINTS}s",
        )
        found: dict[RunKey, Sequence[float]] = {}
        for series in answer["result"]:
            key = tuple(series["metric"].get(label, "") for label in SUBJECTS["run"])
            found[key[0], key[1], key[2]] = [
                loss for _, text in series["values"] if math.isfinite(loss := float(text))
            ]
        return found


def expression(name: str, want: Want) -> str:
    """What Prometheus is asked for one metric: a value for each subject, without the labels of its target."""
    inner = name
    if want.only:
        inner += f'{{{want.by}=~"{"|".join(sorted(want.only))}"}}'
    if want.is_choice:
        inner = f"({inner} == 1)"
    elif want.counter and want.field in _RARELY:
        inner = f"increase({inner}[{_RARE}])"
    elif want.counter:
        inner = f"rate({inner}[{_RATE}])"
    return f"max by ({', '.join(_labels(want))}) ({inner})"


def _labels(want: Want) -> Iterator[str]:
    yield from SUBJECTS[want.subject]
    yield from (
        name for name in (want.by, want.chosen, *want.texts) if name and name not in SUBJECTS[want.subject]
    )


def _alert(found: Mapping[str, Any]) -> Alert:
    labels = {str(name): str(value) for name, value in found["labels"].items()}
    notes = {name: " ".join(str(text).split()) for name, text in found.get("annotations", {}).items()}
    return Alert(
        name=labels.get("alertname", ""),
        severity=labels.get("severity", ""),
        labels=labels,
        summary=notes.get("summary", ""),
        description=notes.get("description", ""),
        action=notes.get("action", ""),
        since=_unix(str(found.get("activeAt", ""))),
    )


def _unix(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text[:19] + "+00:00").timestamp()
    except ValueError:
        return None
