"""Starts and ends the jobs of the campaign: their ranks, and who serves them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType

from tests.campaign.rank import Job
from tests.serving import REPOSITORY
from trainbeacon.blackbox.directory import open_directory
from trainbeacon.blackbox.election import read_note
from trainbeacon.stack import processes
from trainbeacon.stack.ports import port_is_free

#: Seconds that a process may take to be gone.
PATIENCE_SECONDS = 20.0


class Nursery:
    """The process that forks all ranks; a context manager. Its methods may be called from any thread."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._turn = threading.Lock()

    def __enter__(self) -> Nursery:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.campaign.rank"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=REPOSITORY,
                env=environment,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()  # the leaders end their ranks when it is gone
        self._process.wait(PATIENCE_SECONDS)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def start(self, job: Job) -> int:
        """Start the ranks of a job. Returns the process group that they are in."""
        return self._order(asdict(job))

    def end(self, group: int) -> None:
        """Kill what is left of a job."""
        self._order(group)

    def _order(self, order: object) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._turn:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            return int(self._process.stdout.readline())


class Running:
    """A job on its way, with its exporters: a context manager, after which nothing of it is left.

    The ports must be free to begin with, and are again afterwards.
    """

    def __init__(self, nursery: Nursery, job: Job) -> None:
        self.job = job
        self._nursery = nursery
        self._groups: list[int] = []
        self._agents: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Running:
        for boxes in self.job.boxes:
            Path(boxes).mkdir(parents=True, mode=0o700, exist_ok=True)
        if self.job.serve == "off":
            for boxes, port in zip(self.job.boxes, self.job.ports, strict=True):
                self._agents.append(self._agent(boxes, port))
        self.launch()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for group in self._groups:
            self._nursery.end(group)
        for node in range(len(self.job.boxes)):
            self.end_exporter(node)
        processes.stop(self._agents)
        processes.wait_until(lambda: all(port_is_free(port) for port in self.job.ports), PATIENCE_SECONDS)

    def launch(self) -> None:
        """Start the ranks."""
        self._groups.append(self._nursery.start(self.job))

    def launch_again(self, world_size: int | None = None, steps: int | None = None) -> None:
        """Start them anew, as a launcher does after a failure."""
        self.job = replace(
            self.job,
            attempt=self.job.attempt + 1,
            world_size=world_size or self.job.world_size,
            steps=steps or self.job.steps,
        )
        self.launch()

    @property
    def over(self) -> bool:
        """Whether all ranks of the present attempt have ended."""
        return (Path(self.job.folder) / f"over{self.job.attempt}").exists()

    @property
    def moves(self) -> bool:
        """Whether it makes steps."""
        return (Path(self.job.folder) / "moves").exists()

    def order_fault(self) -> None:
        """Have the fault begin."""
        self.job.mark.touch()

    def struck(self) -> float | None:
        """When it began, as the rank at fault says."""
        path = Path(self.job.folder) / "struck"
        return float(path.read_text()) if path.exists() else None

    def kill_ranks(self) -> None:
        """SIGKILL to all of them at once."""
        self._nursery.end(self._groups.pop())

    def go_on(self) -> None:
        """SIGCONT to all ranks."""
        os.killpg(self._groups[-1], signal.SIGCONT)

    def start_over(self, *, world_size: int | None = None) -> None:
        """Kill what is left of the present attempt and launch another one, without the fault."""
        if self._groups and not self.over:
            self.kill_ranks()
        self.job.mark.unlink(missing_ok=True)
        self.launch_again(world_size=world_size)

    def end_exporter(self, node: int, how: int = signal.SIGINT) -> bool:
        """End the exporter that serves a node; returns whether there was one."""
        boxes = self.job.boxes[node]
        if not os.path.isdir(boxes):
            return False
        descriptor = open_directory(boxes)
        note = read_note(descriptor)
        os.close(descriptor)
        if note is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(note.pid, how)
            return True
        return False

    def kill_agent(self, node: int) -> None:
        """SIGKILL to the agent of a node."""
        self._agents[node].kill()
        self._agents[node].wait(PATIENCE_SECONDS)

    def start_agent(self, node: int) -> None:
        """Start the agent of a node anew."""
        self._agents[node] = self._agent(self.job.boxes[node], self.job.ports[node])

    def logs(self) -> str:
        """The ends of all logs, for an error message."""
        folder = Path(self.job.folder)
        return "\n".join(processes.last_lines(path, 8) for path in sorted(folder.rglob("*.log")))

    def _agent(self, boxes: str, port: int) -> subprocess.Popen[str]:
        line = [sys.executable, "-m", "trainbeacon", "agent", f"--directory={boxes}", "--no-gpu"]
        return processes.start(
            [*line, "--host=127.0.0.1", f"--port={port}"], Path(self.job.folder) / "agent.log"
        )


def wait_for_ports(ports: Sequence[int]) -> None:
    """Until nobody listens there. Raises TimeoutError."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not all(port_is_free(port) for port in ports):
        if time.monotonic() > end:
            raise TimeoutError(f"somebody listens on one of the ports {list(ports)}")
        time.sleep(0.2)
