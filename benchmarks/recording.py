"""What recording costs in the training thread, beside prometheus-client direct and in multiprocess mode."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Any

import trainbeacon
from benchmarks.measure import Case, Effort, compared, in_turns, load, repeat
from trainbeacon import catalogue
from trainbeacon.recorder.core.timeline import PHASE

GAUGES = 30
OBSERVATIONS = 6
NUMBERS = 10
#: One step's phases: with the end of the step, what six histograms of a step and its parts would be told.
PHASES = [PHASE[name] for name in ("data_wait", "other", "forward", "backward", "optimizer")]


def measure(effort: Effort) -> dict[str, Any]:
    """All figures of recording, in microseconds."""
    rounds, count = effort.choose((120, 100), (60, 60), (2, 5))
    begun = load()
    with (
        tempfile.TemporaryDirectory() as folder,
        recording_beacon(folder) as beacon,
        _multiprocess() as other,
    ):
        direct = PrometheusStep()
        cases = {
            "prometheus-client": (repeat(direct.step), count),
            "prometheus-client multiprocess": (other, count),
            "trainbeacon: same operations": (repeat(_same_operations(beacon)), count),
            "trainbeacon: same, through the API": (repeat(_through_the_api(beacon)), count),
        }
        step = compared(in_turns(cases, rounds), "prometheus-client")
        cases = {
            "prometheus-client: 10 cached gauges": (repeat(direct.ten_cached), count * 2),
            "prometheus-client: 10 gauges by labels()": (repeat(direct.ten_by_label), count),
            "trainbeacon: log of 10 numbers": (repeat(_log_numbers(beacon)), count * 2),
            "trainbeacon: log of loss, accuracy and 8 numbers": (repeat(_log_mixed(beacon)), count * 2),
            "trainbeacon: log of a loss": (repeat(_log_loss(beacon)), count * 2),
        }
        log = compared(in_turns(cases, rounds), "prometheus-client: 10 cached gauges")
        primitives = compared(in_turns(_primitives(beacon, count * 4), rounds), "nothing")
    return {"load_average": [begun, load()], "step": step, "log": log, "primitives": primitives}


@contextlib.contextmanager
def recording_beacon(folder: str) -> Iterator[trainbeacon.Beacon]:
    """A beacon over a box in shared memory where there is some, with its helper thread and no exporter."""
    logging.getLogger("trainbeacon").setLevel(logging.ERROR)
    base = "/dev/shm" if os.path.isdir("/dev/shm") else folder
    with tempfile.TemporaryDirectory(dir=base) as directory:
        beacon = trainbeacon.start(run="benchmark", directory=directory, serve="off")
        beacon.timeline.end_step()  # past the warm-up, as every step but the first is
        try:
            yield beacon
        finally:
            beacon.finish()


class PrometheusStep:
    """30 gauges, 6 histograms and 1 counter of prometheus-client, their children looked up beforehand."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        # In multiprocess mode the values go to files whatever the registry; here it only keeps names apart.
        registry = CollectorRegistry()
        labels = ("run", "rank")
        made = [Gauge(f"gauge_{number}", "A gauge.", labels, registry=registry) for number in range(GAUGES)]
        self._gauges = [gauge.labels("benchmark", "0") for gauge in made]
        histograms = [
            Histogram(
                f"seconds_{number}", "A time.", labels, registry=registry, buckets=catalogue.STEP_BUCKETS
            )
            for number in range(OBSERVATIONS)
        ]
        self._histograms = [histogram.labels("benchmark", "0") for histogram in histograms]
        self._counter = Counter("steps", "Steps.", labels, registry=registry).labels("benchmark", "0")
        self._family = Gauge("metric", "A number.", ("run", "name"), registry=registry)
        self._names = [f"number_{number}" for number in range(NUMBERS)]
        self._ten = [self._family.labels("benchmark", name) for name in self._names]

    def step(self) -> None:
        """What one training step records."""
        for gauge in self._gauges:
            gauge.set(0.5)
        for histogram in self._histograms:
            histogram.observe(0.07)
        self._counter.inc()

    def ten_cached(self) -> None:
        """Ten gauges whose children were kept."""
        for gauge in self._ten:
            gauge.set(0.5)

    def ten_by_label(self) -> None:
        """Ten gauges looked up by their label, as most code does it."""
        family = self._family
        for name in self._names:
            family.labels("benchmark", name).set(0.5)


