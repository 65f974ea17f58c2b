"""What a scrape of some 1,200 series costs a trainer, and what a busy trainer costs the scrape.

Five trainers take turns: not scraped; not scraped while something else works; serving with
prometheus-client's thread; TrainBeacon with its exporter in a process of its own; TrainBeacon with a
thread. One trains while the others wait for their turn.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.measure import Effort, load, percentile, significant, summary
from trainbeacon.stack.ports import free_port

SERVING = ("prometheus-client", "process", "thread")
#: Not scraped; and not scraped while some other program works for as long as a scrape takes. The second shows
#: what a machine whose cores share caches and clock takes from a trainer whoever it is that works beside it.
UNSCRAPED = ("none", "other work")
MODES = (*UNSCRAPED, *SERVING)
SERIES = 1200
SCRAPE_INTERVAL = 1.0
#: In place of a scrape where there is none: what the machine's noise alone does to steps in such a window.
PHANTOM_SECONDS = 0.05
#: The steps that a scrape's steps are compared with: those so near to it.
NEAR_SECONDS = 0.4
#: What Prometheus asks for.
HEADERS = {
    "Accept": "application/openmetrics-text;version=1.0.0;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
    "Accept-Encoding": "gzip",
}


@dataclass(frozen=True)
class Scrape:
    """One scrape on the machine's monotonic clock."""

    start: float
    end: float


@dataclass
class Trainer:
    """A worker process, and where it is scraped."""

    mode: str
    process: subprocess.Popen[str]
    port: int

    def run(self, seconds: float, work: str) -> tuple[list[float], list[float], list[Scrape]]:
        """Let it train, scraped meanwhile. Returns starts and durations of its steps, and the scrapes."""
        scrapes: list[Scrape] = []
        over = threading.Event()
        scraper = threading.Thread(target=self._scrape_until, args=(over, scrapes))
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(seconds, work, file=self.process.stdin, flush=True)
        scraper.start()
        answer = json.loads(self.process.stdout.readline())
        over.set()
        scraper.join()
        return answer["starts"], answer["durations"], scrapes

    def _scrape_until(self, over: threading.Event, scrapes: list[Scrape]) -> None:
        due = time.monotonic() + SCRAPE_INTERVAL / 2
        while not over.wait(max(0.0, due - time.monotonic())):
            start = time.monotonic()
            if self.mode in SERVING:
                scrape(self.port)
            while self.mode == "other work" and time.monotonic() < start + PHANTOM_SECONDS:
                pass
            end = start + PHANTOM_SECONDS if self.mode == "none" else time.monotonic()
            scrapes.append(Scrape(start, end))
            due = max(due + SCRAPE_INTERVAL, time.monotonic())


@dataclass
class Figures:
    """What the runs of one mode with one kind of work showed; seconds."""

    during: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)
    lost: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)

    def add(self, starts: Sequence[float], durations: Sequence[float], scrapes: Sequence[Scrape]) -> None:
        """Tell the steps during a scrape from the others, and what the scrape added to them."""
        ends = [start + duration for start, duration in zip(starts, durations, strict=True)]
        self.latencies += [one.end - one.start for one in scrapes]
        scrapes = [one for one in scrapes if one.end < ends[-1]]  # seen by the trainer from end to end
        hit = [
            {at for at, start in enumerate(starts) if start < one.end and ends[at] > one.start}
            for one in scrapes
        ]
        every = set().union(*hit)
        between = {at: duration for at, duration in enumerate(durations) if at not in every}
        self.between += between.values()
        self.during += [durations[at] for at in sorted(every)]
        for one, steps in zip(scrapes, hit, strict=True):
            # Beside its own neighbours: the machine's speed changes from one second to the next.
            near = [
                duration for at, duration in between.items() if abs(starts[at] - one.start) < NEAR_SECONDS
            ]
            usual = statistics.median(near or between.values())
            lost = sum(durations[at] - usual for at in steps)
            self.lost.append(lost)
            self.shares.append(lost / (one.end - one.start))

    def told(self) -> dict[str, Any]:
        """In milliseconds."""
        return {
            "step_between_scrapes": _distribution(self.between),
            "step_during_a_scrape": _distribution(self.during),
            "lost_to_a_scrape": {**_summary(self.lost), "raw": _milliseconds(self.lost)},
            "lost_share_of_the_scrape": asdict(summary(self.shares)) if self.shares else {},
            "scrape": {**_summary(self.latencies), "raw": _milliseconds(self.latencies)},
        }


