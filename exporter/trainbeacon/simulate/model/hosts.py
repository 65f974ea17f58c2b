"""Simulated nodes as their operating system would show them, and the processes of their ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from trainbeacon.exporter.collectors.base import Families

from .noise import normal
from .rank import Rank
from .run import Run

CORES = 112
MEMORY_BYTES = 1.08e12
SHARED_MEMORY_BYTES = 0.54e12
#: Of a healthy training process with its loader workers' share.
RESIDENT_BYTES = 8.4e9
BUSY_CORES = 3.1
PACKET_BYTES = 4200.0
#: What reaches any node in a second: scrapes, logs, name service.
BACKGROUND_BYTES = 20e3


@dataclass
class Host:
    """One node. Its totals grow with what its ranks do."""

    seed: int
    now: float
    read: float = 0.0
    written: float = 0.0
    received: float = 0.0
    transmitted: float = 0.0
    cpu: float = 0.02
    cpu_seconds: dict[tuple[str, int], float] = field(default_factory=dict)

    def advance(self, now: float, ranks: list[tuple[Run, Rank]]) -> None:
        """Let the node go on until `now` with these living ranks."""
        seconds = now - self.now
        if seconds <= 0:
            return
        self.now = now
        cores = 1.5
        self.received += BACKGROUND_BYTES * seconds
        for run, rank in ranks:
            busy = BUSY_CORES * (1.0 if run.stage in ("train", "evaluate", "compile") else 0.4)
            cores += busy
            key = (run.name, rank.number)
            self.cpu_seconds[key] = self.cpu_seconds.get(key, 0.0) + busy * seconds
            samples = run.steps_a_second * run.workload.samples
            self.read += samples * (110e3 if run.workload.has_accuracy else 8e3) * seconds
            self.received += 2e6 * seconds * (len(run.ranks) > 8)
            writing = run.stage == "checkpoint" or now < run.write_ends
            if writing and (run.workload.sharded or rank.number == 0):
                shares = len(run.ranks) if run.workload.sharded else 1
                share = run.workload.checkpoint_bytes / shares
                self.written += share / max(1.0, run.workload.checkpoint_write_seconds) * seconds
        self.transmitted = self.received
        self.cpu = min(1.0, cores / CORES * (1.0 + 0.03 * normal(self.seed, int(now // 5))))


class SimulatedHost:
    """The node and its processes, in the place of the host collector."""

    name = "host"

    def __init__(self, host: Host, ranks: Callable[[], list[tuple[Run, Rank]]]) -> None:
        self._host = host
        self._ranks = ranks

    def collect(self, families: Families) -> None:
        """Tell of the node and its living ranks now."""
        host, ranks = self._host, self._ranks()
        resident = 0.0
        for run, rank in ranks:
            resident += self._process(families, run, rank)
        shared = 2e8 + 1.15e9 * len(ranks)
        for name, value in (
            ("training_host_cpu_ratio", host.cpu),
            ("training_host_memory_used_bytes", min(MEMORY_BYTES, 2.6e10 + resident + shared)),
            ("training_host_memory_total_bytes", MEMORY_BYTES),
            ("training_host_shared_memory_used_bytes", shared),
            ("training_host_shared_memory_total_bytes", SHARED_MEMORY_BYTES),
            ("training_host_disk_read_bytes_total", host.read),
            ("training_host_disk_written_bytes_total", host.written),
            ("training_host_network_received_bytes_total", host.received),
            ("training_host_network_transmitted_bytes_total", host.transmitted),
        ):
            families.add(name, value)
        for direction, total in (("received", host.received), ("transmitted", host.transmitted)):
            packets = total / PACKET_BYTES
            families.add("training_host_network_packets_total", packets, direction)
            families.add("training_host_network_errors_total", 0.0, direction, "error")
            drops = packets * 2e-7 * (direction == "received")  # a few, as everywhere
            families.add("training_host_network_errors_total", drops, direction, "drop")

    def _process(self, families: Families, run: Run, rank: Rank) -> float:
        identity = (run.name, str(rank.number))
        since, rate = run.trouble.leaks.get(rank.number, (run.now, 0.0))
        resident = RESIDENT_BYTES * (1.0 + 0.01 * rank.pace) + rate * (run.now - since)
        seconds = self._host.cpu_seconds.get((run.name, rank.number), 0.0)
        families.add("training_process_cpu_seconds_total", seconds, *identity)
        families.add("training_process_resident_memory_bytes", resident, *identity)
        families.add("training_process_open_files", 148.0, *identity)
        families.add("training_process_threads", 96.0, *identity)
        return resident
