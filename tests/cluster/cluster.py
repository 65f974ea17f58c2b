"""A cluster on one machine: hosts that train, and a hub with Prometheus, Alertmanager and a receiver.

A host is a network, a host name, processes, a /dev/shm and a limit of memory of its own, as a container is.
Prometheus has the shipped rules, Alertmanager the shipped routes and waits; both are on the hub,
as the receiver is.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.campaign.campaign import ShippedStack
from tests.cluster.nursery import Nursery
from tests.hosts.world import RUN, Host, build, shell

PROGRAMS = ("nsenter", "setpriv")
#: Two tenants; each has a folder in /dev/shm and a port of its own.
USERS = {"ada": 2001, "bob": 2002}
PORTS = (9797, 9798)
_MEMORY = Path("/sys/fs/cgroup/memory")
#: What a host may take: a rank with PyTorch takes about 300 MiB.
_LIMIT = 1_200_000_000


def group_limits() -> bool:
    """Whether hosts have a limit of memory: this machine's control groups are those of version 1."""
    return _MEMORY.is_dir()


def name_of(number: int) -> str:
    """The name of a host."""
    return f"gpu-{number}"


class Cluster:
    """That many hosts and the servers, from entering to leaving the context. Methods are for any thread."""

    def __init__(self, count: int, longest_wait: float | None = None) -> None:
        self._count, self._longest_wait = count, longest_wait
        self._turn = threading.Condition()
        self._ports = iter(range(29500, 32000))

    def __enter__(self) -> Cluster:
        build([name_of(number) for number in range(self._count)], USERS)
        (RUN / "jobs").mkdir()
        self._closing = contextlib.ExitStack()
        self.hosts: dict[int, Host] = {}
        self._closing.callback(self._lose_all)
        for number in range(self._count):
            self.boot(number)
        self._free = set(self.hosts)
        targets = [f"{name_of(number)}:{port}" for number in self.hosts for port in PORTS]
        # A server ends with the thread that started it: this one lives as long as the cluster.
        self.operator = self._closing.enter_context(ThreadPoolExecutor(1))
        self.stack = ShippedStack(targets, self._longest_wait)
        self._closing.enter_context(self.stack)
        self.nursery = Nursery(RUN / "nursery.log")
        self._closing.callback(self.nursery.close)
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def _lose_all(self) -> None:
        for number, host in self.hosts.items():
            host.lose()
            with contextlib.suppress(OSError):
                self._group(number).rmdir()

    def boot(self, number: int) -> None:
        """Start a host, anew if there was one: nothing is left of that."""
        if number in self.hosts:
            self.hosts[number].lose()
        shell(f"ip link del v{number} 2>/dev/null || true")  # of one that was lost the kernel takes its time
        command = ["bash", "-c", "sleep infinity & wait"]
        log = RUN / f"{name_of(number)}.log"
        self.hosts[number] = Host(number, name_of(number), command, log, shm="32m")
        if group_limits():
            self._group(number).mkdir(exist_ok=True)
            (self._group(number) / "memory.limit_in_bytes").write_text(str(_LIMIT))
            (self._group(number) / "memory.oom_control").write_text("0")

    def take(self, count: int) -> list[int]:
        """Hosts for a job; blocks until so many are free."""
        with self._turn:
            self._turn.wait_for(lambda: len(self._free) >= count)
            taken = sorted(self._free)[:count]
            self._free -= set(taken)
            return taken

    def give_back(self, numbers: Sequence[int]) -> None:
        """They are booted anew for whoever has them next."""
        for number in numbers:
            self.boot(number)
        with self._turn:
            self._free |= set(numbers)
            self._turn.notify_all()

    def port(self) -> int:
        """For ranks to meet at: another one each time."""
        with self._turn:
            return next(self._ports)

    def group_of(self, number: int) -> Path | None:
        """The control group of a host."""
        return self._group(number) if group_limits() else None

    def _group(self, number: int) -> Path:
        return _MEMORY / f"trainbeacon-tests-{name_of(number)}-{os.getppid()}-{RUN.stat().st_dev}"
