"""`log` of ten numbers beside experiment trackers, the watched step beside TraceML: a process each."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from benchmarks.hooked_step import BLOCK
from benchmarks.measure import Case, compared, free_port, in_turns, load, significant, summary
from benchmarks.peers import LOGGERS, absent, environment, not_installed
from benchmarks.workers import SCRIPT, Worker, worker

#: Steps of logging timed at once: some milliseconds of each.
LOG_STEPS = {
    "trainbeacon": 500,
    "prometheus-client": 500,
    "prometheus-client multiprocess": 200,
    "TensorBoard SummaryWriter": 10,
    "MLflow, sqlite": 2,
    "MLflow, sqlite, asynchronous": 10,
    "W&B offline": 10,
}
#: The trainers, and those that TraceML's launcher starts.
TRAINERS = ("plain", "loss.item() to a gauge", "trainbeacon", "TraceML, automatic", "TraceML, manual")


def measure(quick: bool) -> dict[str, Any]:
    """Microseconds a step, processor time of the thread and wall time."""
    begun = load()
    log, step = _log(12 if quick else 40), _step(15 if quick else 80)
    return {"load_average": [begun, load()], "log": log, "step": step}


def _log(rounds: int) -> dict[str, Any]:
    missing = absent()
    with contextlib.ExitStack() as stack:
        wall: dict[str, list[float]] = {}
        cases: dict[str, tuple[Case, int]] = {}
        for name, count in LOG_STEPS.items():
            if name not in missing:
                process = stack.enter_context(_started("log", name, LOGGERS[name].environment))
                cases[name] = (_case(process, wall.setdefault(name, [])), count)
        told = compared(in_turns(cases, rounds), "trainbeacon")
    return _with_wall(told, wall, missing)


def _step(rounds: int) -> dict[str, Any]:
    """A block is one pass over the data, so that the counts of steps agree."""
    modules = not_installed(("traceml_ai",))
    missing = {name: modules for name in TRAINERS if "TraceML" in name and modules}
    with contextlib.ExitStack() as stack:
        wall: dict[str, list[float]] = {}
        cases: dict[str, tuple[Case, int]] = {}
        for name in TRAINERS:
            if name not in missing:
                launcher = _traceml if "TraceML" in name else None
                process = stack.enter_context(_started("train", name, {}, launcher))
                cases[name] = (_case(process, wall.setdefault(name, [])), BLOCK)
        times = in_turns(cases, rounds)
    told = compared(times, "plain")
    for name, values in times.items():
        for key, one, base in (("", values, times["plain"]), ("_wall", wall[name][1:], wall["plain"][1:])):
            more = [loaded - alone for loaded, alone in zip(one, base, strict=True)]
            told[name][f"more_than_plain{key}"] = asdict(summary(more))
    return _with_wall(told, wall, missing)


def _case(process: Worker, wall: list[float]) -> Case:
    def case(count: int) -> float:
        processor, clock = process.ask(count)
        wall.append(significant(clock / count * 1e6, 4))
        return float(processor)

    return case


def _with_wall(
    told: dict[str, Any], wall: dict[str, list[float]], missing: dict[str, list[str]]
) -> dict[str, Any]:
    for name, figures in told.items():
        figures["wall_microseconds"] = asdict(summary(wall[name][1:]))  # the first round is thrown away
    return {**told, **{name: {"not_installed": modules} for name, modules in missing.items()}}


@contextlib.contextmanager
def _started(
    kind: str, name: str, variables: dict[str, str], launcher: Callable[[str], list[str]] | None = None
) -> Iterator[Worker]:
    base = "/dev/shm" if os.path.isdir("/dev/shm") and "trainbeacon" in name else None
    with tempfile.TemporaryDirectory(dir=base, ignore_cleanup_errors=True) as folder:
        command = launcher(folder) if launcher else ()
        with worker(kind, name, environment(variables, folder), folder, command) as process:
            yield process


def _traceml(folder: str) -> list[str]:
    """As its users start it: `traceml run`, one process, its summary mode, loopback only."""
    options = [f"--aggregator-port={free_port()}", f"--master-port={free_port()}", f"--logs-dir={folder}"]
    return [sys.executable, "-m", "traceml_ai.launcher.cli", "run", *options, SCRIPT, "--args"]


if __name__ == "__main__":
    for part, cases in measure(quick=True).items():
        for name, figures in cases.items() if part in ("log", "step") else ():
            print(part, name, {key: value for key, value in figures.items() if key != "raw"}, sep="  ")
