"""The node and its training processes as the operating system sees them, read through psutil.

What the system or a container does not let us read is absent, not an error.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import psutil

from .base import Families, RankProcess

#: Seconds over which processor use is reported, at least.
CPU_WINDOW = 5.0
#: Seconds between two kept readings of the processor times: with the window it bounds the history.
CPU_SPACING = 1.0

_LOOPBACK = {"lo", "lo0"}
#: What is read of a network card: psutil's field, and under which name and labels it is served.
_OF_CARDS = {
    "packets_recv": ("training_host_network_packets_total", "received"),
    "packets_sent": ("training_host_network_packets_total", "transmitted"),
    "errin": ("training_host_network_errors_total", "received", "error"),
    "errout": ("training_host_network_errors_total", "transmitted", "error"),
    "dropin": ("training_host_network_errors_total", "received", "drop"),
    "dropout": ("training_host_network_errors_total", "transmitted", "drop"),
}
#: What psutil raises for something that this system, or this container, does not show.
_NOT_SHOWN = (PermissionError, FileNotFoundError, NotImplementedError, psutil.AccessDenied)

#: Name, value, and the values of its own labels.
_Sample = tuple[Any, ...]
_Arguments = ParamSpec("_Arguments")
_Value = TypeVar("_Value")


class _CpuUse:
    """Share of processor time in use over a window that does not depend on who asks, or how often.

    The window reaches from now back to the youngest kept reading that is at least `CPU_WINDOW`
    seconds old; before there is one, back to construction. Two scrapers asking at the same moment
    get the same answer, which `psutil.cpu_percent` (measured since anyone's last call) does not give.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._history = deque([(clock(), *_cpu_times())])

    def ratio(self) -> float | None:
        """The share, 0 to 1; None if no processor time has passed yet."""
        now, (busy, total) = self._clock(), _cpu_times()
        while len(self._history) > 1 and now - self._history[1][0] >= CPU_WINDOW:
            self._history.popleft()
        _, busy_then, total_then = self._history[0]
        if now - self._history[-1][0] >= CPU_SPACING:
            self._history.append((now, busy, total))
        if total <= total_then:
            return None
        # The kernel's own figures may step back by a tick, idle and iowait above all.
        return min(1.0, max(0.0, (busy - busy_then) / (total - total_then)))


def _cpu_times() -> tuple[float, float]:
    """Processor seconds of all cores since boot: in use, and in all."""
    times = psutil.cpu_times()._asdict()
    # Linux counts the time of guests within user and nice too.
    total = sum(times.values()) - times.get("guest", 0.0) - times.get("guest_nice", 0.0)
    return total - times["idle"] - times.get("iowait", 0.0), total


class _Sums:
    """Adds up the counters of devices that come and go, so that the sum never falls.

    Without it, a device that leaves takes its count along, and Prometheus reads the lower sum as a
    restart from 0: a burst of traffic that never was.
    """

    def __init__(self) -> None:
        self._last: dict[str, Sequence[int]] = {}
        self._sums: list[int] = []

    def add(self, counters: Mapping[str, Sequence[int]]) -> list[int]:
        """Take the present counters of each device; return the sums over all devices ever seen."""
        for device, values in counters.items():
            last = self._last.get(device, [0] * len(values))
            self._sums = self._sums or [0] * len(values)
            for i, (value, before) in enumerate(zip(values, last, strict=True)):
                self._sums[i] += value - before if value >= before else value
        self._last = dict(counters)
        return list(self._sums)


class HostCollector:
    """Serves the node's processor, memory, disks and network, and the processes of live ranks.

    `ranks` names the live training processes. A scrape reads a handful of files in /proc, and about
    five per rank; it may run in several threads at once. Processor use is that of the whole node,
    also inside a container, over `CPU_WINDOW` seconds or a little more. Disks are the physical ones:
    what stands on them (partitions, LVM, RAID, loop devices) would count the same bytes again. So
    would network interfaces that stand on others (bonds, bridges, VLANs). Inside a network namespace
    of its own, as in a pod, only that namespace's interfaces can be seen. Packets and errors are those
    of network cards: the ends of virtual cables come and go with containers, and drop what they like.
    """

    name = "host"

    def __init__(
        self,
        ranks: Callable[[], Sequence[RankProcess]],
        clock: Callable[[], float] = time.monotonic,
        sysfs: str = "/sys",
    ) -> None:
        self._ranks = ranks
        self._sysfs = sysfs
        # An older reading that came after a newer one would look like a device that was reset.
        self._lock = threading.Lock()
        self._cpu = _shown(_CpuUse, clock)
        self._disks = _Sums()
        self._interfaces = _Sums()
        self._cards = _Sums()

    def collect(self, families: Families) -> None:
        """Read the node and each live rank's process now."""
        with self._lock:
            for read in (self._read_cpu, _memory, _shared_memory, self._read_disks, self._read_network):
                for name, value, *labels in _shown(read) or ():
                    families.add(name, value, *labels)
        for rank in self._ranks():
            for name, value in _process(rank.pid):
                families.add(name, value, rank.run, rank.rank)

    def _read_cpu(self) -> list[_Sample]:
        ratio = self._cpu.ratio() if self._cpu else None
        return [] if ratio is None else [("training_host_cpu_ratio", ratio)]

    def _read_disks(self) -> list[_Sample]:
        # nowrap=False: psutil would otherwise keep a history of its own, shared by the whole process.
        disks = psutil.disk_io_counters(perdisk=True, nowrap=False) or {}
        sums = self._disks.add(
            {disk: (io.read_bytes, io.write_bytes) for disk, io in disks.items() if self._is_physical(disk)}
        )
        names = ("training_host_disk_read_bytes_total", "training_host_disk_written_bytes_total")
        return list(zip(names, sums, strict=False))  # no disk was ever seen: no sums

    def _read_network(self) -> list[_Sample]:
        interfaces = psutil.net_io_counters(pernic=True, nowrap=False) or {}
        sums = self._interfaces.add(
            {nic: (io.bytes_recv, io.bytes_sent) for nic, io in interfaces.items() if self._is_counted(nic)}
        )
        names = (
            "training_host_network_received_bytes_total",
            "training_host_network_transmitted_bytes_total",
        )
        return [*zip(names, sums, strict=False), *self._of_cards(interfaces)]

    def _of_cards(self, interfaces: Mapping[str, Any]) -> list[_Sample]:
        cards = [nic for nic in interfaces if os.path.exists(f"{self._sysfs}/class/net/{nic}/device")]
        sums = self._cards.add(
            {card: [getattr(interfaces[card], field) for field in _OF_CARDS] for card in cards}
        )
        return [
            (name, value, *labels) for (name, *labels), value in zip(_OF_CARDS.values(), sums, strict=False)
        ]

    def _is_physical(self, disk: str) -> bool:
        if not os.path.isdir(f"{self._sysfs}/block"):
            return not psutil.LINUX  # elsewhere psutil lists whole disks only
        # Partitions have no directory here, and what is made of other disks has no device.
        return os.path.exists(f"{self._sysfs}/block/{disk.replace('/', '!')}/device")

    def _is_counted(self, interface: str) -> bool:
        if interface in _LOOPBACK:
            return False
        try:
            entries = os.listdir(f"{self._sysfs}/class/net/{interface}")
        except OSError:
            return True
        return not any(entry.startswith("lower_") for entry in entries)  # what it stands on is counted


def _memory() -> list[_Sample]:
    memory = psutil.virtual_memory()
    return [
        ("training_host_memory_used_bytes", memory.total - memory.available),
        ("training_host_memory_total_bytes", memory.total),
    ]


def _shared_memory() -> list[_Sample]:
    space = os.statvfs("/dev/shm")  # noqa: S108 - only looked at; macOS has none
    return [
        ("training_host_shared_memory_used_bytes", (space.f_blocks - space.f_bfree) * space.f_frsize),
        ("training_host_shared_memory_total_bytes", space.f_blocks * space.f_frsize),
    ]


#: What is read of a process; a field that another user's process hides is left out.
_PROCESS_FIELDS: tuple[tuple[str, Callable[[psutil.Process], float]], ...] = (
    ("training_process_cpu_seconds_total", lambda process: sum(process.cpu_times()[:2])),
    ("training_process_resident_memory_bytes", lambda process: process.memory_info().rss),
    ("training_process_open_files", lambda process: process.num_fds()),
    ("training_process_threads", lambda process: process.num_threads()),
)


def _process(pid: int) -> list[_Sample]:
    """The samples of one process; none if it ended, also in the middle of it."""
    samples = []
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            if _shown(process.status) == psutil.STATUS_ZOMBIE:
                return []
            for name, read in _PROCESS_FIELDS:
                value = _shown(read, process)
                if value is not None:
                    samples.append((name, value))
    except psutil.NoSuchProcess:
        return []
    return samples


def _shown(
    read: Callable[_Arguments, _Value], *args: _Arguments.args, **kwargs: _Arguments.kwargs
) -> _Value | None:
    """What `read` returns, or None where the system does not show it."""
    try:
        return read(*args, **kwargs)
    except _NOT_SHOWN:
        return None
