"""`log` of ten numbers beside experiment trackers, the watched step beside TraceML: a process each."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from benchmarks.hooked_step import BLOCK
from benchmarks.measure import Case, Effort, compared, in_turns, load, significant, summary
from benchmarks.peers import LOGGERS, Peer
from benchmarks.workers import SCRIPT, Worker, WorkerError, of_effort, worker
from trainbeacon.stack.ports import free_port

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
#: What trains: see `peer_worker`.
TRAINERS = {
    "plain": Peer(()),
    "loss.item() to a gauge": Peer(()),
    "trainbeacon": Peer(()),
    "TraceML, automatic": Peer(("traceml_ai",)),
    "TraceML, manual": Peer(("traceml_ai",)),
}


def measure(effort: Effort) -> dict[str, Any]:
    """Microseconds a step, processor time of the thread and wall time."""
    begun = load()
    log, step = _log(effort), _step(effort)
    return {"load_average": [begun, load()], "log": log, "step": step}


def _log(effort: Effort) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        workers, absent = _all(stack, "log", of_effort({name: LOGGERS[name] for name in LOG_STEPS}, effort))
        wall: dict[str, list[float]] = {name: [] for name in workers}
        cases = {name: (_case(process, wall[name]), LOG_STEPS[name]) for name, process in workers.items()}
        told = compared(in_turns(cases, effort.choose(40, 12, 2)), "trainbeacon")
    return _with_wall(told, wall) | absent


def _step(effort: Effort) -> dict[str, Any]:
    """A block is one pass over the data, so that the counts of steps agree."""
    with contextlib.ExitStack() as stack:
        workers, absent = _all(stack, "train", of_effort(TRAINERS, effort))
        wall: dict[str, list[float]] = {name: [] for name in workers}
        cases = {name: (_case(process, wall[name]), BLOCK) for name, process in workers.items()}
        times = in_turns(cases, effort.choose(80, 15, 2))
    told = _with_wall(compared(times, "plain"), wall)
    for name, values in times.items():
        for key, one, base in (("", values, times["plain"]), ("_wall", wall[name][1:], wall["plain"][1:])):
            more = [loaded - alone for loaded, alone in zip(one, base, strict=True)]
            told[name][f"more_than_plain{key}"] = asdict(summary(more))
    return told | absent


def _all(
    stack: contextlib.ExitStack, kind: str, peers: Mapping[str, Peer]
) -> tuple[dict[str, Worker], dict[str, dict[str, str]]]:
    """The workers that start, and why the others do not."""
    workers, absent = {}, {}
    for name, peer in peers.items():
        try:
            workers[name] = stack.enter_context(_started(kind, name, peer))
        except WorkerError as error:
            absent[name] = {"absent": str(error)}
    return workers, absent


def _case(process: Worker, wall: list[float]) -> Case:
    def case(count: int) -> float:
        processor, clock = process.ask(count)
        wall.append(significant(clock / count * 1e6, 4))
        return float(processor)

    return case


def _with_wall(told: dict[str, Any], wall: dict[str, list[float]]) -> dict[str, Any]:
    for name, figures in told.items():
        figures["wall_microseconds"] = asdict(summary(wall[name][1:]))  # the first round is thrown away
    return told


@contextlib.contextmanager
def _started(kind: str, name: str, peer: Peer) -> Iterator[Worker]:
    base = "/dev/shm" if os.path.isdir("/dev/shm") and "trainbeacon" in name else None
    with tempfile.TemporaryDirectory(dir=base, ignore_cleanup_errors=True) as folder:
        launcher = _traceml(folder) if "TraceML" in name else ()
        with worker(kind, name, peer, folder, launcher=launcher) as process:
            yield process


def _traceml(folder: str) -> list[str]:
    """As its users start it: `traceml run`, one process, its summary mode, loopback only."""
    options = [f"--aggregator-port={free_port()}", f"--master-port={free_port()}", f"--logs-dir={folder}"]
    return [sys.executable, "-m", "traceml_ai.launcher.cli", "run", *options, SCRIPT, "--args"]
