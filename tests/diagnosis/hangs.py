"""A hang injected into a real job, and what the shipped rules and the evidence files make of it.

`inject` trains real processes over gloo, makes one of them hang, records what the exporter would serve at
each scrape, and has promtool evaluate the shipped rules over that. The rules are told that a second was
`haste` seconds, in the times of the samples and in the timestamps among their values.

    python -m tests.diagnosis.hangs --count 30 --seed 1     rates over random kinds, sizes and victims
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
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.diagnosis.forked import running
from tests.diagnosis.hang_rank import Job
from tools import stack
from trainbeacon.blackbox.directory import open_directory
from trainbeacon.blackbox.reader import BoxDirectory
from trainbeacon.exporter.collectors.base import Families
from trainbeacon.exporter.collectors.ranks import RanksCollector
from trainbeacon.recorder.hangs import store
from trainbeacon.stack.ports import free_port

REPOSITORY = Path(__file__).resolve().parents[2]
RULES = (
    "recording/identity",
    "recording/learning",
    "recording/collectives",
    "recording/failures",
    "alerts/progress",
    "alerts/life",
    "alerts/health",
)
SCRAPE_SECONDS = 5
HEALTHY_SCRAPES = 6
SUSPECT, CLASS = "run_rank:training_suspect:reason", "run:training_hang:class"
PAGE = "count(ALERTS{severity='critical',alertstate='firing'})"
#: What each kind is, as the number of `run:training_hang:class`.
CLASS_OF = {
    "skipped": 2,
    "mismatched": 5,
    "stopped": 1,
    "killed": 1,
    "worker": 3,
    "checkpoint": 4,
    "interpreter": 1,
}
KINDS = tuple(CLASS_OF)
#: Kinds after which somebody lives on to keep evidence, and what the evidence then calls it.
EVIDENCE_OF = {
    "skipped": "rank_missing",
    "mismatched": "collectives_mismatched",
    "stopped": "rank_lost",
    "worker": "input_stuck",
    "checkpoint": "checkpoint_stuck",
    "interpreter": "rank_lost",
}

Key = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True)
class Injection:
    """One job and its fault; `healthy` has none."""

    kind: str
    world_size: int = 3
    victim: int = 1
    extra_groups: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What the rules said of one injection.

    Attributes:
        verdict: `right` (the victim and nobody else, and the class), `wrong` or `missed`. Of collectives that
            do not match, counts cannot tell who is right: the class is, and nobody is named.
        seconds: of the rules' time, from the fault to the name (or the class, where nobody can be named).
        paged: likewise, to the first alert that wakes somebody; None where there is none.
        named: every rank that was ever a suspect, with the last reason.
        hang_class: the number that `run:training_hang:class` ended with.
        evidence: by rank, the class that its file says.
        odd: ranks that are in another operation than the most, by the evidence files.
        open: by rank and group, the collectives that had begun and not ended at the last scrape.
        held: by rank, the stacks that the timer wrote while its interpreter was held.
    """

    injection: Injection
    verdict: str
    seconds: float | None
    paged: float | None
    named: Mapping[int, int]
    hang_class: int | None
    evidence: Mapping[int, str] = field(default_factory=dict)
    odd: tuple[int, ...] = ()
    open: Mapping[tuple[int, str], int] = field(default_factory=dict)
    held: Mapping[int, str] = field(default_factory=dict)


@dataclass
class _Run:
    """An injection under way."""

    injection: Injection
    folder: Path
    collector: RanksCollector
    scrapes: list[tuple[float, dict[Key, float]]] = field(default_factory=list)

    def scrape(self) -> dict[Key, float]:
        families = Families()
        self.collector.collect(families)
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in families
            for sample in family.samples
            if not sample.name.endswith(("_bucket", "_created"))
        }

    def moves(self) -> bool:
        """Whether every rank has made ten steps."""
        found = [value for (name, _), value in self.scrape().items() if name == "training_steps_total"]
        return len(found) == self.injection.world_size and min(found) >= 10

    def begin_fault(self) -> None:
        (self.folder / "fault").touch()
        kind, pid = self.injection.kind, self.pid(self.injection.victim)
        if kind in ("stopped", "killed"):
            os.kill(pid, signal.SIGSTOP if kind == "stopped" else signal.SIGKILL)

    def pid(self, rank: int) -> int:
        return next(box.identity.pid for box in self.collector.served() if box.identity.rank == rank)


def inject(injection: Injection, *, haste: float = 10, seconds: float = 130) -> Outcome:
    """Run one job with its fault and judge what the rules made of it; see `inject_all`."""
    return inject_all([injection], haste=haste, seconds=seconds)[0]


