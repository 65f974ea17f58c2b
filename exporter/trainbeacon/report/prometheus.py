"""A run from Prometheus: all of its life that is kept there, with its incidents."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Mapping
from typing import Any

from trainbeacon.report.record import (
    OUT_OF_SIGHT,
    Incident,
    Mark,
    Point,
    Record,
    add_facts,
    conclude,
    thinned,
)
from trainbeacon.stack import web
from trainbeacon.terminal.sources.prometheus import PrometheusSource
from trainbeacon.terminal.watch import Watch
from trainbeacon.verdict.facts import Facts

_SECONDS_TO_ANSWER = 30.0
#: Two scrapes of the longest interval: without a sample since then, nothing is said of the present.
_SECONDS_OUT_OF_SIGHT = 30.0
#: Name of the curve: what is asked for.
CURVES: Mapping[str, str] = {
    "training loss": 'avg(training_loss{{split="train",{run}}})',
    "validation loss": 'avg(training_loss{{split="validation",{run}}})',
    "learning rate": "max(training_learning_rate{{{run}}})",
    "gradient norm": "avg(training_gradient_norm{{{run}}})",
    "samples a second": "sum(training_samples_per_second{{{run}}})",
}
_ABOUT = "owner, project, launcher, framework, cluster, namespace"
_STEP = "max(training_step{{{run}}})"


class _Server:
    def __init__(self, url: str, run: str) -> None:
        self._url = (url if "://" in url else f"http://{url}").rstrip("/") + "/api/v1/"
        self._run = "run=" + json.dumps(run)

    def range(self, promql: str, begins: float, ends: float, step: float) -> list[dict[str, Any]]:
        """The series of an expression over a time."""
        options = {"start": f"{begins:.0f}", "end": f"{ends:.0f}", "step": f"{step:.0f}"}
        query = promql.format(run=self._run)
        answer = web.get_json(f"{self._url}query_range", _SECONDS_TO_ANSWER, query=query, **options)
        return list(answer["data"]["result"])

    def at(self, promql: str, moment: float) -> list[dict[str, Any]]:
        """The series of an expression at one time."""
        query = promql.format(run=self._run)
        answer = web.get_json(f"{self._url}query", _SECONDS_TO_ANSWER, query=query, time=f"{moment:.0f}")
        return list(answer["data"]["result"])


def record_of(run: str, url: str, hours: float) -> Record:
    """The record of a run over the last hours. Blocks for some seconds; raises OSError."""
    now = time.time()
    server, record = _Server(url, run), Record(run, f"Prometheus {url}", now)
    begins, coarse = now - hours * 3600, max(15.0, hours * 3600 / 2000)
    steps = server.range(_STEP, begins, now, coarse)
    if steps:
        times = [float(at) for at, _ in steps[0]["values"]]
        record.begins, last = times[0], times[-1]
        seen = server.at("max(timestamp(training_step{{{run}}}))", now)
        last = float(seen[0]["value"][1]) if seen else last
        record.ends = last if now - last > _SECONDS_OUT_OF_SIGHT else None
        step = max(15.0, (last - times[0]) / 800)
        _add_curves(record, server, times[0], last, step)
        _add_incidents(record, server, times[0], last, step)
        _add_rest(record, server, last)
        if times[0] - begins < 2 * coarse:
            record.gaps.append(f"the run is older than the {hours:g} hours that were asked for: --hours")
    watch = Watch([PrometheusSource(url)], 1.0)
    try:
        sight = watch.look(_SECONDS_TO_ANSWER)
    finally:
        watch.close()
    add_facts(
        record,
        sight.facts if record.ends is None else Facts(now),
        sight.findings if record.ends is None else (),
    )
    conclude(record)
    return record


def _add_curves(record: Record, server: _Server, begins: float, ends: float, every: float) -> None:
    answer = server.range(_STEP, begins, ends, every)
    steps = {float(at): float(text) for at, text in answer[0]["values"]} if answer else {}
    record.step = max(steps.values(), default=None)
    for name, promql in CURVES.items():
        for series in server.range(promql, begins, ends, every)[:1]:
            points = [
                Point(float(at), steps.get(float(at)), value)
                for at, text in series["values"]
                if math.isfinite(value := float(text))
            ]
            record.curves[name] = thinned(points)
            if name == "samples a second":
                warm = points[len(points) // 10 :]
                record.windows["samples_per_second"] = [each.value for each in warm if each.value > 0]
    moments = sorted(steps)
    for before, after in itertools.pairwise(moments):
        if after - before > 4 * every:
            record.gaps.append(f"nothing was scraped for {after - before:.0f} s from {_clock(before)} on")


def _add_incidents(record: Record, server: _Server, begins: float, ends: float, every: float) -> None:
    for series in server.range('ALERTS{{alertstate="firing",{run}}}', begins, ends + 600, every):
        labels = series["metric"]
        who = ", ".join(f"{name} {labels[name]}" for name in ("rank", "gpu", "instance") if labels.get(name))
        times = [float(at) for at, _ in series["values"]]
        start = previous = times[0]
        for at in [*times[1:], math.inf]:
            if at - previous > 2.5 * every:
                over = None if previous > record.taken_at - 2 * every else previous
                record.incidents.append(
                    Incident(labels["alertname"], labels.get("severity", ""), start, over, who)
                )
                record.marks.append(Mark(start, "alert", labels["alertname"]))
                start = at
            previous = at
    record.incidents.sort(key=lambda each: each.begins)
    for series in server.range("max(training_start_timestamp_seconds{{{run}}})", begins, ends, every)[:1]:
        starts = sorted({float(text) for _, text in series["values"]})
        record.marks += [Mark(at, "restart", f"attempt {number}") for number, at in enumerate(starts[1:], 2)]
    for series in server.range(
        "max(training_checkpoint_last_success_timestamp_seconds{{{run}}})", begins, ends, every
    )[:1]:
        saved = sorted({float(text) for _, text in series["values"]})
        record.marks += [Mark(at, "checkpoint", "checkpoint") for at in saved if at >= begins]


def _add_rest(record: Record, server: _Server, at: float) -> None:
    for name in ("training_run_seconds", "training_goodput_seconds_total"):
        found = server.at(f"max by (kind) (last_over_time({name}{{{{{{run}}}}}}[1h]))", at)
        if found and not record.seconds:
            record.seconds = {each["metric"]["kind"]: float(each["value"][1]) for each in found}
    for each in server.at(
        "max by (name, value) (last_over_time(training_hyperparameter_info{{{run}}}[1h]))", at
    ):
        record.hyperparameters[each["metric"].get("name", "")] = each["metric"].get("value", "")
    for each in server.at(
        f"max by ({_ABOUT}) (last_over_time(training_run_info{{{{{{run}}}}}}[1h]))",
        at,
    ):
        record.environment.update({name: text for name, text in each["metric"].items() if text})
    for each in server.at("max(last_over_time(training_world_size{{{run}}}[1h]))", at):
        record.world_size = int(float(each["value"][1]))
    first = server.at(
        "min by (rank, exception, kind) (last_over_time(training_failure_info{{{run}}}[1h]))", at
    )
    when = server.at("min by (rank) (last_over_time(training_failure_timestamp_seconds{{{run}}}[1h]))", at)
    if first and when:
        rank = min(when, key=lambda each: float(each["value"][1]))["metric"].get("rank", "")
        why = next(
            (each["metric"].get("exception", "") for each in first if each["metric"].get("rank") == rank), ""
        )
        record.outcome = f"failed: rank {rank} ended first, by {why or 'an exception'}"
    elif record.ends is not None:
        states = {
            each["metric"]["state"]
            for each in server.at("last_over_time(training_state{{{run}}}[1h]) == 1", at)
        }
        record.outcome = (
            "finished" if states == {"finished"} else ", ".join(sorted(states - {"running"})) or OUT_OF_SIGHT
        )


def _clock(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))
