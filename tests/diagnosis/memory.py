"""A leak in a real process, and whether the shipped rules name the rank before its node is full.

`inject_all` trains real processes over gloo, makes ranks keep memory, scrapes the real exporter over HTTP,
and has promtool evaluate the shipped rules over what it served. The steps are the clock: the ranks are
scraped after every fifth, and wait for it; for the rules that is every 15 s, and the processes began 15 s
before the first. The memory is that of the processes, as the kernel counts it; the node is taken to be one
with nothing but this job on it, and with room for `ROOM_STEPS` of the leak, since no test should fill the
machine that it runs on.

    python -m tests.diagnosis.memory --count 12 --seed 1     rates over random sizes, victims and speeds
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.diagnosis.memory_rank import MIB, STEPS_OF_SCRAPE, Job
from tools import stack
from trainbeacon.stack.ports import free_port

REPOSITORY = Path(__file__).resolve().parents[2]
RULES = ("recording/identity", "recording/memory", "alerts/hardware")
GROWS = 'run_rank_kind:training_memory_growth_bytes:rate10m{kind="resident"}'
FULL = "run_rank:training_host_memory_full:seconds"
WARNS = 'ALERTS{alertname="TrainingHostMemoryNearlyFull",reason="growth",alertstate="firing"}'
QUESTIONS = (GROWS, FULL, WARNS)
SCRAPE_SECONDS = 15
#: Scrapes before the leak and after it: 8 and 19 minutes. No process is judged in its first 20.
HEALTHY_SCRAPES, LEAKY_SCRAPES = 32, 76
#: 80 minutes.
ROOM_STEPS = 1600
RESIDENT, START = "training_process_resident_memory_bytes", "training_start_timestamp_seconds"
STEPS = "training_steps_total"
METRICS = (RESIDENT, START, STEPS, "training_rank_info", "training_run_info", "training_state")

Key = tuple[str, tuple[tuple[str, str], ...]]
Scrape = dict[Key, float]


@dataclass(frozen=True)
class Injection:
    """One job and its leak.

    Attributes:
        world_size: processes.
        victims: the ranks that leak; none in a healthy job.
        mib_per_step: what they keep.
        seed: of the sizes of the batches.
    """

    world_size: int = 3
    victims: tuple[int, ...] = (1,)
    mib_per_step: float = 0.5
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """What the rules said.

    Attributes:
        verdict: `right` (the victims and nobody else), `wrong` or `missed`.
        grows: every rank that was ever said to grow.
        seconds: of the rules' time, from the leak until every victim was said to grow.
        warned: every rank that the alert ever fired for.
        warned_seconds: likewise, from the leak to the alert.
        mib_per_step: what the rules say that the first victim grows by, at the last time that they do.
        resident_mib_per_step: what the victims' processes grew by since the leak began, as the kernel counts
            it: what they keep, and the pieces between.
        seconds_left: when the node will be full, likewise.
    """

    injection: Injection
    verdict: str
    grows: tuple[int, ...]
    seconds: float | None
    warned: tuple[int, ...]
    warned_seconds: float | None
    mib_per_step: float | None
    resident_mib_per_step: float
    seconds_left: float | None


@dataclass
class _Run:
    """An injection under way."""

    injection: Injection
    folder: Path
    port: int
    scrapes: list[Scrape] = field(default_factory=list)

    def scrape(self) -> Scrape:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=120) as answer:
            text = answer.read().decode()
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name in METRICS
        }

    def poll(self) -> int:
        """Take the next scrape if it is due. Returns how many there are."""
        try:
            scrape = self.scrape()
        except OSError:  # the exporter does not listen yet
            return 0
        steps = [value for (name, _), value in scrape.items() if name == STEPS]
        due = STEPS_OF_SCRAPE * (len(self.scrapes) + 1)
        if len(steps) == self.injection.world_size and min(steps) >= due:
            self.scrapes.append(scrape)
            (self.folder / f"scraped{len(self.scrapes)}").touch()
        return len(self.scrapes)


def inject_all(injections: Sequence[Injection]) -> list[Outcome]:
    """Several jobs side by side, each with its own leak."""
    with tempfile.TemporaryDirectory() as scratch:
        runs = [_prepare(Path(scratch) / str(number), each) for number, each in enumerate(injections)]
        log = Path(scratch) / "log"
        with _processes(runs, log):
            _record(runs, HEALTHY_SCRAPES, log)
            for run in runs:
                (run.folder / "leak").touch()
            _record(runs, HEALTHY_SCRAPES + LEAKY_SCRAPES, log)
        return [_judge(run) for run in runs]


def _prepare(folder: Path, injection: Injection) -> _Run:
    folder.mkdir(mode=0o700)
    return _Run(injection, folder, free_port())


@contextlib.contextmanager
def _processes(runs: Sequence[_Run], log: Path) -> Iterator[None]:
    """The ranks of all jobs, and an exporter for each job."""
    jobs = [asdict(Job(folder=str(run.folder), port=free_port(), **asdict(run.injection))) for run in runs]
    commands = [["tests.diagnosis.memory_rank", json.dumps(jobs)]] + [
        [
            "trainbeacon",
            "agent",
            "--directory",
            str(run.folder),
            "--host",
            "127.0.0.1",
            "--port",
            str(run.port),
        ]
        for run in runs
    ]
    # By itself glibc keeps what batches of random sizes give back, and the largest so far takes more than the
    # one before: for some minutes that can look like a leak of a process that has none.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": str(128 << 10)}
    with log.open("w") as file, contextlib.ExitStack() as ends:
        for command in commands:
            # A session of its own, so that all the ranks can be ended.
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                stdout=file,
                stderr=file,
                cwd=REPOSITORY,
                env=environment,
                start_new_session=True,
            )
            ends.callback(process.wait, 10)
            ends.callback(os.killpg, process.pid, signal.SIGKILL)
        yield


def _record(runs: Sequence[_Run], until: int, log: Path) -> None:
    """Scrape the jobs until all of them are so far."""
    end = time.monotonic() + 300
    waiting = [*runs]
    while waiting := [run for run in waiting if len(run.scrapes) < until and run.poll() < until]:
        if time.monotonic() > end:
            raise TimeoutError(f"too few steps:\n{log.read_text()[-4000:]}")
        time.sleep(0.02)


# What the rules say


def _judge(run: _Run) -> Outcome:
    answers = evaluate(_rows(run))
    victims = set(run.injection.victims)
    grows = {rank for then in answers[GROWS] for rank in then}
    warned = {rank for then in answers[WARNS] for rank in then}
    first, alert = _first(answers[GROWS], victims), _first(answers[WARNS], victims)
    if (grows | warned) - victims:
        verdict = "wrong"
    else:
        verdict = "right" if not victims or (first is not None and alert is not None) else "missed"
    rate = _last(answers[GROWS], victims)
    return Outcome(
        run.injection,
        verdict,
        tuple(sorted(grows)),
        _seconds(first),
        tuple(sorted(warned)),
        _seconds(alert),
        None if rate is None else rate * SCRAPE_SECONDS / STEPS_OF_SCRAPE / MIB,
        _growth(run) / MIB,
        _last(answers[FULL], victims),
    )


def _growth(run: _Run) -> float:
    """Bytes a step that the victims' processes, or all of a healthy job, have grown since the leak began."""
    victims = {str(rank) for rank in run.injection.victims}
    now, then = (
        [
            value
            for (name, labels), value in scrape.items()
            if name == RESIDENT and (not victims or dict(labels)["rank"] in victims)
        ]
        for scrape in (run.scrapes[-1], run.scrapes[HEALTHY_SCRAPES])
    )
    return (sum(now) - sum(then)) / (LEAKY_SCRAPES * STEPS_OF_SCRAPE)


