"""One slow rank in a real job, and whether the shipped rules name it.

`inject_all` trains real processes over gloo, makes ranks slow, records what the exporter would serve at each
scrape, and has promtool evaluate the shipped recording rules over that. Scrapes lie 15 s apart for the rules;
the job runs faster than that by `haste`, which the rules cannot tell: what they compare is own time a step.

    python -m tests.diagnosis.stragglers --count 24 --haste 5 --step 0.2     rates over random faults
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import yaml

from tests.diagnosis.forked import running
from tests.diagnosis.straggler_rank import Job
from tools import stack
from trainbeacon.blackbox.directory import open_directory
from trainbeacon.blackbox.reader import BoxDirectory
from trainbeacon.exporter.collectors.base import Families
from trainbeacon.exporter.collectors.ranks import RanksCollector
from trainbeacon.stack.ports import free_port

REPOSITORY = Path(__file__).resolve().parents[2]
RULES = [REPOSITORY / f"prometheus/rules/recording/{name}.yml" for name in ("identity", "stragglers")]
NAMED = "run_rank_cause:training_straggler:ratio"
SCRAPE_SECONDS = 15
HEALTHY_SCRAPES, SLOW_SCRAPES = 9, 10
#: A scrape waits for that many steps of every rank, however busy the machine is.
LEAST_STEPS = 3
#: A rank whose own time is longer by so much is to be named; one that is less slow may be.
CERTAIN = 0.1
CAUSES = {
    "data": "data_wait",
    "forward": "forward",
    "backward": "backward",
    "optimizer": "optimizer",
    "host": "host",
}
METRICS = (
    "training_self_seconds_total",
    "training_steps_total",
    "training_step_duration_seconds",
    "training_phase_seconds_total",
    "training_rank_info",
    "training_start_timestamp_seconds",
)
#: A series and its value, as promtool shows what it found.
_SAMPLE = re.compile(r"\{([^{}]*)\} ([-+.\deE]+)")

Key = tuple[str, tuple[tuple[str, str], ...]]
Named = tuple[int, str]


@dataclass(frozen=True)
class Injection:
    """One job and its fault.

    Attributes:
        place: data, forward, backward, optimizer or host.
        share: how much of a step the victims sleep longer; 0 for a healthy job.
        strategy: see `Job`.
        world_size: processes.
        victims: the slow ranks; all of them, and nobody should be named.
        micro_batches: batches accumulated into a step.
        step_seconds: what a step sleeps.
        seed: of the weights.
    """

    place: str
    share: float
    strategy: str = "ddp"
    world_size: int = 3
    victims: tuple[int, ...] = (1,)
    micro_batches: int = 1
    step_seconds: float = 0.04
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """What the rules said.

    Attributes:
        verdict: `right` (the victims, each with its cause, and nobody else), `wrong` or `missed` (if it is
            too little slower to be certain: `unnamed`); of a job that nobody slows, `right` names nobody.
        slower: how much longer than its peers' the own time of a victim is, by what theirs was before.
        seconds: from the fault to the name, at scrapes 15 s apart.
        named: every rank that was ever named, and as what, with the number of the scrapes at which it was.
        share_lost: the value of the last evaluation, by rank.
        scrapes: what the rules were given.
    """

    injection: Injection
    verdict: str
    slower: float
    seconds: float | None
    named: Mapping[Named, int]
    share_lost: Mapping[int, float]
    scrapes: Sequence[Mapping[Key, float]] = field(default=(), repr=False)


@dataclass
class _Run:
    """An injection under way."""

    injection: Injection
    folder: Path
    collector: RanksCollector
    scrapes: list[dict[Key, float]] = field(default_factory=list)

    def scrape(self) -> dict[Key, float]:
        families = Families()
        self.collector.collect(families)
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in families
            if family.name.removesuffix("_total") in {name.removesuffix("_total") for name in METRICS}
            for sample in family.samples
            if not sample.name.endswith(("_bucket", "_created"))
        }

    def steps(self) -> float:
        """What the last of the ranks has made; 0 until all are there."""
        found = [value for (name, _), value in self.scrape().items() if name == "training_steps_total"]
        return min(found) if len(found) == self.injection.world_size else 0


def inject_all(
    injections: Sequence[Injection],
    *,
    haste: float = 30,
    healthy_scrapes: int = HEALTHY_SCRAPES,
    slow_scrapes: int = SLOW_SCRAPES,
) -> list[Outcome]:
    """Several jobs side by side, each with its own fault.

    Args:
        injections: the jobs.
        haste: seconds of the rules' time a second of the job's; 1 is real time. On a machine that is too slow
            for it the job's time is longer.
        healthy_scrapes: before the faults.
        slow_scrapes: from the faults on.
    """
    with tempfile.TemporaryDirectory() as scratch:
        runs = [_prepare(Path(scratch) / str(number), each) for number, each in enumerate(injections)]
        log = Path(scratch) / "log"
        with _ranks(runs, log):
            _wait_for_steps(runs, [3 * LEAST_STEPS] * len(runs), log)
            _record(runs, healthy_scrapes, haste, log)
            for run in runs:
                (run.folder / "slow").touch()
            _record(runs, slow_scrapes, haste, log)
        return [judge(run.injection, run.scrapes, healthy_scrapes) for run in runs]


def _prepare(folder: Path, injection: Injection) -> _Run:
    folder.mkdir(mode=0o700)
    boxes = BoxDirectory(open_directory(str(folder)))
    return _Run(injection, folder, RanksCollector(boxes, linger_seconds=60))


@contextlib.contextmanager
def _ranks(runs: Sequence[_Run], log: Path) -> Iterator[None]:
    jobs = [asdict(Job(folder=str(run.folder), port=free_port(), **asdict(run.injection))) for run in runs]
    with running("tests.diagnosis.straggler_rank", json.dumps(jobs), log):
        yield


def _wait_for_steps(runs: Sequence[_Run], least: Sequence[float], log: Path) -> None:
    end = time.monotonic() + 300
    while any(run.steps() < steps for run, steps in zip(runs, least, strict=True)):
        if time.monotonic() > end:
            raise TimeoutError(f"the ranks made no steps:\n{log.read_text()[-4000:]}")
        time.sleep(0.05)


def _record(runs: Sequence[_Run], count: int, haste: float, log: Path) -> None:
    due = time.monotonic()
    for _ in range(count):
        least = [run.steps() + LEAST_STEPS for run in runs]
        due = max(time.monotonic(), due + SCRAPE_SECONDS / haste)
        time.sleep(max(0.0, due - time.monotonic()))  # the interval of the scrapes, not a wait for something
        _wait_for_steps(runs, least, log)
        for run in runs:
            run.scrapes.append(run.scrape())


def evaluate(scrapes: Sequence[Mapping[Key, float]]) -> list[dict[Named, float]]:
    """What the shipped rules name at each scrape, by promtool."""
    promtool = stack.find("promtool")
    if promtool is None:
        raise FileNotFoundError("promtool")
    values: dict[Key, list[str]] = defaultdict(lambda: ["_"] * len(scrapes))
    for number, scrape in enumerate(scrapes):
        for key, value in scrape.items():
            values[key][number] = repr(value)
    text = {
        "rule_files": [str(rules) for rules in RULES],
        "evaluation_interval": f"{SCRAPE_SECONDS}s",
        "group_eval_order": ["trainbeacon-identity", "trainbeacon-stragglers"],
        "tests": [
            {
                "interval": f"{SCRAPE_SECONDS}s",
                "input_series": [
                    {"series": _as_text(key), "values": " ".join(row)} for key, row in values.items()
                ],
                "promql_expr_test": [
                    {"expr": f"{NAMED} + {number} * 0", "eval_time": f"{number * SCRAPE_SECONDS}s"}
                    for number in range(len(scrapes))
                ],
            }
        ],
    }
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        yaml.safe_dump(text, file)
        file.flush()
        done = subprocess.run(
            [promtool, "test", "rules", file.name], capture_output=True, text=True, timeout=300, check=False
        )
    return _named(done.stdout + done.stderr, len(scrapes))


def _as_text(key: Key) -> str:
    name, labels = key
    return name + "{" + ", ".join(f'{label}="{value}"' for label, value in labels) + "}"


def _named(output: str, count: int) -> list[dict[Named, float]]:
    found: list[dict[Named, float]] = [{} for _ in range(count)]
    if "FAILED" not in output and "SUCCESS" not in output:
        raise RuntimeError(output)
    for part in output.split("expr: ")[1:]:
        number = int(re.search(r"\+ (\d+) \* 0", part).group(1))  # type: ignore[union-attr]
        for labels, value in _SAMPLE.findall(part.split("got:")[1]):
            named = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            found[number][int(named["rank"]), named["cause"]] = float(value)
    return found


def judge(injection: Injection, scrapes: Sequence[Mapping[Key, float]], healthy_scrapes: int) -> Outcome:
    """What the rules make of a job's scrapes, of which the first few are without the fault."""
    names = evaluate(scrapes)
    ever = {each: sum(each in then for then in names) for then in names for each in then}
    slower = injection.share * injection.step_seconds / _own_seconds(scrapes[:healthy_scrapes])
    slow = injection.share > 0 and len(injection.victims) < injection.world_size
    truth = {(rank, CAUSES[injection.place]) for rank in injection.victims} if slow else set()
    first = next((number for number, then in enumerate(names) if truth and set(then) >= truth), None)
    if ever.keys() - truth or (first is not None and first < healthy_scrapes):
        verdict = "wrong"
    elif first is not None or not truth:
        verdict = "right"
    else:
        verdict = "missed" if slower >= CERTAIN else "unnamed"
    seconds = None if first is None else float((first - healthy_scrapes + 1) * SCRAPE_SECONDS)
    lost = {rank: value for (rank, _), value in names[-1].items()}
    return Outcome(injection, verdict, slower, seconds, ever, lost, scrapes)


