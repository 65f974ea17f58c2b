"""What only a real GPU shows: NVML's fields are there and move, and we never wait for the device."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
import torch

import trainbeacon
from tests.serving import wait_for
from trainbeacon import catalogue
from trainbeacon.exporter.collectors.base import Families
from trainbeacon.exporter.collectors.gpu import GpuCollector, GpuLink
from trainbeacon.recorder.hooks.hooks import gpu_of
from trainbeacon.recorder.probes.allocator import AllocatorProbe

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU that torch can use"),
]

Record = Callable[[str, object], None]
GIB = 2**30
#: What every data-centre GPU since Ampere tells any user.
EXPECTED = {
    "training_gpu_up",
    "training_gpu_utilization_ratio",
    "training_gpu_memory_used_bytes",
    "training_gpu_memory_total_bytes",
    "training_gpu_temperature_celsius",
    "training_gpu_power_watts",
    "training_gpu_power_limit_watts",
    "training_gpu_energy_joules_total",
    "training_gpu_clock_hertz",
    "training_gpu_throttled",
    "training_gpu_info",
}


class Gpu:
    """The GPU that torch calls 0, as NVML has it."""

    def __init__(self) -> None:
        self.collector = GpuCollector()
        _, self.uuid = gpu_of(torch.nn.Linear(1, 1).cuda())
        scrape = self.scrape()
        info = scrape.get("training_gpu_info")
        assert info is not None, "NVML shows no GPU"
        self.index = next(s.labels["gpu"] for s in info.samples if s.labels["uuid"] == self.uuid)

    def scrape(self) -> Families:
        families = Families()
        self.collector.collect(families)
        return families

    def values(self, name: str) -> dict[tuple[str, ...], float]:
        """The values of a metric of this GPU by its own labels; empty if it is not told."""
        family = self.scrape().get(name)
        return {
            tuple(value for label, value in sample.labels.items() if label != "gpu"): sample.value
            for sample in (family.samples if family else ())
            if sample.labels["gpu"] == self.index
        }

    def value(self, name: str) -> float:
        return self.values(name)[()]


@pytest.fixture(scope="module")
def gpu() -> Gpu:
    return Gpu()


@pytest.fixture
def load() -> Iterator[None]:
    """Keep the GPU busy with matrix products, from a process of its own."""
    program = """
import torch
matrix = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
print("busy", flush=True)
while True:
    for _ in range(50):
        matrix @ matrix
    torch.cuda.synchronize()
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout
        assert "busy\n" == process.stdout.readline()
        yield
        process.kill()


def test_fields_are_there(gpu: Gpu, record_property: Record) -> None:
    """A GPU reports at least what every data-centre board does; what else it lacks is put on record."""
    gpu.scrape()
    time.sleep(1.1)  # the profile covers the time between two scrapes: time itself is the condition
    there = {family.name + ("_total" if family.type == "counter" else "") for family in gpu.scrape()}
    lacking = {metric.name for metric in catalogue.ALL if metric.source == "gpu"} - there
    record_property("fields that this GPU does not tell", ", ".join(sorted(lacking)))
    print("not told:", *sorted(lacking))
    assert set() == EXPECTED & lacking


def test_figures_are_in_their_units(gpu: Gpu) -> None:
    """Memory, temperature, power and clocks lie where those of a real GPU do: a wrong unit is far off."""
    assert torch.cuda.get_device_properties(0).total_memory == pytest.approx(
        gpu.value("training_gpu_memory_total_bytes"), rel=0.1
    )
    assert 10 < gpu.value("training_gpu_temperature_celsius") < 110
    assert 5 < gpu.value("training_gpu_power_watts") < 1.2 * gpu.value("training_gpu_power_limit_watts")
    assert all(1e8 < hertz < 1e10 for hertz in gpu.values("training_gpu_clock_hertz").values())


def test_memory_moves_when_it_is_allocated(gpu: Gpu) -> None:
    """A tensor of 2 GiB shows in the GPU's memory in use, and is gone from it when freed."""
    before = gpu.value("training_gpu_memory_used_bytes")
    tensor = torch.empty(2 * GIB, dtype=torch.uint8, device="cuda")
    torch.cuda.synchronize()
    assert 2 * GIB == pytest.approx(gpu.value("training_gpu_memory_used_bytes") - before, rel=0.1)
    del tensor
    torch.cuda.empty_cache()
    assert 0 == pytest.approx(gpu.value("training_gpu_memory_used_bytes") - before, abs=GIB / 4)


