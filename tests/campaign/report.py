"""The figures of a campaign as a page: raw results to benchmarks/results, tables into docs/campaign.md."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from tests.campaign.campaign import read_outcomes
from tests.campaign.history import Days, read_days
from tests.campaign.judge import LOUD, Outcome, Share, Summary, poisson_most, summarise
from tests.campaign.kinds import BY_NAME, KINDS, SIMULATED, Kind
from tests.serving import REPOSITORY

RESULTS, PAGE = REPOSITORY / "benchmarks/results", REPOSITORY / "docs/campaign.md"
#: From here on the machine is called overloaded.
HEAVY_LOAD = 60
BEGIN, END = "<!-- begin: python -m tests.campaign --report -->", "<!-- end -->"


@dataclass(frozen=True)
class Played:
    """One campaign as it was played: its outcomes, what was told about no run, and of which commit."""

    outcomes: list[Outcome]
    beside: list[str]
    commit: str

    @classmethod
    def read(cls, path: Path, commit: str) -> Played:
        """From the file of its outcomes, and the one beside it."""
        told = path.with_suffix(".beside.json")
        outcomes = sorted(read_outcomes(path), key=lambda each: each.number)
        return cls(outcomes, json.loads(told.read_text()) if told.exists() else [], commit)


def write(first: Played, again: Played, history: Path) -> None:
    """Keep the raw results, bring the page up to date; kinds in `again` count instead of those of `first`."""
    days = read_days(history)
    machine = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    for name, played in (("campaign", first), ("campaign-again", again)):
        if played.outcomes:
            kept = {"machine": machine, **asdict(played)}
            (RESULTS / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n")
    fleets = {"machine": machine, "fleets": [asdict(each) for each in days]}
    (RESULTS / "campaign-history.json").write_text(json.dumps(fleets, indent=1) + "\n")
    head, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, tail = rest.partition(END)
    PAGE.write_text(f"{head}{BEGIN}\n{page(first, again, days)}\n{END}{tail}")


def present_commit() -> str:
    """The commit that is checked out, short."""
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def page(first: Played, again: Played, days: Sequence[Days]) -> str:
    """All generated tables."""
    replaced = {each.kind for each in again.outcomes}
    real = [each for each in first.outcomes if each.kind in {kind.name for kind in KINDS}]
    judged = [each for each in real if each.kind not in replaced] + again.outcomes
    simulated = [each for each in first.outcomes if each.kind in {kind.name for kind in SIMULATED}]
    loads = [each.load for each in judged]
    return "\n".join(
        [
            f"Load average at the ends of the incidents: {min(loads):.0f} to {max(loads):.0f}, median "
            f"{statistics.median(loads):.0f}, on {os.cpu_count()} cores. Commit {first.commit}"
            + (f"; {', '.join(sorted(replaced))} of {again.commit}" if replaced else "")
            + ".",
            "",
            *overall(summarise(judged)),
            "",
            *_by_load(judged),
            *table("Real processes", KINDS, judged),
            "",
            *_before([each for each in real if each.kind in replaced]),
            *table("From the simulator", SIMULATED, simulated),
            "",
            *false_alarms(judged),
            "",
            *_history(days),
        ]
    )


def _by_load(outcomes: Sequence[Outcome]) -> Iterable[str]:
    """A table of its own where the machine was overloaded at times."""
    if max(each.load for each in outcomes) <= HEAVY_LOAD:
        return
    yield "| load average | recall | precision | culprit |"
    yield "|---|---|---|---|"
    for name, chosen in (
        (f"up to {HEAVY_LOAD}", [each for each in outcomes if each.load <= HEAVY_LOAD]),
        (f"above {HEAVY_LOAD}", [each for each in outcomes if each.load > HEAVY_LOAD]),
    ):
        summary = summarise(chosen)
        yield f"| {name} | {summary.recall} | {summary.precision} | {summary.culprit} |"
    yield ""


def _before(outcomes: Sequence[Outcome]) -> Iterable[str]:
    """What was said of the kinds that were played again, the first time."""
    if not outcomes:
        return
    summary = summarise(outcomes)
    yield (
        f"The kinds that were played again had, the first time: recall {summary.recall}, precision "
        f"{summary.precision}, culprit {summary.culprit}."
    )
    yield ""


def overall(summary: Summary) -> Iterable[str]:
    """The figures asked for, as a table."""
    yield "| | | asked for |"
    yield "|---|---|---|"
    yield f"| recall: the right alert arrived, in time | {summary.recall} | 0.97 |"
    yield f"| precision: alerts that the fault explains | {summary.precision} | 0.97 |"
    yield f"| culprit: the one at fault named, and nobody else | {summary.culprit} | 0.97 |"
    yield (
        f"| from the fault to the message | median {summary.seconds_median:.0f} s, "
        f"95 % within {summary.seconds_p95:.0f} s, worst {summary.seconds_worst:.0f} s | |"
    )
    yield (
        f"| end: reported when it was over, not before, and in true words | {summary.ending}, median "
        f"{summary.ending_median:.0f} s after it | 0.97 |"
    )
    median, most = summary.messages_median, summary.messages_most
    yield f"| messages an incident, with its end | median {median:g}, most {most} | at most 2 |"


def table(title: str, kinds: Sequence[Kind], outcomes: Sequence[Outcome]) -> Iterable[str]:
    """A row for each kind that was played."""
    yield f"| {title} | n | right | missed | culprit | end | median | worst | messages | false alarms |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for kind in kinds:
        of_kind = [each for each in outcomes if each.kind == kind.name]
        if of_kind:
            yield _row(kind, of_kind)


def _row(kind: Kind, outcomes: Sequence[Outcome]) -> str:
    right = [each for each in outcomes if each.verdict in ("right", "quiet")]
    seconds = [each.seconds for each in right if each.seconds is not None]
    judged = [each for each in right if each.culprit is not None]
    culprit = f"{sum(bool(each.culprit) for each in judged)} of {len(judged)}" if judged else ""
    ended = [each.ending for each in outcomes if each.ending is not None]
    ending = f"{ended.count('right')} of {len(ended)}" if ended else ""
    alarms = Counter(name for each in outcomes for name in each.false_alarms)
    told = ", ".join(f"{count} {name}" for name, count in alarms.items()) or "0"
    messages = Share(sum(each.messages for each in outcomes), len(outcomes)).ratio
    times = f"{statistics.median(seconds):.0f} s | {max(seconds):.0f} s" if seconds else " | "
    expected = " or ".join(kind.expected) if kind.expected else "nothing"
    missed = len(outcomes) - len(right) if kind.expected else ""
    return (
        f"| `{kind.name}`: {kind.summary}; expected: {expected} | {len(outcomes)} | {len(right)} | {missed} "
        f"| {culprit} | {ending} | {times} | {messages:.1f} | {told} |"
    )


def false_alarms(outcomes: Sequence[Outcome], kinds: Mapping[str, Kind] = BY_NAME) -> Iterable[str]:
    """Each of them, and for how long controls were watched."""
    found = [(each, name) for each in outcomes for name in each.false_alarms]
    controls = [each for each in outcomes if not kinds[each.kind].expected]
    hours = sum(each.watched_seconds for each in controls) / 3600
    spoilt = sum(bool(each.false_alarms) for each in controls)
    yield f"Controls: {len(controls)} jobs watched for {hours:.1f} hours in all, false alarms about {spoilt}."
    yield ""
    yield f"False alarms about runs: {len(found)}."
    yield ""
    for each, name in found:
        (told,) = [told for told in each.told if told.alert == name]
        yield f"- {each.kind}, {told.seconds:.0f} s after the fault: {name}. {told.text}"


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