def inject_all(injections: Sequence[Injection], *, haste: float = 10, seconds: float = 130) -> list[Outcome]:
    """Several jobs side by side, each with its own fault.

    Args:
        injections: the jobs.
        haste: seconds of the rules' time a second; 1 is real time.
        seconds: of the rules' time, from the fault to the last scrape.
    """
    with tempfile.TemporaryDirectory() as scratch:
        runs = [_prepare(Path(scratch) / str(number), each) for number, each in enumerate(injections)]
        with _ranks(runs, Path(scratch) / "log", haste):
            _wait_until_all_move(runs, Path(scratch) / "log")
            _record(runs, HEALTHY_SCRAPES, haste)
            for run in runs:
                run.begin_fault()
            _record(runs, int(seconds / SCRAPE_SECONDS), haste)
        return [_judge(run, haste) for run in runs]


def _prepare(folder: Path, injection: Injection) -> _Run:
    folder.mkdir(mode=0o700)
    boxes = BoxDirectory(open_directory(str(folder)))
    return _Run(injection, folder, RanksCollector(boxes, linger_seconds=600))


@contextlib.contextmanager
def _ranks(runs: Sequence[_Run], log: Path, haste: float) -> Iterator[None]:
    jobs = [
        Job(
            run.injection.kind,
            run.injection.world_size,
            run.injection.victim,
            str(run.folder),
            free_port(),
            haste,
            run.injection.extra_groups,
        )
        for run in runs
    ]
    with running("tests.diagnosis.hang_rank", json.dumps([asdict(job) for job in jobs]), log):
        yield


def _wait_until_all_move(runs: Sequence[_Run], log: Path) -> None:
    end = time.monotonic() + 90
    while not all(run.moves() for run in runs):
        if time.monotonic() > end:
            raise TimeoutError(f"the ranks made no steps:\n{log.read_text()[-4000:]}")
        time.sleep(0.1)


def _record(runs: Sequence[_Run], count: int, haste: float) -> None:
    due = time.monotonic()
    for _ in range(count):
        due += SCRAPE_SECONDS / haste
        time.sleep(max(0.0, due - time.monotonic()))  # the interval of the scrapes, not a wait for something
        for run in runs:
            run.scrapes.append((time.time(), run.scrape()))


# What the rules say


def _judge(run: _Run, haste: float) -> Outcome:
    suspects, classes, pages = evaluate(run.scrapes, haste)
    injection = run.injection
    last = {rank: reason for then in suspects for rank, reason in then.items()}
    hang_class = next((then for then in reversed(classes) if then is not None), None)
    expected = {injection.victim} if injection.kind not in ("healthy", "mismatched") else set()
    if expected:
        first = next((number for number, then in enumerate(suspects) if set(then) == expected), None)
    else:
        first = next((number for number, then in enumerate(classes) if then is not None), None)
    if set(last) - expected or hang_class not in (None, CLASS_OF.get(injection.kind)):
        verdict = "wrong"
    elif injection.kind == "healthy":
        verdict = "right"
    else:
        verdict = "right" if first is not None and hang_class is not None else "missed"
    page = next((number for number, then in enumerate(pages) if then), None)
    documents = store.read(str(run.folder / "evidence"))
    evidence = {int(document["rank"]): str(document["class"]) for document in documents}
    held = _held(run.folder / "evidence")
    return Outcome(
        injection,
        verdict,
        _after_fault(first),
        _after_fault(page),
        last,
        hang_class,
        evidence,
        _odd(documents),
        _open(run.scrapes[-1][1]),
        held,
    )


def _after_fault(scrape: int | None) -> float | None:
    """Seconds of the rules' time from the fault to a scrape of that number."""
    return None if scrape is None else float((scrape - HEALTHY_SCRAPES + 1) * SCRAPE_SECONDS)


def _open(scrape: Mapping[Key, float]) -> dict[tuple[int, str], int]:
    found = {}
    for (name, labels), enqueued in scrape.items():
        if name == "training_collectives_enqueued_total":
            completed = scrape["training_collectives_completed_total", labels]
            named = dict(labels)
            found[int(named["rank"]), named["group"]] = int(enqueued - completed)
    return found


def _held(folder: Path) -> dict[int, str]:
    texts = {int(path.name.split(".")[1]): path.read_text() for path in folder.glob(f"*{store.HELD_SUFFIX}")}
    return {rank: text for rank, text in texts.items() if text}