def _last(answers: Sequence[Mapping[int, float]], victims: set[int]) -> float | None:
    return next((then[rank] for then in reversed(answers) for rank in then if rank in victims), None)


def _first(answers: Sequence[Mapping[int, float]], victims: set[int]) -> int | None:
    return next((number for number, then in enumerate(answers) if victims and set(then) >= victims), None)


def _seconds(number: int | None) -> float | None:
    return None if number is None else float((number - HEALTHY_SCRAPES + 1) * SCRAPE_SECONDS)


def _rows(run: _Run) -> list[Scrape]:
    """The scrapes in the rules' time, with the node as it is taken to be."""
    total = _resident(run.scrapes[0]) + ROOM_STEPS * run.injection.mib_per_step * MIB
    return [
        {key: -SCRAPE_SECONDS if key[0] == START else value for key, value in scrape.items()}
        | {("training_host_memory_used_bytes", ()): _resident(scrape)}
        | {("training_host_memory_total_bytes", ()): total}
        for scrape in run.scrapes
    ]


def _resident(scrape: Scrape) -> float:
    return sum(value for (name, _), value in scrape.items() if name == RESIDENT)


def evaluate(rows: Sequence[Scrape]) -> dict[str, list[dict[int, float]]]:
    """By question and scrape: the ranks that the shipped rules tell of, by promtool."""
    promtool = stack.find("promtool")
    if promtool is None:
        raise FileNotFoundError("promtool")
    values: dict[Key, list[str]] = defaultdict(lambda: ["_"] * len(rows))
    for number, row in enumerate(rows):
        for key, value in row.items():
            values[key][number] = repr(value)
    asked = [(question, number) for number in range(len(rows)) for question in QUESTIONS]
    document = {
        "rule_files": [str(REPOSITORY / f"prometheus/rules/{name}.yml") for name in RULES],
        "evaluation_interval": f"{SCRAPE_SECONDS}s",
        "group_eval_order": ["trainbeacon-identity", "trainbeacon-memory", "trainbeacon-hardware"],
        "tests": [
            {
                "interval": f"{SCRAPE_SECONDS}s",
                "input_series": [
                    {"series": _as_text(key), "values": " ".join(row)} for key, row in values.items()
                ],
                "promql_expr_test": [
                    {"expr": f"{question} + {number} * 0", "eval_time": f"{number * SCRAPE_SECONDS}s"}
                    for question, number in asked
                ],
            }
        ],
    }
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        yaml.safe_dump(document, file)
        file.flush()
        done = subprocess.run(
            [promtool, "test", "rules", file.name], capture_output=True, text=True, timeout=300, check=False
        )
    return _answers(done.stdout + done.stderr, len(rows))