@pytest.mark.usefixtures("load")
def test_load_shows(gpu: Gpu) -> None:
    """Under matrix products the GPU is busy, draws energy as its power says, and its tensor cores work."""
    wait_for(lambda: gpu.value("training_gpu_utilization_ratio") > 0.9, what="utilisation")
    energy, start = gpu.value("training_gpu_energy_joules_total"), time.monotonic()
    time.sleep(3)  # energy is power times time
    drawn = gpu.value("training_gpu_energy_joules_total") - energy
    power = gpu.value("training_gpu_power_watts")
    assert power == pytest.approx(drawn / (time.monotonic() - start), rel=0.3)
    for name in ("training_gpu_sm_active_ratio", "training_gpu_tensor_active_ratio"):
        for ratio in gpu.values(name).values():  # of Hopper and later
            assert 0.3 < ratio <= 1.0


def test_pcie_traffic_is_counted(gpu: Gpu) -> None:
    """Where PCIe traffic is counted, a gigabyte copied to the GPU is in it."""
    before = gpu.values("training_gpu_pcie_bytes_total")
    if not before:
        pytest.skip("this GPU does not count its PCIe traffic")
    torch.empty(GIB, dtype=torch.uint8).pin_memory().cuda()
    torch.cuda.synchronize()
    received = gpu.values("training_gpu_pcie_bytes_total")["received",] - before["received",]
    assert 0.9 * GIB < received < 3 * GIB


def test_scrape_is_quick(gpu: Gpu, record_property: Record) -> None:
    """A scrape of all GPUs takes well under the second that a scraper's time-out leaves."""
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        gpu.scrape()
        seconds.append(time.perf_counter() - start)
    print("scrapes, seconds:", *(f"{each:.4f}" for each in sorted(seconds)))
    record_property("longest scrape, seconds", max(seconds))
    assert max(seconds) < 0.5


def test_rank_is_linked_whatever_cuda_calls_its_gpu(gpu: Gpu) -> None:
    """A process that was given its GPU by an abbreviated UUID is served under NVML's index."""
    program = """
import torch
from trainbeacon.recorder.hooks.hooks import gpu_of
print(*gpu_of(torch.nn.Linear(1, 1).cuda()), sep="|")
"""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": gpu.uuid[:16]}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    index, uuid = done.stdout.strip().split("|")
    assert gpu.uuid == uuid
    scrape = gpu.scrape()
    scrape.add_info("training_rank_info", "r", "0", "0", "host", index, uuid)
    GpuLink().apply(scrape)
    rank = scrape.get("training_rank_info")
    assert rank is not None
    assert (gpu.index, gpu.uuid) == (rank.samples[0].labels["gpu"], rank.samples[0].labels["gpu_uuid"])


def test_allocator_figures_are_those_of_torch() -> None:
    """The allocator's series agree with torch's own functions."""
    tensor = torch.empty(GIB, dtype=torch.uint8, device="cuda")
    recorded: dict[tuple[str, ...], float] = {}
    probe = AllocatorProbe(lambda name, value, *labels: recorded.update({(name, *labels): value}))
    probe.poll()
    devices = range(torch.cuda.device_count())
    assert sum(map(torch.cuda.memory_allocated, devices)) == recorded["training_allocator_bytes", "allocated"]
    assert sum(map(torch.cuda.memory_reserved, devices)) == recorded["training_allocator_bytes", "reserved"]
    assert recorded["training_allocator_bytes", "allocated"] >= tensor.numel()
    told = sum(torch.cuda.memory_stats(device)["allocation.all.allocated"] for device in devices)
    assert 0 < told == probe.allocations


def test_failed_allocation_is_counted() -> None:
    """An allocation larger than the GPU is an out-of-memory in the allocator's series."""
    recorded: dict[str, float] = {}
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(1000 * GIB, dtype=torch.uint8, device="cuda")
    AllocatorProbe(lambda name, value, *labels: recorded.update({name: value})).poll()
    assert 1.0 <= recorded["training_allocator_oom_total"]


def test_watching_adds_no_wait_for_the_device(tmp_path: object) -> None:
    """Watched training steps, with the background loop sampling the allocator, never make the host wait."""
    model = torch.nn.Linear(256, 256).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batch = torch.randn(64, 256, device="cuda")
    with trainbeacon.start(run="r", serve="off", directory=str(tmp_path)) as beacon:
        beacon.watch(model, optimizer)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(200):
                optimizer.zero_grad()
                model(batch).square().mean().backward()
                optimizer.step()
            AllocatorProbe(beacon.recorder.set).poll()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        errors = sum(
            beacon.recorder.writer.slots[beacon.recorder.at("trainbeacon_errors_total", place)]
            for place in catalogue.RANK_PLACES
        )
    assert 0.0 == errors
