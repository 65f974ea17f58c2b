"""The figures of a campaign as a page: raw results to benchmarks/results, tables into docs/campaign.md."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

from tests.campaign.campaign import read_outcomes
from tests.campaign.history import Days, read_days
from tests.campaign.judge import LOUD, Outcome, Share, Summary, poisson_most, summarise
from tests.campaign.kinds import BY_NAME, KINDS, SIMULATED, Kind
from tests.serving import REPOSITORY

RESULTS, PAGE = REPOSITORY / "benchmarks/results", REPOSITORY / "docs/campaign.md"
BEGIN, END = "<!-- begin: python -m tests.campaign --report -->", "<!-- end -->"


def write(outcomes: Path, beside: Sequence[str], history: Path, commit: str) -> None:
    """Keep the raw results and bring the page up to date."""
    found, days = read_outcomes(outcomes), read_days(history)
    found.sort(key=lambda each: each.number)
    machine = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "commit": commit,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    told = {"machine": machine, "beside": list(beside), "outcomes": [asdict(each) for each in found]}
    (RESULTS / "campaign.json").write_text(json.dumps(told, indent=1) + "\n")
    kept = {"machine": machine, "fleets": [asdict(each) for each in days]}
    (RESULTS / "campaign-history.json").write_text(json.dumps(kept, indent=1) + "\n")
    head, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, tail = rest.partition(END)
    PAGE.write_text(f"{head}{BEGIN}\n{page(found, beside, days)}\n{END}{tail}")


def present_commit() -> str:
    """The commit that is checked out, short."""
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def page(outcomes: Sequence[Outcome], beside: Sequence[str], days: Sequence[Days]) -> str:
    """All generated tables."""
    real = [each for each in outcomes if each.kind in {kind.name for kind in KINDS}]
    simulated = [each for each in outcomes if each.kind in {kind.name for kind in SIMULATED}]
    loads = [each.load for each in outcomes]
    return "\n".join(
        [
            f"Load average at the ends of the incidents: {min(loads):.0f} to {max(loads):.0f}, median "
            f"{statistics.median(loads):.0f}, on {os.cpu_count()} cores.",
            "",
            *_overall(summarise(outcomes, len(beside)), "all"),
            "",
            *_table("Real processes", KINDS, real),
            "",
            *_table("From the simulator", SIMULATED, simulated),
            "",
            *_false_alarms(outcomes, beside),
            "",
            *_history(days),
        ]
    )


def _overall(summary: Summary, what: str) -> Iterable[str]:
    yield "| | | asked for |"
    yield "|---|---|---|"
    yield f"| recall: the right alert arrived, in time | {summary.recall} | 0.97 |"
    yield f"| precision: alerts that the fault explains | {summary.precision} | 0.97 |"
    yield f"| culprit: the one at fault named, and nobody else | {summary.culprit} | 0.97 |"
    yield (
        f"| from the fault to the message | median {summary.seconds_median:.0f} s, "
        f"95 % within {summary.seconds_p95:.0f} s, worst {summary.seconds_worst:.0f} s | |"
    )
    yield f"| messages an incident | median {summary.messages_median:g}, most {summary.messages_most} | |"


def _table(title: str, kinds: Sequence[Kind], outcomes: Sequence[Outcome]) -> Iterable[str]:
    yield f"| {title} | n | right | missed | culprit | median | worst | messages | false alarms |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for kind in kinds:
        of_kind = [each for each in outcomes if each.kind == kind.name]
        if of_kind:
            yield _row(kind, of_kind)


def _row(kind: Kind, outcomes: Sequence[Outcome]) -> str:
    right = [each for each in outcomes if each.verdict in ("right", "quiet")]
    seconds = [each.seconds for each in right if each.seconds is not None]
    judged = [each for each in right if each.culprit is not None]
    culprit = f"{sum(bool(each.culprit) for each in judged)} of {len(judged)}" if judged else ""
    alarms = Counter(name for each in outcomes for name in each.false_alarms)
    told = ", ".join(f"{count} {name}" for name, count in alarms.items()) or "0"
    messages = Share(sum(each.messages for each in outcomes), len(outcomes)).ratio
    times = f"{statistics.median(seconds):.0f} s | {max(seconds):.0f} s" if seconds else " | "
    expected = " or ".join(kind.expected) if kind.expected else "nothing"
    missed = len(outcomes) - len(right) if kind.expected else ""
    return (
        f"| `{kind.name}`: {kind.summary}; expected: {expected} | {len(outcomes)} | {len(right)} | {missed} "
        f"| {culprit} | {times} | {messages:.1f} | {told} |"
    )


def _false_alarms(outcomes: Sequence[Outcome], beside: Sequence[str]) -> Iterable[str]:
    found = [(each, name) for each in outcomes for name in each.false_alarms]
    controls = [each for each in outcomes if not BY_NAME[each.kind].expected]
    hours = sum(each.watched_seconds for each in controls) / 3600
    spoilt = sum(bool(each.false_alarms) for each in controls)
    yield f"Controls: {len(controls)} jobs watched for {hours:.1f} hours in all, false alarms about {spoilt}."
    yield ""
    yield f"False alarms: {len(found)} about runs, {len(beside)} about none of them."
    yield ""
    for each, name in found:
        (told,) = [told for told in each.told if told.alert == name]
        yield f"- {each.kind}, {told.seconds:.0f} s after the fault: {name}. {told.text}"
    yield from (f"- {line}" for line in beside)


def _history(days: Sequence[Days]) -> Iterable[str]:
    exposure = sum(each.run_days for each in days)
    loud = [fired for each in days for fired in each.fired if fired.severity in LOUD]
    quiet = Counter(fired.alert for each in days for fired in each.fired if fired.severity == "info")
    yield "| Simulated healthy history | |"
    yield "|---|---|"
    yield f"| run-days | {exposure:.1f}, {sum(each.runs for each in days)} runs in {len(days)} fleets |"
    rate = len(loud) / exposure if exposure else 0.0
    most = poisson_most(len(loud), exposure) if exposure else 0.0
    yield f"| alerts that reach somebody | {len(loud)} |"
    yield f"| a run and day | {rate:.3f}, at most {most:.3f} (95 %); asked for: at most 0.1 |"
    told = ", ".join(f"{count} {name}" for name, count in sorted(quiet.items())) or "none"
    yield f"| alerts for information only | {told} |"
    yield from (f"| {fired.alert} | {fired.run}, after {fired.first:.0f} s |" for fired in loud)
