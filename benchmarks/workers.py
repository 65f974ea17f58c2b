"""Starts and ends the processes of `peer_worker`, and asks them."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from benchmarks.measure import Effort
from benchmarks.peers import Peer

SCRIPT = str(Path(__file__).with_name("peer_worker.py"))
START_SECONDS, ANSWER_SECONDS, END_SECONDS = 90.0, 120.0, 60.0


@dataclass(frozen=True)
class Worker:
    """A process that answers one request at a time; between them it waits."""

    process: subprocess.Popen[bytes]
    stream: IO[str]

    def ask(self, count: int) -> Any:
        """The answer to a request, however long it takes within the connection's limit."""
        print(count, file=self.stream, flush=True)
        return json.loads(self.stream.readline())


def of_effort(peers: Mapping[str, Peer], effort: Effort) -> dict[str, Peer]:
    """Those to measure: a smoke run leaves out other projects' trackers, which take long to start."""
    ours = {"trainbeacon", "prometheus_client"}
    return {
        name: peer for name, peer in peers.items() if effort is not Effort.SMOKE or ours >= {*peer.modules}
    }


class WorkerError(Exception):
    """A worker cannot be had; the message says why, in words for the table."""


@contextlib.contextmanager
def worker(
    kind: str, name: str, peer: Peer, folder: str, first: str = "", launcher: Sequence[str] = ()
) -> Iterator[Worker]:
    """A worker, started by a launcher or by Python, and ended; `first`: see `Peer.environment`."""
    if missing := peer.not_installed():
        raise WorkerError(f"not installed ({', '.join(missing)})")
    with tempfile.TemporaryDirectory() as place, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{place}/socket")
        listener.listen(1)
        arguments = [listener.getsockname(), kind, name, folder]
        with open(f"{folder}/output", "ab") as output:
            process = subprocess.Popen(
                [*(launcher or (sys.executable, SCRIPT)), *arguments],
                env=peer.environment(folder, first),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            with _accepted(listener, process, folder) as connection, connection.makefile("rw") as stream:
                stream.readline()
                yield Worker(process, stream)
        finally:
            _end(process)


def _accepted(listener: socket.socket, process: subprocess.Popen[bytes], folder: str) -> socket.socket:
    """The worker's connection; its last words if it ended instead."""
    listener.settimeout(0.2)
    for _ in range(int(START_SECONDS / 0.2)):
        with contextlib.suppress(TimeoutError):
            connection, _ = listener.accept()
            connection.settimeout(ANSWER_SECONDS)
            return connection
        if process.poll() is not None:
            break
    last_words = Path(folder, "output").read_text(errors="replace")
    print(last_words, file=sys.stderr)
    raise WorkerError(f"did not start: {' '.join(last_words[-200:].split())}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """It ends with its connection; what does not, is ended with all that it started."""
    try:
        process.wait(timeout=END_SECONDS)
    except subprocess.TimeoutExpired:
        launched = psutil.Process(process.pid)
        for one in (*launched.children(recursive=True), launched):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait()
