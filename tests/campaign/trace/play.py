"""Traces as the series that an exporter would serve, and what the shipped rules say of them, by promtool.

The rules look at minutes. A trace of few steps is played slower, one of hours faster, and one that is too
short for the rules over and over: what they compare is own time a step, which that does not change.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.campaign.trace.table import CAUSES, Trace, TraceError
from tools import stack

REPOSITORY = Path(__file__).resolve().parents[3]
RULES = tuple(
    REPOSITORY / "prometheus/rules" / name
    for name in ("recording/identity.yml", "recording/stragglers.yml", "alerts/progress.yml")
)
GROUPS = ("identity", "stragglers", "stragglers-long-steps", "stages", "progress")
SCRAPE_SECONDS = 15
#: The rules have seen all that they look at by then, a stage's ten minutes and its alert's five included ...
LEAST_SECONDS = 1260
#: ... and a longer trace is played faster, so that the time that this takes is bounded.
MOST_SECONDS = 2700
#: A look of 45 s needs some steps.
MOST_STEP_SECONDS = 9.0
LEAST_STEPS = 8

_SAMPLE = re.compile(r"\{([^{}]*)\} ([-+.\deE]+)")
_ASKED = {
    "slow": 'count_over_time(ALERTS{alertname="TrainingStraggler",alertstate="firing"}[1d])',
    "share": "max by (run, rank, cause) (max_over_time(run_rank_cause:training_straggler:ratio[1d]))",
    "stage": 'count_over_time(ALERTS{alertname="TrainingStageImbalance",alertstate="firing"}[1d])',
    "excess": "max_over_time(run_stage:training_stage_imbalance:ratio[1d])",
}


@dataclass(frozen=True)
class Pace:
    """How a trace is played: virtual seconds a step, and how many times over."""

    step_seconds: float
    rounds: int


@dataclass
class Said:
    """What the rules say of one trace.

    Attributes:
        slow: the workers that were named, by their place in `Trace.workers`, with the share of time lost.
        causes: what each of them takes longer at.
        stages: the stages that were named as longer than the others, with the share by which.
    """

    slow: dict[int, float] = field(default_factory=dict)
    causes: dict[int, str] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)


def pace_of(trace: Trace) -> Pace:
    """How to play a trace. Raises TraceError for one that is too short."""
    steps = len(trace.step_seconds)
    if steps < LEAST_STEPS:
        raise TraceError(f"it has {steps} steps; whether somebody is slow shows in {LEAST_STEPS} at least")
    usual = float(np.median(trace.step_seconds))
    seconds = min(usual, MOST_STEP_SECONDS, MOST_SECONDS / steps)
    if seconds * steps < LEAST_SECONDS:
        seconds = min(MOST_STEP_SECONDS, LEAST_SECONDS / steps)
    return Pace(seconds, -(-LEAST_SECONDS // int(seconds * steps + 1)))


def judge(traces: Mapping[str, Trace]) -> dict[str, Said]:
    """What the shipped rules say of traces that are played side by side, by name.

    Raises:
        TraceError: one is too short.
        FileNotFoundError: there is no promtool here.
        RuntimeError: promtool failed.
    """
    promtool = stack.find("promtool")
    if promtool is None:
        raise FileNotFoundError("promtool: `make tools`, or put it on the PATH")
    last = 0
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        file.write("rule_files:\n" + "".join(f"  - {path}\n" for path in RULES))
        names = ", ".join(f"trainbeacon-{name}" for name in GROUPS)
        file.write(f"evaluation_interval: {SCRAPE_SECONDS}s\ngroup_eval_order: [{names}]\n")
        file.write(f"tests:\n  - interval: {SCRAPE_SECONDS}s\n    input_series:\n")
        for name, trace in traces.items():
            pace = pace_of(trace)
            last = max(last, int(pace.step_seconds * len(trace.step_seconds) * pace.rounds))
            for series, values in _series(name, trace, pace):
                file.write(f"      - {{series: '{series}', values: '{values}'}}\n")
        file.write("    promql_expr_test:\n")
        for number, expression in enumerate(_ASKED.values()):
            file.write(f"      - {{expr: '{expression} + {number} * 0', eval_time: {last}s}}\n")
        file.flush()
        done = subprocess.run(
            [promtool, "test", "rules", file.name], capture_output=True, text=True, timeout=3600, check=False
        )
    output = done.stdout + done.stderr
    if "FAILED" not in output and "SUCCESS" not in output:
        raise RuntimeError(output[-2000:])
    return _parse(output, traces)


def _series(name: str, trace: Trace, pace: Pace) -> Iterator[tuple[str, str]]:
    """Series in promtool's words: counters that grow at each step's end, as they are at each scrape."""
    steps, factor = len(trace.step_seconds), pace.step_seconds / float(np.median(trace.step_seconds))
    # Steps keep their own lengths, but for one that would leave the others no room.
    lengths = np.minimum(trace.step_seconds * factor, 20 * pace.step_seconds)
    ends = np.cumsum(np.tile(lengths, pace.rounds))
    count = min(int(ends[-1]), int(1.5 * MOST_SECONDS)) // SCRAPE_SECONDS
    done = np.searchsorted(ends, SCRAPE_SECONDS * np.arange(count + 1), side="right")

    def at_scrapes(a_step: np.ndarray) -> np.ndarray:
        totals = np.concatenate([[0.0], np.cumsum(np.tile(a_step.astype(np.float64), pace.rounds))])
        return np.asarray(totals[done])

    made = _text(at_scrapes(np.ones(steps)))
    several = len({worker.stage for worker in trace.workers}) > 1
    for rank, worker in enumerate(trace.workers):
        who = f'run="{name}",rank="{rank}"'
        if not rank:
            yield f"training_step_duration_seconds_count{{{who}}}", made
            yield f"training_step_duration_seconds_sum{{{who}}}", _text(at_scrapes(lengths))
        stage = f',stage="{worker.stage}"' if several else ""
        yield f'training_rank_info{{{who},hostname="{worker.host}"{stage}}}', f"1x{count}"
        yield f"training_start_timestamp_seconds{{{who}}}", f"1x{count}"
        yield f"training_steps_total{{{who}}}", made
        for place, cause in enumerate(CAUSES):
            own = trace.own[:, rank, place]
            if own.any() or cause == "forward":
                yield f'training_self_seconds_total{{{who},cause="{cause}"}}', _text(at_scrapes(own * factor))


def _text(values: np.ndarray) -> str:
    return " ".join(f"{value:.10g}" for value in values)


def _parse(output: str, traces: Mapping[str, Trace]) -> dict[str, Said]:
    said = {name: Said() for name in traces}
    found: dict[str, list[tuple[dict[str, str], float]]] = {name: [] for name in _ASKED}
    for part in output.split("expr: ")[1:]:
        number = re.search(r"\+ (\d+) \* 0", part)
        got = part.split("got:")[1] if "got:" in part else ""
        if number is not None:
            key = [*_ASKED][int(number[1])]
            found[key] += [
                (dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value))
                for labels, value in _SAMPLE.findall(got)
            ]
    for labels, _ in found["slow"]:
        said[labels["run"]].slow[int(labels["rank"])] = 0.0
    for labels, value in found["share"]:
        one, rank = said[labels["run"]], int(labels["rank"])
        if rank in one.slow and value > one.slow[rank]:
            one.slow[rank], one.causes[rank] = value, labels["cause"]
    for labels, _ in found["stage"]:
        said[labels["run"]].stages[labels["stage"]] = 0.0
    for labels, value in found["excess"]:
        stages = said[labels["run"]].stages
        if labels["stage"] in stages:
            stages[labels["stage"]] = value
    return said


def sentences(trace: Trace, said: Said) -> list[str]:
    """What is said, a line each."""
    lines = []
    for rank, share in sorted(said.slow.items(), key=lambda item: -item[1]):
        worker = trace.workers[rank]
        where = ", ".join(
            f"{label} {text}"
            for label, text in (("pp", worker.stage), ("dp", worker.replica), ("host", worker.host))
            if text
        )
        lines.append(
            f"slow: worker {worker.name}{f' ({where})' if where else ''}: the others wait for it in "
            f"{share:.1%} of the time; it takes longer than they do at: {said.causes.get(rank, 'unknown')}"
        )
    for stage, share in said.stages.items():
        lines.append(f"stage: {stage} takes {share:.1%} longer for a step than the mean of the stages")
    return lines or ["nobody is named, and no stage"]


def names(trace: Trace, ranks: Sequence[int]) -> list[str]:
    """The names of workers by their places."""
    return [trace.workers[rank].name for rank in ranks]
