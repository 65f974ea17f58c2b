"""What one checkout's recorder costs, measured inside this process: run by `benchmarks.before_after`.

It stands alone and uses what every version has, so that older checkouts can be measured with it: which
TrainBeacon it measures is decided by PYTHONPATH.
"""

from __future__ import annotations

import gc
import json
import random
import socket
import statistics
import sys
import tempfile
import time
import urllib.request

BEGUN = time.process_time()
import trainbeacon  # noqa: E402 - its import is measured

IMPORTED = time.process_time() - BEGUN
import torch  # noqa: E402
from torch import nn  # noqa: E402

BLOCK = 10  # steps timed at once
METRICS = {f"metric_{number}": 0.5 + number for number in range(10)}


class Trainer:
    """A perceptron of three layers; a step takes one to two milliseconds on one core."""

    def __init__(self) -> None:
        self.data = [(torch.randn(64, 256), torch.randint(0, 10, (64,))) for _ in range(BLOCK)]
        self.model = nn.Sequential(
            nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10)
        )
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)

    def train(self, beacon: trainbeacon.Beacon | None) -> float:
        """Microseconds of processor time a step, over one block."""
        begun = time.thread_time()
        for inputs, targets in self.data if beacon is None else beacon.batches(self.data):
            self.optimizer.zero_grad()
            loss = nn.functional.cross_entropy(self.model(inputs), targets)
            loss.backward()
            self.optimizer.step()
            number = loss.item()
            if beacon is not None:
                beacon.log(loss=number)
        return (time.thread_time() - begun) / BLOCK * 1e6


def more_than_plain(beacon: trainbeacon.Beacon, blocks: int) -> list[float]:
    """Microseconds that a watched step takes more than a plain one, by pairs of blocks in random order."""
    plain, watched = Trainer(), Trainer()
    beacon.watch(watched.model, watched.optimizer)
    order = random.Random(0)
    differences = []
    for _ in range(blocks + 5):
        if order.random() < 0.5:
            base = plain.train(None)
            cost = watched.train(beacon)
        else:
            cost = watched.train(beacon)
            base = plain.train(None)
        differences.append(cost - base)
    return differences[5:]


def calls_a_step(beacon: trainbeacon.Beacon, steps: int = 200) -> float:
    """Functions of TrainBeacon's that are called in a step, in the training thread."""
    trainer = Trainer()
    beacon.watch(trainer.model, trainer.optimizer)
    package = str(trainbeacon.__file__).rpartition("/")[0] + "/"
    trainer.train(beacon)
    count = 0

    def profile(frame: object, event: str, _: object) -> None:
        nonlocal count
        count += event == "call" and frame.f_code.co_filename.startswith(package)  # type: ignore[attr-defined]

    sys.setprofile(profile)
    for _ in range(steps // BLOCK):
        trainer.train(beacon)
    sys.setprofile(None)
    return count / steps


def log_of_ten(beacon: trainbeacon.Beacon, repetitions: int = 2000) -> float:
    """Microseconds of processor time for one `log` of ten numbers."""
    beacon.log(**METRICS)
    begun = time.thread_time()
    for _ in range(repetitions):
        beacon.log(**METRICS)
    return (time.thread_time() - begun) / repetitions * 1e6


def scrape(port: int, repetitions: int = 10) -> float | None:
    """Milliseconds that a scrape takes by the clock, in the median; None where nothing is served.

    An older checkout may need a library that this environment lacks.
    """
    times: list[float] = []
    deadline = time.monotonic() + 10.0
    while len(times) < repetitions:
        begun = time.perf_counter()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page:
                page.read()
        except OSError:  # not up yet
            if time.monotonic() > deadline:
                return None
            time.sleep(0.05)
            continue
        times.append((time.perf_counter() - begun) * 1e3)
    return statistics.median(times)


def main(blocks: int) -> None:
    """Measure, and print one line of JSON."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    gc.disable()
    told: dict[str, object] = {"import_ms": IMPORTED * 1e3}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        begun = time.process_time()
        beacon = trainbeacon.start(run="before-after", directory=folder, serve="thread", port=port)
        told["start_ms"] = (time.process_time() - begun) * 1e3
        told["more_than_plain_us"] = [round(each, 2) for each in more_than_plain(beacon, blocks)]
        told["log_of_ten_us"] = log_of_ten(beacon)
        told["scrape_ms"] = scrape(port)
        beacon.finish()
        beacon = trainbeacon.start(run="calls", directory=folder, serve="off")
        told["calls_a_step"] = calls_a_step(beacon)
        beacon.finish()
    print(json.dumps(told))


if __name__ == "__main__":
    main(int(sys.argv[1]))