def _odd(documents: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
    """Ranks that are in another operation than the most of those that wait."""
    operations: dict[str, list[int]] = defaultdict(list)
    for document in documents:
        for waits in document["open"]:
            operations[waits["profiling_name"]].append(int(document["rank"]))
    most = max(map(len, operations.values()), default=0)
    return tuple(sorted(rank for ranks in operations.values() if len(ranks) < most for rank in ranks))


def evaluate(
    scrapes: Sequence[tuple[float, dict[Key, float]]], haste: float
) -> tuple[list[dict[int, int]], list[int | None], list[bool]]:
    """By scrape: the suspects with their reasons, the class, and whether somebody is paged.

    By promtool over the shipped rules.
    """
    promtool = stack.find("promtool")
    if promtool is None:
        raise FileNotFoundError("promtool")
    asked = (SUSPECT, CLASS, PAGE)
    questions = [f"{name} + {number} * 0" for number in range(len(scrapes)) for name in asked]
    document = {
        "rule_files": [str(REPOSITORY / f"prometheus/rules/{name}.yml") for name in RULES],
        "evaluation_interval": f"{SCRAPE_SECONDS}s",
        "group_eval_order": [
            f"trainbeacon-{group}"
            for group in (
                "identity",
                "learning-series",
                "collectives",
                "progress",
                "life",
                "failures",
                "health",
            )
        ],
        "tests": [
            {
                "interval": f"{SCRAPE_SECONDS}s",
                "input_series": list(_input(scrapes, haste)),
                "promql_expr_test": [
                    {"expr": question, "eval_time": f"{number // len(asked) * SCRAPE_SECONDS}s"}
                    for number, question in enumerate(questions)
                ],
            }
        ],
    }
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        yaml.safe_dump(document, file)
        file.flush()
        done = subprocess.run(
            [promtool, "test", "rules", file.name], capture_output=True, text=True, timeout=120, check=False
        )
    return _answers(done.stdout + done.stderr, len(scrapes))


def _input(scrapes: Sequence[tuple[float, dict[Key, float]]], haste: float) -> Iterator[dict[str, str]]:
    begun = scrapes[0][0]
    rows: dict[Key, list[str]] = defaultdict(lambda: ["_"] * len(scrapes))
    for number, (_, scrape) in enumerate(scrapes):
        for key, value in scrape.items():
            is_time = key[0].endswith("_timestamp_seconds")
            is_age = key[0] == "training_inactive_seconds"
            value = (value - begun) * haste if is_time else value * haste if is_age else value
            rows[key][number] = repr(value)
    for name in ("up", "scrape_samples_scraped"):  # what Prometheus itself writes with each scrape
        yield {"series": name, "values": f"1x{len(scrapes) - 1}"}
    for (name, labels), row in rows.items():
        named = ", ".join(f"{label}={json.dumps(value)}" for label, value in labels)
        yield {"series": f"{name}{{{named}}}", "values": " ".join(row).replace("nan", "NaN")}


def _answers(output: str, count: int) -> tuple[list[dict[int, int]], list[int | None], list[bool]]:
    """What promtool says that it got, where it was told to expect nothing."""
    if "FAILED" not in output and "SUCCESS" not in output:
        raise RuntimeError(output)
    suspects: list[dict[int, int]] = [{} for _ in range(count)]
    classes: list[int | None] = [None] * count
    pages = [False] * count
    for part in output.split("expr: ")[1:]:
        question = re.match(r'"(.+?) \+ (\d+) \* 0', part)
        if question is None:
            raise RuntimeError(part)
        number = int(question.group(2))
        for labels, value in re.findall(r"\{([^{}]*)\} ([-+.\dE]+)", part):
            if question.group(1) == CLASS:
                classes[number] = int(float(value))
            elif question.group(1) == PAGE:
                pages[number] = True
            else:
                rank = re.search(r'\brank="(\d+)"', labels)
                suspects[number][int(rank.group(1)) if rank else -1] = int(float(value))
    return suspects, classes, pages


# Many


def draw(count: int, seed: int) -> list[Injection]:
    """Injections with every kind in turn, and random sizes, victims and groups; one in eight is healthy."""
    dice = random.Random(seed)
    found = []
    for number in range(count):
        kind = (*KINDS, "healthy")[number % (len(KINDS) + 1)]
        world_size = dice.choice((2, 3, 4))
        pairs = ((0, 2), (1, 3)) if world_size == 4 and dice.random() < 0.5 else ()
        found.append(Injection(kind, world_size, dice.randrange(world_size), pairs))
    return found


def _line(outcome: Outcome) -> str:
    opened = {f"{rank} {group}": number for (rank, group), number in outcome.open.items()}
    return json.dumps(
        {**vars(outcome), "injection": asdict(outcome.injection), "open": opened, "held": [*outcome.held]}
    )


def main() -> int:
    """Print every outcome and the rates; 1 if anything was named wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--haste", type=float, default=10, help="1 for real time")
    parser.add_argument("--at-once", type=int, default=4, help="jobs side by side")
    options = parser.parse_args()
    injections = draw(options.count, options.seed)
    outcomes: list[Outcome] = []
    for first in range(0, len(injections), options.at_once):
        for outcome in inject_all(injections[first : first + options.at_once], haste=options.haste):
            outcomes.append(outcome)
            print(outcome.verdict, _line(outcome), flush=True)
    for kind in (*KINDS, "healthy"):
        chosen = [outcome for outcome in outcomes if outcome.injection.kind == kind]
        verdicts = [outcome.verdict for outcome in chosen]
        kept = sum(EVIDENCE_OF.get(kind) in outcome.evidence.values() for outcome in chosen)
        seconds = sorted(outcome.seconds for outcome in chosen if outcome.seconds is not None)
        pages = sorted(outcome.paged for outcome in chosen if outcome.paged is not None)
        counts = {verdict: verdicts.count(verdict) for verdict in ("right", "wrong", "missed")}
        print(f"{kind}: {counts}, evidence says so {kept}, seconds {seconds}, paged {pages}")
    return int(any(outcome.verdict == "wrong" for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
