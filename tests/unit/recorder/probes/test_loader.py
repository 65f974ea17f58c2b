"""Looking at the workers of real loaders of PyTorch."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

import trainbeacon
from tests.serving import environment, wait_for
from trainbeacon import catalogue
from trainbeacon.blackbox.directory import open_directory
from trainbeacon.blackbox.reader import BoxDirectory
from trainbeacon.recorder.background.schedule import PROBES
from trainbeacon.recorder.probes import loader as module
from trainbeacon.recorder.probes.loader import INTERVAL_SECONDS, TIME_SHARE, LoaderProbe
from trainbeacon.testing import FakeClock

ALIVE = ("training_loader_workers", "alive")
DEAD = ("training_loader_workers", "dead")
SHARED = ("training_loader_shared_memory_bytes",)
MEBIBYTE = 1 << 20


class Items(Dataset[torch.Tensor]):
    """Items of a mebibyte."""

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((MEBIBYTE // 4,), float(index))


class Sampled:
    """A probe with what it recorded, which has a sample due at each look."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.recorded: dict[tuple[str, ...], float] = {}
        self.probe = LoaderProbe(self._record, self.clock)

    def _record(self, name: str, value: float, *labels: str) -> None:
        assert len(labels) == len(catalogue.BY_NAME[name].labels)
        self.recorded[(name, *labels)] = value

    def poll(self) -> dict[tuple[str, ...], float]:
        self.recorded.clear()
        self.clock.advance(1000)
        self.probe.poll()
        return dict(self.recorded)

    def workers(self) -> tuple[float | None, float | None]:
        found = self.poll()
        return found.get(ALIVE), found.get(DEAD)


@pytest.fixture(autouse=True, scope="module")
def no_other_workers() -> None:
    """Loaders that earlier tests of this process left behind have none any more."""
    gc.collect()
    for iterator in [each for each in gc.get_objects() if type(each) is _MultiProcessingDataLoaderIter]:
        iterator._shutdown_workers()


@pytest.fixture
def sampled() -> Sampled:
    return Sampled()


@pytest.fixture
def batches() -> Iterator[Any]:
    """The batches under way of a loader with two workers, each of which has made one at least."""
    iterator = iter(DataLoader(Items(), batch_size=1, num_workers=2))
    next(iterator)
    next(iterator)
    yield iterator
    iterator._shutdown_workers()


def test_nothing_is_said_of_a_job_without_loader_workers(sampled: Sampled) -> None:
    """A pool of the user's own is no loader: 0 workers would make rules wait for some."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert 4 == pool.apply(abs, (-4,))
        assert {} == sampled.poll()


def test_workers_that_live_and_their_shared_memory(sampled: Sampled, batches: Any) -> None:
    """Both workers of a loader are counted, and what they have in shared memory at least."""
    wait_for(lambda: sampled.workers() == (2.0, 0.0), what="both workers")
    assert sampled.recorded[SHARED] > 0
    kept = torch.zeros(8 * MEBIBYTE, dtype=torch.uint8).share_memory_()
    before = sampled.poll()[SHARED]
    kept += 1
    del kept
    assert sampled.poll()[SHARED] <= before - 7 * MEBIBYTE


def test_worker_that_was_killed_is_dead(sampled: Sampled, batches: Any) -> None:
    """A worker that is gone, unnoticed by its loader, is counted; the loader still gets its status."""
    wait_for(lambda: sampled.workers() == (2.0, 0.0), what="both workers")
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # a rank that is blocked runs no handler
    try:
        victim = batches._workers[0]
        os.kill(victim.pid, signal.SIGKILL)
        wait_for(lambda: sampled.workers() == (1.0, 1.0), what="death")
        assert (1.0, 1.0) == sampled.workers()
        victim.join()
        assert -signal.SIGKILL == victim.exitcode
        assert (1.0, 0.0) == sampled.workers()
    finally:
        batches._workers_status[0] = False
        signal.signal(signal.SIGCHLD, handler)


def test_workers_that_have_done_their_work_are_not_dead(sampled: Sampled, batches: Any) -> None:
    """At the end of an epoch there are none, which is no misfortune."""
    wait_for(lambda: sampled.workers() == (2.0, 0.0), what="both workers")
    batches._shutdown_workers()
    assert (0.0, 0.0) == sampled.workers()


def test_sampling_limits_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every five seconds where that is cheap; where a sample is dear, at most a thousandth of the time."""
    cost, asked, clock = 0.0001, [0], FakeClock(0.0)

    def children() -> list[object]:
        asked[0] += 1
        end = time.thread_time() + cost
        while time.thread_time() < end:
            pass
        return []

    monkeypatch.setattr(module, "_children", children)
    cheap = LoaderProbe(lambda *_: None, clock)
    for _ in range(100):
        cheap.poll()
        clock.advance(1.0)
    assert 100 / INTERVAL_SECONDS == asked[0]
    cost, asked[0] = 0.02, 0
    dear = LoaderProbe(lambda *_: None, clock)
    for _ in range(100):
        dear.poll()
        clock.advance(1.0)
    assert 2 <= asked[0] <= 100 * TIME_SHARE / cost


PROGRAM = """
import sys, time, torch, trainbeacon
from torch.utils.data import DataLoader
with trainbeacon.start(run="r", serve="off", directory=sys.argv[1]) as beacon:
    for batch in beacon.batches(DataLoader(torch.zeros(100_000, 1), num_workers=1)):
        time.sleep(0.05)
"""


def test_helper_samples_it_into_the_box(tmp_path: Path) -> None:
    """In a real job the worker shows in the box within a few seconds."""
    folder = tmp_path / "boxes"
    descriptor = open_directory(str(folder))
    boxes = BoxDirectory(descriptor)

    def workers() -> float | None:
        return next((box.number(*ALIVE) for box in boxes.scan()), None)

    job = subprocess.Popen([sys.executable, "-c", PROGRAM, str(folder)], env=environment())
    try:
        assert 1.0 == wait_for(workers, what="worker")
    finally:
        job.kill()
        job.wait()
        os.close(descriptor)


def test_it_can_be_switched_off(tmp_path: Path) -> None:
    """`probes_off=["loader"]` leaves it out, and nothing else."""
    polled = []
    for off in ([], ["loader"]):
        with trainbeacon.start(run="r", serve="off", directory=str(tmp_path), probes_off=off) as beacon:
            polled.append({probe.name for probe in PROBES if beacon.recorder.probes(probe.name)})
    assert {"loader"} == polled[0] - polled[1]
