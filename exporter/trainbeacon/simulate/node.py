"""One simulated node: its GPUs, its host, its boxes, and the exporter that serves them."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable

from trainbeacon.blackbox.directory import open_directory
from trainbeacon.blackbox.reader import BoxDirectory
from trainbeacon.exporter.collectors.base import Collector, Families
from trainbeacon.exporter.collectors.health import HealthCollector
from trainbeacon.exporter.collectors.ranks import RanksCollector
from trainbeacon.exporter.collectors.user_metrics import UserMetricsCollector
from trainbeacon.exporter.health import Health
from trainbeacon.exporter.http.limits import Limits
from trainbeacon.exporter.http.pages import Application, answer
from trainbeacon.exporter.http.server import Server
from trainbeacon.exporter.http.wsgi import Environ, StartResponse
from trainbeacon.exporter.registry import GuardedCollectors, new_registry
from trainbeacon.exporter.service import clean
from trainbeacon.simulate.model.gpus import Gpu, Load, SimulatedGpus, load_of
from trainbeacon.simulate.model.hosts import Host, SimulatedHost
from trainbeacon.simulate.model.rank import Rank
from trainbeacon.simulate.model.run import Run
from trainbeacon.simulate.model.trouble import GpuTrouble
from trainbeacon.stack.ports import free_port

from .box import MemoryBoxes, SimulatedBox
from .recording import describe, record

LINGER_SECONDS = 60.0
RETENTION_SECONDS = 3600.0
#: How long somebody who is not Prometheus waits for his turn.
PATIENCE_SECONDS = 10.0
Clock = Callable[[], float]


class Node:
    """A node of `gpus` GPUs, with boxes in `directory`, or in memory where `in_memory`.

    Everything that changes it happens under `guard`, which all nodes of a fleet share.
    """

    def __init__(
        self,
        number: int,
        gpus: int,
        *,
        seed: int,
        clock: Clock,
        directory: str,
        in_memory: bool,
        guard: threading.RLock,
    ) -> None:
        now = clock()
        self.number = number
        self.hostname = f"gpu-node-{number:03d}"
        self.gpus = [Gpu(index, seed * 1000 + number, now) for index in range(gpus)]
        self.host = Host(seed * 1000 + number, now)
        self.runs: list[Run] = []
        self._clock = clock
        self._guard = guard
        self._directory = directory
        self._in_memory = in_memory
        self._folder = open_directory(directory)
        self.boxes: BoxDirectory = MemoryBoxes(self._folder) if in_memory else BoxDirectory(self._folder)
        self.health = Health()
        self._described: set[int] = set()
        self._port = 0
        #: Whether its exporter is to be gone; whoever serves looks at it.
        self.is_down = False
        self.server: Server | None = None

    def open_box(self, run: str, rank: int, attempt: int, start: float) -> SimulatedBox:
        """A new process starts here."""
        box = SimulatedBox(None if self._in_memory else self._directory, run, rank, attempt, start)
        if isinstance(self.boxes, MemoryBoxes):
            self.boxes.take(box)
        return box

    def update(self) -> None:
        """Bring everything on this node to the present, and write it into the boxes."""
        with self._guard:
            now = self._clock()
            for run in self.runs:
                run.advance(now)
            loads: dict[int, tuple[Load, GpuTrouble]] = {}
            for run, rank in self.ranks():
                trouble = run.trouble.gpus.get(rank.number, _WELL)
                loads[rank.place.gpu] = (load_of(run, rank.number), trouble)
                self.write(run, rank)
            for gpu in self.gpus:
                gpu.advance(now, *loads.get(gpu.index, (Load(), _WELL)))
            self.host.advance(now, self.living())
            if isinstance(self.boxes, MemoryBoxes):
                self.boxes.changed()

    def ranks(self) -> list[tuple[Run, Rank]]:
        """The ranks that are placed here, with their runs."""
        return [(run, rank) for run in self.runs for rank in run.ranks if rank.place.node == self.number]

    def living(self) -> list[tuple[Run, Rank]]:
        """Those that live."""
        return [(run, rank) for run, rank in self.ranks() if rank.is_alive]

    def write(self, run: Run, rank: Rank) -> None:
        """Write the present state of a rank of this node into its box, if it lives."""
        if not rank.is_alive:
            return
        if id(rank) not in self._described:
            self._described.add(id(rank))
            describe(run, rank, self.hostname, self.gpus[rank.place.gpu].uuid)
        record(run, rank)

    # Serving

    def collectors(self, mode: str = "agent") -> tuple[Collector, ...]:
        """What a scrape of this node reads, in the order of the real exporter."""
        ranks = _SimulatedRanks(self)
        return (
            ranks,
            SimulatedGpus(self.gpus),
            SimulatedHost(self.host, self.living),
            UserMetricsCollector(self.boxes.descriptor, ranks.served, self.health),
            HealthCollector(self.health, self.boxes, mode, self._clock),
        )

    def source(self) -> GuardedCollectors:
        """All collectors, guarded and within budgets, as one."""
        return GuardedCollectors(self.collectors(), self.health)

    def serve(self, port: int) -> None:
        """Open the port, with the real server."""
        registry = new_registry(self.collectors(), self.health)
        application = InTurn(Application(registry, self.health, self.boxes.scan, lambda: None), self._guard)
        limits = Limits(threads=2)
        self.server = Server(application, self.health, "127.0.0.1", port or free_port(), limits=limits)
        self._port = self.server.port
        self.server.start()

    def serve_again(self) -> None:
        """Open the port of before."""
        if self.server is None:
            self.serve(self._port)

    @property
    def address(self) -> str:
        """Host and port of the target."""
        return f"127.0.0.1:{self._port}"

    def stop_serving(self) -> None:
        """Close the port: the exporter is gone."""
        if self.server is not None:
            self.server.stop()
            self.server = None

    def clean(self) -> None:
        """Remove what is superseded, as an exporter does."""
        if not self._in_memory:
            clean(self._folder, self.boxes.scan(), self._clock(), RETENTION_SECONDS)

    def close(self) -> None:
        """End the server and all ranks."""
        self.stop_serving()
        for _, rank in self.ranks():
            rank.box.end(None)
        os.close(self._folder)


_WELL = GpuTrouble()


class InTurn:
    """Answers one request of the whole fleet at a time: hundreds at once would fight for one interpreter.

    Whoever has waited for as long as his scrape may take is refused: a page that nobody waits for any more
    would hold up all others, and a fleet that was late once would stay so.
    """

    def __init__(self, application: Application, guard: threading.RLock) -> None:
        self._application = application
        self._guard = guard

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request, in its turn."""
        if not self._guard.acquire(timeout=_patience(environ)):
            return answer(start_response, "503 Service Unavailable", "too many scrapes at once\n")
        try:
            return self._application(environ, start_response)
        finally:
            self._guard.release()


def _patience(environ: Environ) -> float:
    """Seconds that a request waits for its turn: what Prometheus says that it waits itself."""
    with contextlib.suppress(ValueError):
        return max(0.0, min(60.0, float(environ.get("HTTP_X_PROMETHEUS_SCRAPE_TIMEOUT_SECONDS", ""))))
    return PATIENCE_SECONDS


class _SimulatedRanks(RanksCollector):
    """The ranks collector, with the node brought to the present first."""

    def __init__(self, node: Node) -> None:
        super().__init__(node.boxes, LINGER_SECONDS, node._clock)
        self._node = node

    def collect(self, families: Families) -> None:
        self._node.update()
        super().collect(families)
