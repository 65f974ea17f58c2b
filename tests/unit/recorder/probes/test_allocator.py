"""Sampling PyTorch's allocator without touching CUDA."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import trainbeacon
from tests.serving import wait_for
from trainbeacon import catalogue
from trainbeacon.blackbox.directory import open_directory
from trainbeacon.blackbox.reader import BoxDirectory
from trainbeacon.exporter.collectors.base import Families
from trainbeacon.exporter.collectors.ranks import RanksCollector
from trainbeacon.recorder.probes.allocator import INTERVAL_SECONDS, AllocatorProbe


class Devices:
    """Stands in for `torch.cuda`: what its allocator would tell of each device."""

    def __init__(self, *stats: dict[str, int], initialised: bool = True) -> None:
        self.stats = stats
        self.initialised = initialised
        self.asked = 0

    def is_initialized(self) -> bool:
        return self.initialised

    def device_count(self) -> int:
        assert self.initialised  # else it would ask the driver
        return len(self.stats)

    def memory_stats(self, device: int) -> dict[str, int]:
        self.asked += 1
        return self.stats[device]


def stats(
    allocated: int, peak: int, reserved: int, retries: int, ooms: int, split: int = 0
) -> dict[str, int]:
    return {
        "inactive_split_bytes.all.current": split,
        "allocated_bytes.all.current": allocated,
        "allocated_bytes.all.peak": peak,
        "reserved_bytes.all.current": reserved,
        "num_alloc_retries": retries,
        "num_ooms": ooms,
        "active_bytes.all.current": 12345,
        "allocation.all.allocated": allocated // 10,
    }


class Sampled:
    """A probe with what it recorded, on a clock that the test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cuda: object) -> None:
        monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
        self.now = 0.0
        self.recorded: dict[tuple[str, ...], float] = {}
        self.probe = AllocatorProbe(self._record, clock=lambda: self.now)

    def _record(self, name: str, value: float, *labels: str) -> None:
        assert len(labels) == len(catalogue.BY_NAME[name].labels)
        self.recorded[(name, *labels)] = value

    def poll(self) -> dict[tuple[str, ...], float]:
        self.recorded.clear()
        self.probe.poll()
        return dict(self.recorded)


def test_figures_are_those_of_all_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank's figures are the sums over the devices that it uses."""
    cuda = Devices(stats(100, 150, 400, 2, 1, 70), stats(10, 20, 30, 1, 0, 5))
    sampled = Sampled(monkeypatch, cuda)
    assert {
        ("training_allocator_bytes", "allocated"): 110.0,
        ("training_allocator_bytes", "peak"): 170.0,
        ("training_allocator_bytes", "reserved"): 430.0,
        ("training_allocator_bytes", "inactive_split"): 75.0,
        ("training_allocator_retries_total",): 3.0,
        ("training_allocator_oom_total",): 1.0,
    } == sampled.poll()
    assert 11 == sampled.probe.allocations


def test_sampled_every_few_seconds_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often the background loop looks, torch is asked once in five seconds."""
    cuda = Devices(stats(1, 1, 1, 0, 0))
    sampled = Sampled(monkeypatch, cuda)
    for second in range(20):
        sampled.now = float(second)
        sampled.poll()
    assert 20 / INTERVAL_SECONDS == cuda.asked == 4


def test_cuda_that_is_not_in_use_is_let_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the script itself has initialised CUDA nothing is asked and nothing recorded, then it is."""
    cuda = Devices(stats(7, 8, 9, 0, 0), initialised=False)
    sampled = Sampled(monkeypatch, cuda)
    assert {} == sampled.poll()
    cuda.initialised = True
    sampled.now = INTERVAL_SECONDS
    assert 7.0 == sampled.poll()["training_allocator_bytes", "allocated"]


@pytest.mark.parametrize(
    "cuda", [None, SimpleNamespace(), Devices({}), Devices()], ids=["none", "bare", "empty", "no devices"]
)
def test_nothing_to_sample(monkeypatch: pytest.MonkeyPatch, cuda: object) -> None:
    """A torch that is still being imported, or an allocator without figures, records nothing: 0 would lie."""
    assert {} == Sampled(monkeypatch, cuda).poll()


def test_never_loads_torch_nor_initialises_cuda() -> None:
    """In a process without torch the probe does not load it; with the real torch it leaves CUDA alone."""
    program = """
import sys
from trainbeacon.recorder.probes.allocator import AllocatorProbe
recorded = []
AllocatorProbe(lambda *figure: recorded.append(figure)).poll()
assert "torch" not in sys.modules
import torch
AllocatorProbe(lambda *figure: recorded.append(figure)).poll()
assert not torch.cuda.is_initialized() and recorded == []
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (0, "") == (done.returncode, done.stderr)


def test_helper_samples_it_into_the_scrape(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The figures of a running rank are served; of a rank that ended, only how often memory ran out."""
    cuda = Devices(stats(100, 150, 400, 2, 1))
    for name in ("is_initialized", "device_count", "memory_stats"):
        monkeypatch.setattr(torch.cuda, name, getattr(cuda, name))
    descriptor = open_directory(str(tmp_path / "boxes"))
    ranks = RanksCollector(BoxDirectory(descriptor), linger_seconds=60)

    def served() -> dict[str, float]:
        families = Families()
        ranks.collect(families)
        return {
            " ".join([sample.name, *sample.labels.values()]): sample.value
            for family in families
            for sample in family.samples
            if "allocator" in sample.name
        }

    kept = {"training_allocator_retries_total r 0": 2.0, "training_allocator_oom_total r 0": 1.0}
    with trainbeacon.start(run="r", serve="off", directory=str(tmp_path / "boxes")):
        assert {
            "training_allocator_bytes r 0 allocated": 100.0,
            "training_allocator_bytes r 0 peak": 150.0,
            "training_allocator_bytes r 0 reserved": 400.0,
            "training_allocator_bytes r 0 inactive_split": 0.0,
            **kept,
        } == wait_for(served)
    assert kept == served()
    os.close(descriptor)
