"""Days of simulated runs through the shipped alert rules, by promtool: what would have been told?

A real Prometheus evaluates alerts at the present only. promtool's unit tests run the same rule engine over
any time: groups in order, `for` and `keep_firing_for`, staleness. So each fleet of `trainbeacon simulate` is
written as the input series of such a test, scraped every 15 s as shipped. Rules are evaluated once a minute,
or a day would take an hour: recorded series are sparser then than the shipped 15 s make them, so that what
must hold for a while holds more easily. All that fired is asked for at the end.

    python -m tests.campaign.history --fleets 4 --runs 8 --hours 24
"""

from __future__ import annotations

import argparse
import json
import math
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TextIO

import yaml

from tools import stack
from trainbeacon.simulate.fleet import Size
from trainbeacon.simulate.history import History
from trainbeacon.simulate.scenarios import Plan

REPOSITORY = Path(__file__).resolve().parents[2]
RULES = REPOSITORY / "prometheus/rules"
INTERVAL_SECONDS, EVALUATION_SECONDS = 15.0, 60.0
DAY_SECONDS = 86400.0
#: When the simulated time begins; promtool's begins at 0, so Unix times among the values are moved there.
BEGIN = 1_800_000_000.0
#: Recording rules of dashboards, which no alert reads.
LEFT_OUT = ("dashboards",)
_LINE = re.compile(r"(\w+)\{(.*)\} (\S+) \S+\n")
_FOUND = re.compile(r"\{([^{}]*)\} ([-+.\deE]+)")


@dataclass(frozen=True)
class Fired:
    """One alert that fired: its labels, when it began, and for how long in all, in seconds."""

    alert: str
    severity: str
    labels: dict[str, str]
    first: float
    lasted: float

    @property
    def run(self) -> str:
        return self.labels.get("run", "")


@dataclass(frozen=True)
class Days:
    """One fleet: its size, the days that its runs lived, and what fired.

    Attributes:
        injections: what was amiss, of a fleet that is not healthy.
        seconds: that it took to find out.
    """

    seed: int
    ranks: int
    nodes: int
    runs: int
    hours: float
    run_days: float
    series: int
    seconds: float
    fired: list[Fired]
    injections: list[dict[str, object]] = field(default_factory=list)


def read_days(path: Path) -> list[Days]:
    """The fleets of a file, a line of JSON each; none of one that is not there."""
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [Days(**{**days, "fired": [Fired(**fired) for fired in days["fired"]]}) for days in found]


class Columns:
    """Samples by series, written as promtool takes them: repetitions shortened, gaps and ends told apart."""

    def __init__(self, names: set[str]) -> None:
        self._names = names
        self._rows: dict[str, list[str]] = {}
        #: Of each series: the last value, how often it has come, and the moment of the last sample.
        self._last: dict[str, tuple[str, int, int]] = {}

    def add(self, moment: int, lines: Sequence[str]) -> None:
        """Take what was scraped at that moment, counted from 0."""
        for line in lines:
            name, labels, value = _LINE.fullmatch(line).groups()  # type: ignore[union-attr]
            if name in self._names:
                self._take(f"{name}{{{labels}}}", moment, _moved(name, value))

    def _take(self, series: str, moment: int, value: str) -> None:
        row = self._rows.get(series)
        if row is None:
            self._rows[series] = [f"_x{moment}"] if moment else []
            self._last[series] = (value, 1, moment)
            return
        last, count, seen = self._last[series]
        if last == value and seen == moment - 1:
            self._last[series] = (value, count + 1, moment)
            return
        row.append(_repeated(last, count))
        if seen < moment - 1:
            row.append("stale" if seen == moment - 2 else f"stale _x{moment - seen - 2}")
        self._last[series] = (value, 1, moment)

    def __len__(self) -> int:
        return len(self._rows)

    def texts(self, moments: int) -> Iterator[tuple[str, str]]:
        """Each series with its values, at the end of that many moments."""
        for series, row in self._rows.items():
            last, count, seen = self._last[series]
            row.append(_repeated(last, count))
            if seen < moments - 1:
                row.append("stale")
            yield series, " ".join(row)


def _moved(name: str, value: str) -> str:
    if name.endswith("_timestamp_seconds"):
        return repr(float(value) - BEGIN)
    return value.replace("nan", "NaN").replace("inf", "Inf")


def _repeated(value: str, count: int) -> str:
    """`5x2` is 5 three times, except for what is no number, which has no such form."""
    if count == 1:
        return value
    return f"{value}x{count - 1}" if math.isfinite(float(value)) else " ".join([value] * count)


def rule_files() -> list[Path]:
    """The shipped rules, recording ones first."""
    found = sorted(RULES.glob("recording/*.yml")) + sorted(RULES.glob("alerts/*.yml"))
    return [path for path in found if path.stem not in LEFT_OUT]


def names_read(files: Sequence[Path]) -> set[str]:
    """The raw metrics that those rules read."""
    text = "\n".join(
        rule["expr"] + str(rule.get("annotations", ""))
        for path in files
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
    )
    return set(re.findall(r"\b(?:training_|trainbeacon_|scrape_)\w+|\bup\b", text))


