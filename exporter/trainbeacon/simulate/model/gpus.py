"""Simulated GPUs: their load follows the run, their temperature and power follow the load with inertia.

What they tell is given to the registry as the GPU collector would give it; NVML itself is not simulated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from trainbeacon import catalogue
from trainbeacon.catalogue.hardware import THROTTLE_REASONS, XID_CLASSES
from trainbeacon.exporter.collectors.base import Families

from .noise import normal, uniform
from .run import Run
from .trouble import GpuTrouble

NAME, DRIVER = "NVIDIA H100 80GB HBM3", "570.86.15"
MEMORY_BYTES = 85_899_345_920.0
POWER_LIMIT_WATTS, IDLE_WATTS = 700.0, 72.0
ROOM_CELSIUS, CELSIUS_A_WATT = 24.0, 0.062
CLOCKS_MEGAHERTZ = {"graphics": 1980.0, "sm": 1980.0, "memory": 2619.0}
HEAT_SECONDS, POWER_SECONDS = 40.0, 2.0
LINKS = 18


@dataclass(frozen=True)
class Load:
    """How busy a GPU is: by NVML's count, in power, on its tensor cores, and over its links."""

    busy: float = 0.0
    power: float = 0.0
    tensor: float = 0.0
    traffic: float = 0.0
    memory_bytes: float = 0.0


def memory_of(run: Run, rank: int) -> float:
    """What the allocator of a rank holds of its GPU."""
    since, rate = run.trouble.gpu_leaks.get(rank, (run.now, 0.0))
    return min(MEMORY_BYTES - 6e8, run.workload.memory_bytes + rate * (run.now - since))


def load_of(run: Run, rank: int) -> Load:
    """The load that a run puts on the GPU of one of its ranks."""
    memory, world = memory_of(run, rank), len(run.ranks)
    if not run.ranks[rank].is_alive or run.stage in ("down", "over", "init", "resume"):
        return Load(memory_bytes=0.0 if not run.ranks[rank].is_alive else 0.1 * memory)
    if run.stage == "hang":  # who waits for a collective spins; who is missing idles
        return Load(memory_bytes=memory) if run.ranks[rank].stuck_in else Load(1.0, 0.22, 0.0, 0.0, memory)
    if run.stage in ("compile", "checkpoint"):
        return Load(0.03, 0.05, 0.0, 0.0, memory)
    if run.stage == "evaluate":
        return Load(0.9, 0.55, 0.2, 0.0, memory)
    parts = run.parts()
    whole = sum(parts.values())
    work = sum(run.workload.step[phase] for phase in ("forward", "backward", "optimizer")) / whole
    wait = 1.0 - work - (parts["data_wait"] + parts["h2d"] + parts["other"]) / whole
    used = run.workload.flops / run.workload.peak_flops / whole
    traffic = 2.0 * run.workload.checkpoint_bytes * (world > 1) / whole / 4
    return Load(
        min(1.0, work + wait), min(1.0, 0.94 * work + 0.2 * wait), min(1.0, 1.3 * used), traffic, memory
    )