def _own_seconds(scrapes: Sequence[Mapping[Key, float]]) -> float:
    """A rank's own time for a step: the median of the ranks."""
    found: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for (name, labels), value in scrapes[-1].items():
        found[dict(labels)["rank"]][name] += value - scrapes[0].get((name, labels), 0.0)
    return median(
        rank["training_self_seconds_total"] / rank["training_steps_total"] for rank in found.values()
    )


# Many


def draw(count: int, seed: int, step_seconds: float) -> list[Injection]:
    """Faults with random places, shares, strategies, sizes and victims; one job in six has none."""
    dice = random.Random(seed)
    found = []
    for number in range(count):
        strategy = dice.choice(("ddp", "fsdp2", "plain", "pipeline2", "pipeline4"))
        piped = strategy.startswith("pipeline")
        world_size = 2 * int(strategy[-1]) if piped else dice.choice((2, 3, 4))
        micro_batches = 4 if piped else dice.choice((1, 2))
        found.append(
            Injection(
                dice.choice([*CAUSES]),
                0.0 if number % 6 == 5 else dice.choice((0.05, 0.12, 0.25, 0.5)),
                strategy,
                world_size,
                (dice.randrange(world_size),),
                micro_batches,
                step_seconds,
                seed + number,
            )
        )
    return found