def measure(effort: Effort) -> dict[str, Any]:
    """Milliseconds, by what else keeps the machine busy and by mode."""
    begun = load()
    rounds, seconds = effort.choose((2, 4.5), (1, 3.8), (1, 1.0))
    with _trainers() as trainers:
        series = {mode: count_series(trainers[mode].port) for mode in SERVING}
        told = {
            "a core to spare": _in_rounds(trainers, MODES, "mixed", rounds, seconds),
            "holding the GIL": _in_rounds(trainers, SERVING, "gil", (rounds + 1) // 2, seconds),
        }
        if effort is Effort.FULL:
            with started("burner"):
                told["every core busy"] = _in_rounds(trainers, MODES, "mixed", 1, seconds)
    return {"load_average": [begun, load()], "series": series, "milliseconds": told}


def _in_rounds(
    trainers: dict[str, Trainer], modes: Sequence[str], work: str, rounds: int, seconds: float
) -> dict[str, Any]:
    figures = {mode: Figures() for mode in modes}
    for number in range(rounds):
        turn = number % len(modes)
        for mode in (*modes[turn:], *modes[:turn]):
            figures[mode].add(*trainers[mode].run(seconds, work))
    return {mode: found.told() for mode, found in figures.items()}


def scrape(port: int, headers: dict[str, str] = HEADERS) -> bytes:
    """One scrape as Prometheus does it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/metrics", headers=headers)
        return connection.getresponse().read()
    finally:
        connection.close()


def count_series(port: int) -> int:
    """The samples on the page."""
    lines = scrape(port, {}).decode().splitlines()
    return sum(1 for line in lines if line and not line.startswith("#"))


@contextlib.contextmanager
def _trainers() -> Iterator[dict[str, Trainer]]:
    with contextlib.ExitStack() as stack:
        trainers = {}
        for mode in MODES:
            port = free_port()
            arguments = [f"--port={port}", f"--series={SERIES}"]
            if mode in ("process", "thread"):
                directory = stack.enter_context(
                    tempfile.TemporaryDirectory(
                        dir="/dev/shm" if os.path.isdir("/dev/shm") else None, ignore_cleanup_errors=True
                    )
                )
                arguments.append(f"--directory={directory}")
                stack.callback(_await_silence, port)
                stack.enter_context(started("ranks", f"--directory={directory}"))
            worker = "none" if mode in UNSCRAPED else mode
            trainers[mode] = Trainer(mode, stack.enter_context(started(worker, *arguments)), port)
            if mode in SERVING:
                await_serving(port)
        time.sleep(1.5)  # each helper thread has had a turn
        yield trainers


@contextlib.contextmanager
def started(mode: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process of `interference_worker`, ready; it ends with its input."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.interference_worker", mode, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"the worker {mode} did not start")
        yield process
    finally:
        process.stdin.close()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def await_serving(port: int, seconds: float = 30.0) -> None:
    """Until a scrape is answered."""
    end = time.monotonic() + seconds
    while True:
        try:
            scrape(port)
            return
        except (OSError, http.client.HTTPException):
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def _await_silence(port: int, seconds: float = 20.0) -> None:
    """Until nothing listens there any more: the exporter process ends by itself."""
    end = time.monotonic() + seconds
    with contextlib.suppress(OSError, http.client.HTTPException):
        while time.monotonic() < end:
            scrape(port)
            time.sleep(0.1)


def _milliseconds(values: Sequence[float]) -> list[float]:
    return [significant(value * 1e3, 4) for value in values]


def _summary(values: Sequence[float]) -> dict[str, Any]:
    return asdict(summary(_milliseconds(values))) if values else {}


def _distribution(values: Sequence[float]) -> dict[str, Any]:
    if not values:
        return {}
    return {**_summary(values), "p99": significant(percentile(values, 0.99) * 1e3, 4)}
