"""What a change costs or saves: two checkouts of TrainBeacon measured in turns, in one run on one machine.

python -m benchmarks.before_after --before CHECKOUT [--after CHECKOUT] [--rounds 8] [--out FILE]

A checkout is a folder of this repository, such as `git worktree add ../before REVISION` makes. Each round
starts a process for either, in random order, which `benchmarks/step_worker.py` describes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measure import load, significant, summary, surroundings

HERE = Path(__file__).resolve().parent
#: What is measured, and what the figures are of.
MEASURES = {
    "more_than_plain_us": "a watched step with batches and log, more than a plain one",
    "calls_a_step": "functions of ours that are called in it",
    "log_of_ten_us": "`beacon.log` of 10 numbers",
    "import_ms": "import, processor time",
    "start_ms": "`start(serve='thread')`, processor time",
    "scrape_ms": "a scrape of one rank, by the clock",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, and keep the raw data."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.before_after", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--before", type=Path, required=True, metavar="CHECKOUT")
    parser.add_argument("--after", type=Path, default=HERE.parent, metavar="CHECKOUT")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--blocks", type=int, default=100, help="pairs of ten steps, plain and watched")
    parser.add_argument("--out", type=Path, help="a file for the raw data")
    given = parser.parse_args(arguments)
    for checkout in (given.before, given.after):
        if not (checkout / "exporter/trainbeacon").is_dir():
            parser.error(f"{checkout} is no checkout of TrainBeacon: it has no exporter/trainbeacon")
    results = measure({"before": given.before, "after": given.after}, given.rounds, given.blocks)
    print(table(results))
    if given.out is not None:
        given.out.write_text(json.dumps(results, indent=1) + "\n")
    return 0


def measure(checkouts: dict[str, Path], rounds: int, blocks: int) -> dict[str, Any]:
    """The figures of both, with what they were made of."""
    begun = load()
    raw: dict[str, list[dict[str, Any]]] = {name: [] for name in checkouts}
    for _ in range(rounds):
        for name in random.sample(list(checkouts), len(checkouts)):
            raw[name].append(_figures(checkouts[name], blocks))
    return {
        "surroundings": surroundings(),
        "load_average": [begun, load()],
        "revisions": {name: _revision(path) for name, path in checkouts.items()},
        "figures": {
            measure: {
                name: asdict(summary(values)) for name, rows in raw.items() if (values := _of(rows, measure))
            }
            for measure in MEASURES
        },
        "raw": raw,
    }


def table(results: dict[str, Any]) -> str:
    """In Markdown: medians with quartiles of the rounds."""
    lines = ["| what | before | after | after / before |", "| --- | --- | --- | --- |"]
    for measure, what in MEASURES.items():
        unit = measure.rpartition("_")[2].replace("step", "")
        found = [results["figures"][measure].get(name) for name in ("before", "after")]
        cells = [f"{one['median']:.4g} ({_span(one['quartiles'])}) {unit}" if one else "-" for one in found]
        ratio = significant(found[1]["median"] / found[0]["median"], 3) if all(found) else "-"
        lines.append(f"| {what} | {cells[0]} | {cells[1]} | {ratio} |")
    return "\n".join(lines)


def _figures(checkout: Path, blocks: int) -> dict[str, Any]:
    """What one process measured."""
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve() / "exporter")}
    done = subprocess.run(
        [sys.executable, str(HERE / "step_worker.py"), str(blocks)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    if done.returncode:
        raise SystemExit(f"{checkout} could not be measured:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _of(rows: list[dict[str, Any]], measure: str) -> list[float]:
    """One number a process that has it: where it has many, their median."""
    values = [row[measure] for row in rows if row[measure] is not None]
    return [statistics.median(each) if isinstance(each, list) else float(each) for each in values]


def _revision(checkout: Path) -> str:
    done = subprocess.run(
        ["git", "-C", str(checkout), "describe", "--always", "--dirty"], capture_output=True, text=True
    )
    return done.stdout.strip()


def _span(quartiles: Sequence[float]) -> str:
    return " to ".join(f"{each:.4g}" for each in quartiles)


if __name__ == "__main__":
    sys.exit(main())
