"""Run every benchmark, keep the raw data under results/ and write the table of README.md.

python -m benchmarks            # about five minutes
python -m benchmarks --quick    # about three; rougher figures, only printed unless --write is given
python -m benchmarks --smoke    # seconds: everything runs once, the figures mean nothing
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import beside_peers, footprint, hooked_step, recording, scrape_interference, startup
from benchmarks.measure import Effort, surroundings
from benchmarks.report import table, write_readme

HERE = Path(__file__).resolve().parent
PARTS: dict[str, Callable[[Effort], dict[str, Any]]] = {
    "recording": recording.measure,
    "hooked_step": hooked_step.measure,
    "beside_peers": beside_peers.measure,
    "startup": startup.measure,
    "footprint": footprint.measure,
    "scrape_interference": scrape_interference.measure,
}


def main() -> int:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    efforts = parser.add_mutually_exclusive_group()
    efforts.add_argument(
        "--quick",
        dest="effort",
        action="store_const",
        const=Effort.QUICK,
        help="fewer and shorter repetitions",
    )
    efforts.add_argument(
        "--smoke",
        dest="effort",
        action="store_const",
        const=Effort.SMOKE,
        help="only show that everything runs",
    )
    parser.set_defaults(effort=Effort.FULL)
    parser.add_argument("--only", choices=list(PARTS), help="run one part, print its raw data, write nothing")
    parser.add_argument("--write", action="store_true", help="write results and README even with --quick")
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(PARTS[arguments.only](arguments.effort), indent=1))
        return 0
    results = run(arguments.effort)
    if arguments.write or arguments.effort is Effort.FULL:
        keep(results)
    print(table(results))
    return 0


def run(effort: Effort) -> dict[str, Any]:
    """The raw data of all parts."""
    start = time.monotonic()
    results: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": _commit(),
        "quick": effort is not Effort.FULL,
        "surroundings": surroundings(),
    }

    def run_part(name: str) -> dict[str, Any]:
        print(f"{name} ...", file=sys.stderr, flush=True)
        begun = time.monotonic()
        part = PARTS[name](effort)
        return {**part, "seconds": round(time.monotonic() - begun)}

    # One after the other, so that none disturbs another's figures; those of a smoke run mean nothing anyway.
    with ThreadPoolExecutor(effort.choose(1, 1, 3)) as parts:
        results.update(zip(PARTS, parts.map(run_part, PARTS), strict=True))
    results["seconds"] = round(time.monotonic() - start)
    return results


def keep(results: dict[str, Any]) -> None:
    """Write the raw data, and the table into README.md."""
    folder = HERE / "results"
    folder.mkdir(exist_ok=True)
    raw = folder / f"{results['date']}.json"
    raw.write_text(_compact(results) + "\n", encoding="utf-8")
    write_readme(HERE / "README.md", results, raw.name)


def _compact(value: Any, indent: int = 0) -> str:
    """JSON with lists of numbers on one line."""
    pad = " " * (indent + 1)
    if isinstance(value, dict) and value:
        rows = [f"{pad}{json.dumps(key)}: {_compact(inner, indent + 1)}" for key, inner in value.items()]
        return "{\n" + ",\n".join(rows) + "\n" + " " * indent + "}"
    return json.dumps(value, separators=(",", ":"))


def _commit() -> str:
    try:
        command = ["git", "-C", str(HERE), "describe", "--always", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
