"""A fleet: runs on nodes, side by side, with one target a node."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shutil
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from trainbeacon.blackbox import files
from trainbeacon.exporter.exposition import make_room
from trainbeacon.simulate.model.rank import Place, Rank
from trainbeacon.simulate.model.run import Run
from trainbeacon.simulate.model.workload import name_of, workload_of

from .box import SimulatedBox
from .node import Clock, Node

#: From so many ranks on the boxes are kept in memory: a file takes 256 KiB of /dev/shm.
MOST_FILES = 256
CLUSTER, NAMESPACE = "simulated", "training"
#: More than a rank has, with its GPU and its share of node and run.
_SERIES_A_RANK = 400
SD_FILE = "trainbeacon-simulate.json"


@dataclass(frozen=True)
class Size:
    """How large a fleet is. Ranks are dealt to nodes evenly, and runs take ranks in their order."""

    ranks: int = 16
    nodes: int = 2
    runs: int = 2
    #: Pipeline stages of each run; its ranks are dealt to them evenly, the first to the first stage.
    stages: int = 1

    def __post_init__(self) -> None:
        if self.ranks // self.runs < self.stages:
            raise ValueError(f"{self.ranks // self.runs} ranks a run are too few for {self.stages} stages")
        if self.ranks < max(self.nodes, self.runs):
            raise ValueError(f"{self.ranks} ranks are too few for {self.nodes} nodes and {self.runs} runs")

    @property
    def gpus_a_node(self) -> int:
        """GPUs of each node: enough for its ranks."""
        return -(-self.ranks // self.nodes)

    def places(self, run: int) -> list[Place]:
        """Where the ranks of a run are."""
        first, last = run * self.ranks // self.runs, (run + 1) * self.ranks // self.runs
        return [Place(*divmod(slot, self.gpus_a_node)) for slot in range(first, last)]


class Fleet:
    """All runs and nodes. `spares` further nodes stand ready for ranks that move.

    Made with `directory` None, boxes lie in a temporary directory, which `close` removes.
    """

    def __init__(
        self,
        size: Size,
        *,
        seed: int = 0,
        speed: float = 1.0,
        clock: Clock,
        directory: str | None = None,
        in_memory: bool | None = None,
        spares: int = 0,
    ) -> None:
        self.size = size
        self.speed = speed
        self.clock = clock
        self.guard = threading.RLock()
        self.in_memory = size.ranks > MOST_FILES if in_memory is None else in_memory
        self._temporary = None if directory else _temporary_directory(self.in_memory)
        folder = directory or self._temporary or ""
        self.nodes = [
            Node(
                number,
                size.gpus_a_node,
                seed=seed,
                clock=clock,
                directory=os.path.join(folder, "empty" if self.in_memory else f"node-{number:03d}"),
                in_memory=self.in_memory,
                guard=self.guard,
            )
            for number in range(size.nodes + spares)
        ]
        self.runs = [self._new_run(number, seed, speed) for number in range(size.runs)]
        for node in self.nodes:
            node.runs = self._runs_of(node, bool(spares))

    def _new_run(self, number: int, seed: int, speed: float) -> Run:
        name, places = name_of(number), self.size.places(number)

        def open_box(place: Place, rank: int, attempt: int, start: float) -> SimulatedBox:
            return self.nodes[place.node].open_box(name, rank, attempt, start)

        def write(run: Run, rank: Rank) -> None:
            self.nodes[rank.place.node].write(run, rank)

        workload = workload_of(number).faster(speed)
        seed, stages = seed * 1_000_003 + number, self.size.stages
        return Run(name, workload, seed, places, self.clock(), open_box, write, stages)

    def _runs_of(self, node: Node, may_move: bool) -> list[Run]:
        here = [run for run in self.runs if any(rank.place.node == node.number for rank in run.ranks)]
        return self.runs if may_move and node.number >= self.size.nodes else here

    def serve(self, port: int) -> None:
        """Open one port a node, from `port` on, or free ones where it is 0."""
        make_room(_SERIES_A_RANK * self.size.ranks)
        for node in self.nodes:
            node.serve(port + node.number if port else 0)
        # What a fleet is made of stays; to look through it again and again takes seconds of each minute.
        gc.collect()
        gc.freeze()

    def update(self) -> None:
        """Bring all nodes to the present."""
        for node in self.nodes:
            node.update()

    def advance(self) -> None:
        """Let all runs go on to the present, without writing anything."""
        with self.guard:
            for run in self.runs:
                run.advance(self.clock())

    def match_servers(self) -> None:
        """Close the port of a node whose exporter is to be gone, and open it again afterwards."""
        for node in self.nodes:
            if node.is_down:
                node.stop_serving()
            else:
                node.serve_again()

    def clean(self) -> None:
        """Remove boxes that are superseded."""
        for node in self.nodes:
            node.clean()

    def targets(self) -> list[dict[str, object]]:
        """The nodes as `file_sd_configs` wants them."""
        labels = {"cluster": CLUSTER, "namespace": NAMESPACE}
        return [{"targets": [node.address for node in self.nodes], "labels": labels}]

    def close(self) -> None:
        """Close all ports and end all ranks."""
        with ThreadPoolExecutor(max_workers=min(64, len(self.nodes))) as pool:
            list(pool.map(Node.stop_serving, self.nodes))  # each waits for its threads
        for node in self.nodes:
            node.close()
        if self._temporary:
            shutil.rmtree(self._temporary, ignore_errors=True)


def write_targets(folder: str, fleet: Fleet) -> str:
    """Write the targets into `folder` for `file_sd_configs`. Returns the path."""
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, SD_FILE)
    text = json.dumps(fleet.targets(), indent=1) + "\n"
    files.replace(path, text.encode(), mode=0o644)
    return path


def remove_targets(path: str) -> None:
    """Take the file away: the targets are gone."""
    with contextlib.suppress(OSError):
        os.unlink(path)


def _temporary_directory(in_memory: bool) -> str:
    base = "/dev/shm" if not in_memory and os.path.isdir("/dev/shm") else None  # noqa: S108 - mkdtemp is safe
    return tempfile.mkdtemp(prefix="trainbeacon-simulate-", dir=base)