@dataclass
class Gpu:
    """One GPU of a node with the totals of its life."""

    index: int
    seed: int
    now: float
    xids: dict[str, int] = field(default_factory=lambda: dict.fromkeys(XID_CLASSES, 0))
    last_xid: tuple[int, float] | None = None
    ecc: dict[str, float] = field(default_factory=lambda: {"corrected": 0.0, "uncorrected": 0.0})
    rows: dict[str, float] = field(
        default_factory=lambda: {"corrected": 0.0, "uncorrected": 0.0, "pending": 0.0, "failed": 0.0}
    )
    recovery: int = 0
    watts: float = IDLE_WATTS
    celsius: float = ROOM_CELSIUS + IDLE_WATTS * CELSIUS_A_WATT
    joules: float = 0.0
    transmitted: float = 0.0
    copied: float = 0.0
    load: Load = Load()
    trouble: GpuTrouble = field(default_factory=GpuTrouble)

    @property
    def uuid(self) -> str:
        """Its UUID, made from the seed."""
        first, second = (int(uniform(self.seed, self.index, part) * 16**8) for part in (1, 2))
        return f"GPU-{first:08x}-{second >> 16:04x}-{second & 0xFFFF:04x}-8a2e-{self.seed % 16**12:012x}"

    def advance(self, now: float, load: Load, trouble: GpuTrouble) -> None:
        """Let it run under a load until `now`."""
        seconds = now - self.now
        if seconds <= 0:
            return
        self.now, self.load, self.trouble = now, load, trouble
        room = POWER_LIMIT_WATTS * (0.97 + 0.03 * uniform(self.seed, self.index, 3)) - IDLE_WATTS
        target = IDLE_WATTS + room * load.power * trouble.clock**2
        fade = math.exp(-seconds / POWER_SECONDS)
        self.joules += target * seconds + (self.watts - target) * POWER_SECONDS * (1.0 - fade)
        self.watts = target + (self.watts - target) * fade
        warm = (
            ROOM_CELSIUS
            + 4 * uniform(self.seed, self.index, 4)
            + target * CELSIUS_A_WATT
            + trouble.heat_celsius
        )
        self.celsius = warm + (self.celsius - warm) * math.exp(-seconds / HEAT_SECONDS)
        self.transmitted += load.traffic * seconds
        self.copied += 2.5e8 * load.busy * seconds
        self.ecc["corrected"] += trouble.corrected_a_second * seconds

    def report_xid(self, number: int, kind: str) -> None:
        """The driver reports an error."""
        self.xids[kind] += 1
        self.last_xid = (number, self.now)

    def samples(self) -> Iterator[tuple[str, float, tuple[str, ...]]]:
        """Everything that the GPU tells while it answers."""
        yield from self._plain()
        yield from self._counted()
        yield from self._profile()

    def _plain(self) -> Iterator[tuple[str, float, tuple[str, ...]]]:
        tick = int(self.now // 5)
        busy = self.load.busy + 0.01 * normal(self.seed, self.index, tick) * (0.02 < self.load.busy < 1.0)
        yield "training_gpu_utilization_ratio", round(min(1.0, max(0.0, busy)), 2), ()
        yield "training_gpu_memory_used_bytes", 5.5e8 + self.load.memory_bytes, ()
        yield "training_gpu_memory_total_bytes", MEMORY_BYTES, ()
        yield "training_gpu_temperature_celsius", float(round(self.celsius)), ()
        watts = self.watts * (1.0 + 0.01 * normal(self.seed, self.index, tick, 1))
        yield "training_gpu_power_watts", round(watts, 3), ()
        yield "training_gpu_power_limit_watts", POWER_LIMIT_WATTS, ()
        yield "training_gpu_recovery_action", float(self.recovery), ()
        yield "training_gpu_nvlink_links_active", float(LINKS), ()
        yield "training_gpu_mig_enabled", 0.0, ()
        for clock, megahertz in CLOCKS_MEGAHERTZ.items():
            share = (
                1.0 if clock == "memory" else self.trouble.clock * (1.0 if self.load.busy > 0.02 else 0.17)
            )
            yield "training_gpu_clock_hertz", round(megahertz * share / 15) * 15e6, (clock,)
        yield "training_gpu_sm_clock_max_hertz", CLOCKS_MEGAHERTZ["sm"] * 1e6, ()
        for reason in THROTTLE_REASONS:
            yield "training_gpu_throttled", float(reason == self.trouble.throttle), (reason,)

    def _counted(self) -> Iterator[tuple[str, float, tuple[str, ...]]]:
        yield "training_gpu_energy_joules_total", round(self.joules, 3), ()
        for kind, count in self.ecc.items():
            yield "training_gpu_ecc_errors_total", float(int(count)), (kind,)
        for kind, count in self.rows.items():
            yield "training_gpu_remapped_rows", count, (kind,)
        for direction in ("transmitted", "received"):
            yield "training_gpu_nvlink_bytes_total", float(int(self.transmitted / 1024) * 1024), (direction,)
            yield "training_gpu_pcie_bytes_total", float(int(self.copied)), (direction,)
        for name in ("training_gpu_nvlink_errors_total", "training_gpu_pcie_errors_total"):
            for kind in catalogue.BY_NAME[name].labels[0].values:
                yield name, 0.0, (kind,)

    def _profile(self) -> Iterator[tuple[str, float, tuple[str, ...]]]:
        yield "training_gpu_sm_active_ratio", 0.9 * self.load.power, ()
        yield "training_gpu_sm_occupancy_ratio", 0.32 * self.load.power, ()
        yield "training_gpu_tensor_active_ratio", self.load.tensor, ()
        yield "training_gpu_memory_active_ratio", 0.55 * self.load.power, ()


class SimulatedGpus:
    """The GPUs of one node, in the place of the GPU collector."""

    name = "gpu"

    def __init__(self, gpus: Sequence[Gpu]) -> None:
        self._gpus = gpus

    def collect(self, families: Families) -> None:
        """Tell of all GPUs now."""
        for state in catalogue.NVML_STATES:
            families.add("trainbeacon_nvml_state", float(state == "ok"), state)
        for gpu in self._gpus:
            index, lost = str(gpu.index), gpu.trouble.lost
            families.add("training_gpu_up", float(not lost), index)
            if not lost:
                families.add_info("training_gpu_info", index, gpu.uuid, NAME, DRIVER)
                families.add("training_gpu_xid_watched", 1.0, index)
                for name, value, labels in gpu.samples():
                    families.add(name, value, index, *labels)
            for kind, count in gpu.xids.items():
                families.add("training_gpu_xid_errors_total", float(count), index, kind)
            if gpu.last_xid is not None:
                families.add("training_gpu_xid_last", float(gpu.last_xid[0]), index)
                families.add("training_gpu_xid_last_timestamp_seconds", gpu.last_xid[1], index)
