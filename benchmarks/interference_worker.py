"""The processes of `scrape_interference`: a trainer that times its steps, and ranks that only fill the page.

A trainer says `ready` and then obeys lines on its standard input: `<seconds> <work>` trains that long and
answers with the steps as JSON. It ends with its input.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
import time
from collections.abc import Callable
from typing import Any

#: Iterations of the pure-Python part of a step, and matrix products of the part that lets go of the GIL.
LOOPS = 20_000
PRODUCTS = 4

Work = Callable[[], None]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=("none", "prometheus-client", "process", "thread", "ranks", "burner"))
    parser.add_argument("--directory")
    parser.add_argument("--port", type=int)
    parser.add_argument("--series", type=int, default=1200)
    parser.add_argument("--first", type=int, default=1, help="the first of the ranks")
    parser.add_argument("--idle", action="store_true", help="serve, and do not train")
    arguments = parser.parse_args()
    logging.getLogger("trainbeacon").setLevel(logging.ERROR)
    if arguments.mode == "ranks":
        _ranks(arguments.directory, arguments.first)
    elif arguments.mode == "burner":
        _burn()
    else:
        _train(arguments)


def _ranks(directory: str, first: int, last: int = 14) -> None:
    """Ranks up to 14 as beacons of one process: real boxes with locks and heartbeats that do not train."""
    from trainbeacon.recorder.api.beacon import Beacon

    beacons = []
    for rank in range(first, last + 1):
        config, identity = _settings(directory, "off", 0, rank)
        beacon = Beacon(config, identity)
        for _ in range(3):
            beacon.timeline.end_step()
        beacon.log(loss=0.5, accuracy=0.5, learning_rate=0.1, gradient_norm=1.0)
        beacons.append(beacon)
    print("ready", flush=True)
    sys.stdin.read()
    for beacon in beacons:
        beacon.finish()


def _settings(directory: str, serve: str, port: int, rank: int) -> Any:
    from trainbeacon.config.settings import Config
    from trainbeacon.identity import current

    config = Config.load(
        {
            "run": "benchmark",
            "directory": directory,
            "serve": serve,
            "host": "127.0.0.1",
            "port": port,
            "linger_seconds": 4,
        }
    )
    return config, dataclasses.replace(current(), rank=rank, local_rank=rank, world_size=15)


def _burn() -> None:
    """Keep one core busy until the input ends; for at most five minutes in any case."""
    import threading

    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    print("ready", flush=True)
    end = time.monotonic() + 300
    while not over.is_set() and time.monotonic() < end:
        _python_work()


def _train(arguments: argparse.Namespace) -> None:
    record, close = _recording(arguments)
    if arguments.idle:
        print("ready", flush=True)
        sys.stdin.read()
        return
    works = {"mixed": _mixed_work(), "gil": _python_work}
    works["mixed"]()
    print("ready", flush=True)
    for line in sys.stdin:
        seconds, work = line.split()
        print(json.dumps(_steps(float(seconds), works[work], record)), flush=True)
    close()


def _steps(seconds: float, work: Work, record: Work) -> dict[str, list[float]]:
    """Start, on the machine's monotonic clock, and duration of each step."""
    starts, durations = [], []
    clock = time.monotonic
    start = clock()
    end = start + seconds
    while start < end:
        work()
        record()
        now = clock()
        starts.append(start)
        durations.append(now - start)
        start = now
    return {"starts": starts, "durations": durations}


def _recording(arguments: argparse.Namespace) -> tuple[Work, Work]:
    """What the trainer does each step to record it, and at its end."""
    if arguments.mode == "none":
        return _nothing, _nothing
    if arguments.mode == "prometheus-client":
        return _serve_prometheus(arguments.port, arguments.series), _nothing
    from trainbeacon.recorder.api.beacon import Beacon

    beacon = Beacon(*_settings(arguments.directory, arguments.mode, arguments.port, 0))

    def record() -> None:
        beacon.log(loss=0.5, accuracy=0.5, learning_rate=0.1)
        beacon.timeline.end_step()

    return record, beacon.finish


def _serve_prometheus(port: int, series: int) -> Work:
    from prometheus_client import CollectorRegistry, Gauge, start_http_server

    registry = CollectorRegistry()
    family_size = 12
    gauges = []
    for number in range(series // family_size):
        family = Gauge(f"training_value_{number}", "A number of a rank.", ("run", "rank"), registry=registry)
        gauges += [family.labels("benchmark", str(rank)) for rank in range(family_size)]
    start_http_server(port, addr="127.0.0.1", registry=registry)
    changing = gauges[:30]

    def record() -> None:
        for gauge in changing:
            gauge.set(0.5)

    return record


def _mixed_work() -> Work:
    import torch

    torch.set_num_threads(1)
    matrix = torch.randn(256, 256)

    def work() -> None:
        _python_work()
        for _ in range(PRODUCTS):
            torch.mm(matrix, matrix)

    return work


def _python_work() -> None:
    total = 0
    for number in range(LOOPS):
        total += number & 3


def _nothing() -> None:
    pass


if __name__ == "__main__":
    main()