def _as_text(key: Key) -> str:
    name, labels = key
    named = ("instance", "node:1"), *labels
    return name + "{" + ", ".join(f"{label}={json.dumps(value)}" for label, value in named) + "}"


def _answers(output: str, count: int) -> dict[str, list[dict[int, float]]]:
    """What promtool says that it got, where it was told to expect nothing."""
    if "FAILED" not in output and "SUCCESS" not in output:
        raise RuntimeError(output)
    found: dict[str, list[dict[int, float]]] = {
        question: [{} for _ in range(count)] for question in QUESTIONS
    }
    for part in output.split("expr: ")[1:]:
        asked = re.match(r'"(.*) \+ (\d+) \* 0"', part)
        if asked is None:
            raise RuntimeError(part)
        question = asked.group(1).replace('\\"', '"')
        for labels, value in re.findall(r"\{([^{}]*)\} ([-+.\dE]+)", part.split("got:")[1]):
            rank = re.search(r'\brank="(\d+)"', labels)
            found[question][int(asked.group(2))][int(rank.group(1)) if rank else -1] = float(value)
    return found


# Many


def draw(count: int, seed: int) -> list[Injection]:
    """Leaks with random sizes, victims and speeds; one job in six has none."""
    dice = random.Random(seed)
    found = []
    for number in range(count):
        world_size = dice.choice((2, 3, 4))
        victims = () if number % 6 == 5 else (dice.randrange(world_size),)
        found.append(Injection(world_size, victims, dice.choice((0.25, 0.5, 1.0)), seed + number))
    return found


def main() -> int:
    """Print every outcome and the rates; 1 if anybody was named wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=2, help="jobs side by side")
    parser.add_argument("--results", type=Path, help="file that a line of JSON is added to for each job")
    options = parser.parse_args()
    injections, outcomes = draw(options.count, options.seed), list[Outcome]()
    for first in range(0, len(injections), options.at_once):
        for outcome in inject_all(injections[first : first + options.at_once]):
            outcomes.append(outcome)
            line = json.dumps({**asdict(outcome), "load": round(os.getloadavg()[0], 1)})
            print(line, flush=True)
            if options.results:
                with options.results.open("a") as file:
                    file.write(line + "\n")
    verdicts = [outcome.verdict for outcome in outcomes]
    print({verdict: verdicts.count(verdict) for verdict in ("right", "wrong", "missed")})
    for name in ("seconds", "warned_seconds"):
        print(name, sorted(each for outcome in outcomes if (each := getattr(outcome, name)) is not None))
    return int("wrong" in verdicts)


if __name__ == "__main__":
    sys.exit(main())