def group_order(files: Sequence[Path]) -> list[str]:
    """Groups in an order in which what one reads another has recorded before, as far as there is one."""
    groups = [group for path in files for group in yaml.safe_load(path.read_text())["groups"]]
    made = {group["name"]: {rule.get("record") for rule in group["rules"]} for group in groups}
    read = {
        group["name"]: set(
            re.findall(r"[a-z_]\w*:\w+:\w+", " ".join(rule["expr"] for rule in group["rules"]))
        )
        for group in groups
    }
    order: list[str] = []
    while len(order) < len(groups):
        left = [name for name in made if name not in order]
        ready = [
            name for name in left if not any(made[other] & read[name] for other in left if other != name)
        ]
        order.append(ready[0] if ready else left[0])
    return order


def fleet_of(seed: int, runs: int) -> tuple[Size, int, Plan]:
    """The healthy fleet of a seed: one or two ranks a run, every other fleet with legitimate pauses."""
    ranks = runs * (1 + seed % 2)
    plan = Plan(("pauses",) * runs, onset=3600.0) if seed // 2 % 2 else Plan()
    return Size(ranks, max(1, ranks // 4), runs), seed, plan


def judge_fleet(size: Size, seed: int, plan: Plan, hours: float) -> Days:
    """Simulate a fleet and ask promtool what fired; blocks for minutes."""
    begun = time.monotonic()
    seconds = hours * 3600.0
    history = History(size, plan, seconds=seconds, end=BEGIN + seconds, interval=INTERVAL_SECONDS, seed=seed)
    files = rule_files()
    columns = Columns(names_read(files))
    lived = dict.fromkeys(range(size.runs), 0)
    moments = 0
    for _, lines in history.moments():
        columns.add(moments, lines)
        moments += 1
        for number, run in enumerate(history.fleet.runs):
            lived[number] += run.stage != "over"
    history.fleet.close()
    with tempfile.NamedTemporaryFile("w", suffix=".test.yml") as file:
        _write_test(file, files, columns, moments)
        fired = _ask(file.name)
    return Days(
        seed,
        size.ranks,
        size.nodes,
        size.runs,
        hours,
        sum(lived.values()) * INTERVAL_SECONDS / DAY_SECONDS,
        len(columns),
        round(time.monotonic() - begun, 1),
        fired,
        [injection.as_json() for injection in history.injections],
    )


def _write_test(file: TextIO, files: Sequence[Path], columns: Columns, moments: int) -> None:
    head = {
        "rule_files": [str(path) for path in files],
        "evaluation_interval": f"{EVALUATION_SECONDS:.0f}s",
        "group_eval_order": group_order(files),
    }
    yaml.safe_dump(head, file)
    file.write(f"tests:\n- interval: {INTERVAL_SECONDS:.0f}s\n  input_series:\n")
    file.writelines(map(_row, columns.texts(moments)))
    end = int((moments - 1) * INTERVAL_SECONDS // EVALUATION_SECONDS * EVALUATION_SECONDS)
    questions = [
        f'count_over_time(ALERTS{{alertstate="firing"}}[{end + 60}s])',
        f'min_over_time(timestamp(ALERTS{{alertstate="firing"}})[{end + 60}s:{EVALUATION_SECONDS:.0f}s])',
    ]
    yaml_questions = [{"expr": question, "eval_time": f"{end}s"} for question in questions]
    file.write("  promql_expr_test: " + json.dumps(yaml_questions) + "\n")
    file.flush()


def _row(series: tuple[str, str]) -> str:
    name, values = series
    return f"  - series: '{name}'\n    values: '{values}'\n"


def _ask(path: str) -> list[Fired]:
    promtool = stack.find("promtool")
    if promtool is None:
        raise FileNotFoundError("promtool")
    done = subprocess.run([promtool, "test", "rules", path], capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    if "SUCCESS" not in output and "expr:" not in output:
        raise RuntimeError(output[-4000:])
    return list(fired_in(output))


def fired_in(output: str) -> Iterator[Fired]:
    """What promtool says that it got, where it was told to expect nothing."""
    counts: dict[str, float] = {}
    firsts: dict[str, float] = {}
    for part in output.split("expr: ")[1:]:
        if "got:" not in part:  # a rule could not be evaluated, which is worse than any alert
            raise RuntimeError(output[:4000])
        into = counts if part.startswith('"count') else firsts
        got = part.split("got:")[1]
        for labels, value in _FOUND.findall(got):
            into[labels] = float(value)
    for text, count in counts.items():
        labels = dict(re.findall(r'(\w+)="([^"]*)"', text))
        labels.pop("alertstate")
        yield Fired(
            labels.pop("alertname"),
            labels.get("severity", ""),
            labels,
            firsts.get(text, math.nan),
            count * EVALUATION_SECONDS,
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fleets", type=int, default=4)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("history.jsonl"))
    options = parser.parse_args()
    for seed in range(options.seed, options.seed + options.fleets):
        days = judge_fleet(*fleet_of(seed, options.runs), options.hours)
        with options.out.open("a") as file:
            file.write(json.dumps(asdict(days)) + "\n")
        print(f"seed {seed}: {days.ranks} ranks, {days.run_days:.2f} run-days in {days.seconds:.0f} s")
        for each in days.fired:
            print(f"  {each.severity} {each.alert} {each.labels}: from {each.first:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
