"""Memory, threads and time that starting a logger takes; and the exporter's memory over many scrapes."""

from __future__ import annotations

import compileall
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import psutil

import trainbeacon
from benchmarks.measure import Effort, load, significant, summary
from benchmarks.peers import LOGGERS
from benchmarks.scrape_interference import await_serving, count_series, scrape, started
from benchmarks.workers import WorkerError, of_effort, worker
from trainbeacon.stack.ports import free_port

SCRAPES = 200
#: Starts as its synchronous form does.
SAME = "MLflow, sqlite, asynchronous"
PARTS = ("wall", "processor", "mebibytes", "threads", "mebibytes_of_processes_started")


def measure(effort: Effort) -> dict[str, Any]:
    """Milliseconds, threads and mebibytes of resident memory."""
    begun = load()
    scrapes = effort.choose(SCRAPES, SCRAPES, 5)
    samples: dict[str, list[dict[str, float]]] = {
        name: [] for name in of_effort(LOGGERS, effort) if name != SAME
    }
    absent: dict[str, dict[str, str]] = {}
    with _installed() as path:
        for _ in range(effort.choose(2, 1, 1)):
            for name in [name for name in samples if name not in absent]:
                try:
                    samples[name].append(_start_once(name, path))
                except WorkerError as error:
                    absent[name] = {"absent": str(error)}
    return {
        "load_average": [begun, load()],
        "start": {name: absent.get(name) or _told(found) for name, found in samples.items()},
        "serving": {"trainbeacon": _exporter(scrapes), "prometheus-client": _prometheus(scrapes)},
    }


@contextlib.contextmanager
def _installed() -> Iterator[str]:
    """A copy of the package with its byte code, as pip makes it for the others: a checkout may have none."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        source = os.path.dirname(os.path.abspath(trainbeacon.__file__))
        package = os.path.join(folder, "trainbeacon")
        shutil.copytree(source, package, ignore=shutil.ignore_patterns("__pycache__"))
        compileall.compile_dir(package, quiet=2)
        yield folder


def _start_once(name: str, path: str) -> dict[str, float]:
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        worker("footprint", name, LOGGERS[name], folder, path) as process,
    ):
        told: dict[str, float] = process.ask(1)
    return {part: significant(value, 4) for part, value in told.items()}


def _told(samples: list[dict[str, float]]) -> dict[str, Any]:
    return {part: asdict(summary([sample[part] for sample in samples])) for part in PARTS} | {"raw": samples}


def _exporter(scrapes: int) -> dict[str, Any]:
    """The exporter as a program of its own over fifteen ranks' boxes: all of its memory."""
    base = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with (
        tempfile.TemporaryDirectory(dir=base, ignore_cleanup_errors=True) as folder,
        started("ranks", f"--directory={folder}", "--first=0"),
        _agent(folder) as (process, port),
    ):
        return _scraped(process, port, scrapes)


@contextlib.contextmanager
def _agent(folder: str) -> Iterator[tuple[psutil.Process, int]]:
    port = free_port()
    arguments = ["agent", f"--directory={folder}", "--host=127.0.0.1", f"--port={port}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "trainbeacon", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        await_serving(port)
        yield psutil.Process(process.pid), port
    finally:
        process.kill()  # it would linger until the end was scraped
        process.wait()


def _prometheus(scrapes: int) -> dict[str, Any]:
    """prometheus-client's thread server and some 1,200 series, in a process of nothing else."""
    port = free_port()
    with started("prometheus-client", f"--port={port}", "--idle") as process:
        await_serving(port)
        return _scraped(psutil.Process(process.pid), port, scrapes)


def _scraped(process: psutil.Process, port: int, scrapes: int) -> dict[str, Any]:
    series = count_series(port)
    first = process.memory_info().rss
    for _ in range(scrapes):
        scrape(port)
    last = process.memory_info().rss
    return {
        "series": series,
        "mebibytes": significant(first / 2**20, 4),
        "mebibytes_after_200_scrapes": significant(last / 2**20, 4),
        "threads": process.num_threads(),
    }
