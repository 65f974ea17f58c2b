"""Starts one training process a rank and ends them all, whatever happens.

Why not torchrun: when one rank dies, torchrun ends all others within a tenth of a second by SIGTERM. Every
rank is then gone without a word, and neither the display nor the alert could tell the rank at fault from its
victims. Here the victims live on, as under Slurm or one pod a rank: they fail with a connection error, which
TrainBeacon records as their state, and only the culprit is `crashed`. The variables are torchrun's own.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Thread
from types import TracebackType

from trainbeacon.stack import processes
from trainbeacon.stack.ports import free_port

JOB = "trainbeacon.demo.job"
_SECONDS_FOR_LAST_LINES = 2.0


class Ranks:
    """The training processes of one job on this machine.

    A context manager: no rank outlives it. Each rank's standard error goes to `folder/rank<N>.log`; each line
    of its standard output is handed to `on_line(rank, line)`, in a thread of that rank.
    """

    def __init__(
        self,
        count: int,
        arguments: Sequence[str],
        folder: Path,
        on_line: Callable[[int, str], None] = lambda rank, line: None,
        module: str = JOB,
    ) -> None:
        self._count = count
        self._line = [sys.executable, "-m", module, *arguments]
        self._folder = folder
        self._on_line = on_line
        self._ranks: list[subprocess.Popen[str]] = []
        self._listeners: list[Thread] = []

    def __enter__(self) -> Ranks:
        port = str(free_port())
        try:
            for rank in range(self._count):
                self._ranks.append(self._start(rank, port))
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pids(self) -> list[int]:
        """Process ids in order of the ranks."""
        return [process.pid for process in self._ranks]

    def results(self) -> list[int | None]:
        """Exit status of each rank (negative: the signal), None while it lives."""
        return [process.poll() for process in self._ranks]

    @property
    def alive(self) -> bool:
        """Whether any rank lives."""
        return None in self.results()

    def log(self, rank: int) -> Path:
        """File with what the rank wrote to its standard error."""
        return self._folder / f"rank{rank}.log"

    def wait(self, seconds: float) -> bool:
        """Wait for all ranks to end; returns whether they did."""
        return processes.wait_until(lambda: not self.alive, seconds)

    def stop(self) -> None:
        """End all ranks that live, also stopped ones."""
        processes.stop(self._ranks)
        for listener in self._listeners:
            listener.join(_SECONDS_FOR_LAST_LINES)

    def _start(self, rank: int, port: str) -> subprocess.Popen[str]:
        count = str(self._count)
        variables = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": count,
            "LOCAL_WORLD_SIZE": count,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "OMP_NUM_THREADS": "1",
        }
        process = processes.start(self._line, self.log(rank), variables, piped=True)
        listener = Thread(target=self._listen, args=(rank, process), daemon=True)
        listener.start()
        self._listeners.append(listener)
        return process

    def _listen(self, rank: int, process: subprocess.Popen[str]) -> None:
        if process.stdout is None:
            return
        with process.stdout as lines, contextlib.suppress(ValueError):
            for line in lines:
                self._on_line(rank, line.rstrip("\n"))


def describe(result: int) -> str:
    """An exit status in words: `exit status 1`, `killed by SIGKILL`."""
    return f"killed by {signal.Signals(-result).name}" if result < 0 else f"exit status {result}"