@contextlib.contextmanager
def _multiprocess() -> Iterator[Case]:
    """The same in another process in multiprocess mode; it waits while the others are timed."""
    with tempfile.TemporaryDirectory() as folder:
        worker = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.recording"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": folder},
        )
        assert worker.stdin is not None
        assert worker.stdout is not None
        requests, answers = worker.stdin, worker.stdout

        def case(count: int) -> float:
            print(count, file=requests, flush=True)
            return float(answers.readline())

        try:
            yield case
        finally:
            requests.close()
            worker.wait(timeout=30)
            answers.close()


def _worker() -> None:
    case = repeat(PrometheusStep().step)
    for line in sys.stdin:
        print(case(int(line)), flush=True)


def _same_operations(beacon: trainbeacon.Beacon) -> Callable[[], None]:
    """30 stores, 6 observations, 1 counter and the commit that publishes them: the box's own operations.

    A box has one histogram. The six observations go to it: a search, two additions each, as `end_step` does.
    """
    slots, values, commit = (
        beacon.recorder.writer.slots,
        beacon.recorder.writer.step,
        beacon.recorder.writer.commit,
    )
    gauges = range(900, 900 + GAUGES)  # slots without a name: none of the real ones is overwritten
    recorder = beacon.recorder
    buckets = recorder.at("training_step_duration_seconds", "0")
    total = recorder.at("training_step_duration_seconds", "sum")
    counter = recorder.at("training_steps_total")
    bounds = catalogue.STEP_BUCKETS

    def step() -> None:
        for slot in gauges:
            slots[slot] = 0.5
        for _ in range(OBSERVATIONS):
            values[buckets + bisect_left(bounds, 0.07)] += 1.0
            values[total] += 0.07
        values[counter] += 1.0
        commit()

    return step


def _through_the_api(beacon: trainbeacon.Beacon) -> Callable[[], None]:
    """30 numbers by `log`; five phases and the end of a step, which read the clock and fill the ring too."""
    names = {f"gauge_{number}": 0.5 for number in range(GAUGES)}
    see, end_step, log = beacon.timeline.observe, beacon.timeline.end_step, beacon.log

    def step() -> None:
        for phase in PHASES:
            see(phase)
        end_step()
        log(**names)

    return step


def _log_numbers(beacon: trainbeacon.Beacon) -> Callable[[], None]:
    log = beacon.log

    def work() -> None:
        log(
            gauge_0=0.5, gauge_1=0.5, gauge_2=0.5, gauge_3=0.5, gauge_4=0.5,
            gauge_5=0.5, gauge_6=0.5, gauge_7=0.5, gauge_8=0.5, gauge_9=0.5,
        )  # fmt: skip

    return work


def _log_mixed(beacon: trainbeacon.Beacon) -> Callable[[], None]:
    log = beacon.log

    def work() -> None:
        log(
            loss=0.5, accuracy=0.5, learning_rate=0.5, gauge_0=0.5, gauge_1=0.5,
            gauge_2=0.5, gauge_3=0.5, gauge_4=0.5, gauge_5=0.5, gauge_6=0.5,
        )  # fmt: skip

    return work


def _log_loss(beacon: trainbeacon.Beacon) -> Callable[[], None]:
    log = beacon.log

    def work() -> None:
        log(loss=0.5)

    return work


def _primitives(beacon: trainbeacon.Beacon, count: int) -> dict[str, tuple[Case, int]]:
    """What the calls above are made of, each alone."""
    timeline, recorder, writer = beacon.timeline, beacon.recorder, beacon.recorder.writer
    slots = writer.slots
    see, forward, backward = timeline.observe, PHASE["forward"], PHASE["backward"]

    def nothing() -> None:
        pass

    def store() -> None:
        slots[900] = 0.5

    def two_phases() -> None:
        see(forward)
        see(backward)

    works: dict[str, Callable[[], Any]] = {
        "nothing": nothing,
        "store into a slot": store,
        "recorder.set": lambda: recorder.set("training_gradient_norm", 0.5),
        "commit": writer.commit,
        "add_to_ring": lambda: writer.add_to_ring(1.0, 1.0, 1.0, 0.5, 0.5),
        "two phase switches": two_phases,
        "end_step": timeline.end_step,
        "recorder.loss": lambda: recorder.loss(0.5, "train"),
        "guard of nothing": lambda: recorder.guard("hooks", nothing),
        "time.monotonic": time.monotonic,
    }
    return {name: (repeat(work), count) for name, work in works.items()}


if __name__ == "__main__":  # times steps on request, for multiprocess mode
    _worker()
