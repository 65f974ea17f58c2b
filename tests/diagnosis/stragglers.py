"""One slow rank in a real job, and whether the shipped rules name it.

`inject` trains real processes over gloo, makes ranks slow, records what the exporter would serve at each
scrape, and has promtool evaluate the shipped recording rules over that. Scrapes lie 15 s apart for the rules;
the job runs faster than that by `haste`, which the rules cannot tell: what they compare is own time a step.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from tests.diagnosis.straggler_rank import Job
from tools import stack
from trainbeacon.blackbox.directory import open_directory
from trainbeacon.blackbox.reader import BoxDirectory
from trainbeacon.collectors.base import Families
from trainbeacon.collectors.ranks import RanksCollector
from trainbeacon.demo.launch import Ranks

REPOSITORY = Path(__file__).resolve().parents[2]
RULES = [REPOSITORY / f"prometheus/rules/recording/{name}.yml" for name in ("identity", "stragglers")]
NAMED = "run_rank_cause:training_straggler:ratio"
SCRAPE_SECONDS = 15
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
)
#: A series and its value, as promtool shows what it found.
_SAMPLE = re.compile(r"\{([^{}]*)\} ([-+.\deE]+)")

Key = tuple[str, tuple[tuple[str, str], ...]]
Named = tuple[int, str]


@dataclass(frozen=True)
class Outcome:
    """What the rules said.

    Attributes:
        verdict: `right` (the victims, each with its cause, and nobody else), `wrong` or `missed`; of a job
            that nobody slows, `right` if nobody is named.
        seconds: from the fault to the name, at scrapes 15 s apart.
        named: every rank that was ever named, and as what.
        share_lost: the value of the last evaluation, by rank.
    """

    job: Job
    world_size: int
    verdict: str
    seconds: float | None
    named: tuple[Named, ...]
    share_lost: dict[int, float]


def inject(
    place: str,
    share: float,
    strategy: str = "ddp",
    world_size: int = 3,
    victims: Sequence[int] = (1,),
    seed: int = 0,
    *,
    micro_batches: int = 1,
    haste: float = 30,
    healthy_scrapes: int = 9,
    slow_scrapes: int = 10,
) -> Outcome:
    """Run one job with a fault and judge what the rules made of it.

    Args:
        place: data, forward, backward, optimizer or host.
        share: how much of a step the victims sleep longer; 0 for a healthy job.
        strategy: see `Job`.
        world_size: processes.
        victims: the slow ranks; all of them, and nobody should be named.
        seed: of the weights.
        micro_batches: batches accumulated into a step.
        haste: seconds of the rules' time a second of the job's.
        healthy_scrapes: before the fault.
        slow_scrapes: from the fault on.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        folder.chmod(0o700)
        job = Job(scratch, strategy, place, share, tuple(victims), micro_batches, seed)
        ranks = Ranks(world_size, [json.dumps(asdict(job))], folder, module="tests.diagnosis.straggler_rank")
        with ranks, _scraper(folder) as scraper:
            _wait_for_steps(scraper, world_size, folder)
            scrapes = _record(scraper, healthy_scrapes, haste)
            (folder / "slow").touch()
            scrapes += _record(scraper, slow_scrapes, haste)
    names = evaluate(scrapes)
    return _judge(job, world_size, names, healthy_scrapes)


@contextmanager
def _scraper(folder: Path) -> Iterator[RanksCollector]:
    descriptor = open_directory(str(folder))
    try:
        yield RanksCollector(BoxDirectory(descriptor), linger_seconds=60)
    finally:
        os.close(descriptor)


def _scrape(collector: RanksCollector) -> dict[Key, float]:
    families = Families()
    collector.collect(families)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        if family.name.removesuffix("_total") in {name.removesuffix("_total") for name in METRICS}
        for sample in family.samples
        if not sample.name.endswith(("_bucket", "_created"))
    }


def _wait_for_steps(collector: RanksCollector, world_size: int, folder: Path) -> None:
    """Until every rank has made ten steps."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        steps = [value for (name, _), value in _scrape(collector).items() if name == "training_steps_total"]
        if len(steps) == world_size and min(steps) >= 10:
            return
        time.sleep(0.05)
    logs = "\n".join(path.read_text()[-2000:] for path in folder.glob("rank*.log"))
    raise TimeoutError(f"the ranks made no steps:\n{logs}")


def _record(collector: RanksCollector, count: int, haste: float) -> list[dict[Key, float]]:
    scrapes = []
    due = time.monotonic()
    for _ in range(count):
        due += SCRAPE_SECONDS / haste
        time.sleep(max(0.0, due - time.monotonic()))  # the interval of the scrapes, not a wait for something
        scrapes.append(_scrape(collector))
    return scrapes


def evaluate(scrapes: Sequence[dict[Key, float]]) -> list[dict[Named, float]]:
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
            [promtool, "test", "rules", file.name], capture_output=True, text=True, timeout=60, check=False
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


def _judge(job: Job, world_size: int, names: Sequence[dict[Named, float]], healthy: int) -> Outcome:
    ever = {each for names_then in names for each in names_then}
    slow = job.share > 0 and len(job.victims) < world_size
    truth = {(rank, CAUSES[job.place]) for rank in job.victims} if slow else set()
    first = next((number for number, then in enumerate(names) if truth and set(then) >= truth), None)
    if ever - truth or (first is not None and first < healthy):
        verdict = "wrong"
    else:
        verdict = "right" if first is not None or not truth else "missed"
    seconds = None if first is None else float((first - healthy + 1) * SCRAPE_SECONDS)
    lost = {rank: value for (rank, _), value in names[-1].items()}
    return Outcome(job, world_size, verdict, seconds, tuple(sorted(ever)), lost)


def campaign(count: int, seed: int, haste: float) -> list[Outcome]:
    """Faults drawn at random: place, share, strategy, victim, accumulation; one in six jobs is healthy."""
    draw = random.Random(seed)
    outcomes = []
    for number in range(count):
        strategy = draw.choice(("ddp", "fsdp2", "plain"))
        places = ("data", "forward", "optimizer", "host") + (("backward",) if strategy == "fsdp2" else ())
        world_size = draw.choice((2, 3, 4))
        outcome = inject(
            draw.choice(places),
            0.0 if number % 6 == 5 else draw.choice((0.05, 0.1, 0.2, 0.5)),
            strategy,
            world_size,
            (draw.randrange(world_size),),
            seed + number,
            micro_batches=draw.choice((1, 2)),
            haste=haste,
        )
        outcomes.append(outcome)
        print(outcome.verdict, outcome.seconds, outcome.named, outcome.job, flush=True)
    return outcomes


def main() -> int:
    """`python -m tests.diagnosis.stragglers --count 30`: the rates, and 1 if anything was named wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--haste", type=float, default=30, help="1 for real time")
    options = parser.parse_args()
    outcomes = campaign(options.count, options.seed, options.haste)
    for share in sorted({outcome.job.share for outcome in outcomes}):
        chosen = [outcome for outcome in outcomes if outcome.job.share == share]
        verdicts = [outcome.verdict for outcome in chosen]
        seconds = sorted(outcome.seconds for outcome in chosen if outcome.seconds is not None)
        counts = {verdict: verdicts.count(verdict) for verdict in ("right", "wrong", "missed")}
        print(f"share {share:g}: {counts}, seconds {seconds}")
    return int(any(outcome.verdict == "wrong" for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