def _line(outcome: Outcome, haste: float) -> str:
    named = [[rank, cause, times] for (rank, cause), times in outcome.named.items()]
    found = {
        "verdict": outcome.verdict,
        "slower": round(outcome.slower, 3),
        "seconds": outcome.seconds,
        "named": named,
        "share_lost": outcome.share_lost,
    }
    return json.dumps(
        {**found, **asdict(outcome.injection), "haste": haste, "load": round(os.getloadavg()[0], 1)}
    )


def _rates(outcomes: Sequence[Outcome]) -> Iterator[str]:
    groups: dict[tuple[str, float], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        groups[outcome.injection.strategy, outcome.injection.share].append(outcome)
    for (strategy, share), chosen in sorted(groups.items()):
        verdicts = [outcome.verdict for outcome in chosen]
        counts = {verdict: verdicts.count(verdict) for verdict in sorted(set(verdicts))}
        seconds = sorted(outcome.seconds for outcome in chosen if outcome.seconds is not None)
        yield f"{strategy}, share {share:g}: {counts}, seconds {seconds}"


def main() -> int:
    """Print every outcome and the rates; 1 if anything was named wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--haste", type=float, default=30, help="1 for real time")
    parser.add_argument("--step", type=float, default=0.04, help="seconds that a step sleeps")
    parser.add_argument("--at-once", type=int, default=1, help="jobs side by side")
    parser.add_argument("--results", type=Path, help="file that a line of JSON is added to for each job")
    options = parser.parse_args()
    injections = draw(options.count, options.seed, options.step)
    outcomes: list[Outcome] = []
    for first in range(0, len(injections), options.at_once):
        for outcome in inject_all(injections[first : first + options.at_once], haste=options.haste):
            outcomes.append(outcome)
            line = _line(outcome, options.haste)
            print(line, flush=True)
            if options.results:
                with options.results.open("a") as file:
                    file.write(line + "\n")
    print(*_rates(outcomes), sep="\n")
    return int(any(outcome.verdict == "wrong" for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
