"""What the tests of serving share: real ranks, agents, scrapes over HTTP, and waiting for conditions."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import psutil

from trainbeacon.blackbox.directory import open_directory
from trainbeacon.blackbox.election import exporter_is_there, read_note
from trainbeacon.stack.ports import free_port
from trainbeacon.testing import Series, read_exposition, series

REPOSITORY = Path(__file__).resolve().parent.parent
RANK = Path(__file__).with_name("rank.py")
OPENMETRICS = "application/openmetrics-text; version=1.0.0"

Result = TypeVar("Result")

#: Seconds after which a condition is taken never to come to hold: none that a machine full of work reaches.
PATIENCE = 120.0


def wait_for(condition: Callable[[], Result], seconds: float = PATIENCE, what: str = "") -> Result:
    """The first true answer of `condition`; fails after that many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"after {seconds:g} s still no {what or condition}")
        time.sleep(0.05)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        raw = gzip.decompress(self.body) if self.headers.get("content-encoding") == "gzip" else self.body
        return raw.decode()


def request(url: str, method: str = "GET", timeout: float = PATIENCE, **headers: str) -> Answer:
    """One HTTP request on a connection of its own; header names with _ for -."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=timeout)
    try:
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        connection.request(method, target, headers={k.replace("_", "-"): v for k, v in headers.items()})
        response = connection.getresponse()
        body = response.read()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, body)
    finally:
        connection.close()


def scrape(url: str) -> dict[Series, float]:
    return read_exposition(request(url).text)


def environment(rank: int = 0, world_size: int = 1, **more: str) -> dict[str, str]:
    """The environment of one rank under torchrun, with nothing of ours from outside."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TRAINBEACON_")}
    return {
        **inherited,
        "PYTHONPATH": f"{REPOSITORY / 'exporter'}{os.pathsep}{REPOSITORY}",
        "PYTHONWARNINGS": "error",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "TORCHELASTIC_RUN_ID": "tests",
        "TORCHELASTIC_RESTART_COUNT": "0",
        **more,
    }


class Rank:
    """A real process of tests/rank.py: records, and then does what it is told a line at a time."""

    def __init__(
        self, settings: Mapping[str, Any], env: Mapping[str, str], errors: Path, cwd: Path | None = None
    ) -> None:
        self._errors = errors
        with errors.open("w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, str(RANK), json.dumps(dict(settings), default=str)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=env,
                cwd=cwd,
                text=True,
                start_new_session=True,
            )

    @property
    def errors(self) -> str:
        """What the process said on standard error."""
        return self._errors.read_text()

    def wait_until_ready(self) -> Rank:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line == "ready\n", line + self.errors
        return self

    def tell(self, command: str) -> None:
        """Give a command and do not wait for it: see tests/rank.py."""
        assert self.process.stdin
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def ask(self, command: str) -> str:
        """Give a command and wait for its one line of an answer."""
        self.tell(command)
        assert self.process.stdout
        return self.process.stdout.readline().rstrip("\n")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self, command: str = "finish", seconds: float = PATIENCE) -> int:
        """End the process in that way and return its exit status."""
        self.tell(command)
        return self.process.wait(seconds)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):  # a pipe of a process that is gone
                if stream:
                    stream.close()


@dataclass
class Node:
    """One directory of black boxes with the ranks and the exporters that belong to it; cleans up."""

    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    ranks: list[Rank] = field(default_factory=list)
    agents: list[subprocess.Popen[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        defaults = {
            "run": "r",
            "directory": str(self.folder),
            "host": "127.0.0.1",
            "port": free_port(),
            "linger_seconds": 3.0,
            "gpu": False,
        }
        self.settings = {**defaults, **self.settings}
        self.folder.mkdir(parents=True, exist_ok=True)
        self._descriptor = open_directory(str(self.folder))

    def rank(self, rank: int = 0, world_size: int = 1, ready: bool = True, **settings: Any) -> Rank:
        """Start a rank, and wait until it records if it shall be `ready`."""
        errors = self.folder / f"stderr-{len(self.ranks)}"
        env = {**environment(rank, world_size), **self.environment}
        started = Rank({**self.settings, **settings}, env, errors, self.cwd)
        self.ranks.append(started)
        return started.wait_until_ready() if ready else started

    def agent(self, *arguments: str, wait: bool = True) -> subprocess.Popen[str]:
        """Start `trainbeacon agent` on the directory; with `wait`, until it serves."""
        fixed = [f"--directory={self.folder}", "--host=127.0.0.1", f"--port={self.settings['port']}"]
        fixed += [] if self.settings["gpu"] else ["--no-gpu"]
        agent = subprocess.Popen(
            [sys.executable, "-m", "trainbeacon", "agent", *fixed, *arguments],
            env={**environment(), **self.environment},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.agents.append(agent)
        if wait:
            self.url()
        return agent

    @property
    def is_served(self) -> bool:
        return exporter_is_there(self._descriptor)

    def url(self) -> str:
        """Where the present exporter serves; waits until there is one that answers."""
        return wait_for(self._answering, what=f"exporter; log: {self.log()}")

    def _answering(self) -> str:
        note = read_note(self._descriptor) if self.is_served else None
        if note is None:
            return ""
        with contextlib.suppress(OSError, http.client.HTTPException):
            if request(note.url.replace("/metrics", "/healthz")).status == 200:
                return note.url
        return ""

    @property
    def exporter_pid(self) -> int:
        """The process that serves now."""
        self.url()
        note = read_note(self._descriptor)
        assert note
        return note.pid

    def scrape(self) -> dict[Series, float]:
        return scrape(self.url())

    def state(self, rank: int = 0, run: str = "r") -> str:
        """The state that the rank is served in, empty if it is not served."""
        served = self.scrape()
        states = [
            key.label("state")
            for key, value in served.items()
            if key.name == "training_state" and value == 1.0
            if key.label("rank") == str(rank) and key.label("run") == run
        ]
        assert len(states) <= 1
        return states[0] if states else ""

    def value(self, name: str, rank: int = 0, **labels: str) -> float | None:
        return self.scrape().get(series(name, run="r", rank=rank, **labels))

    def log(self) -> str:
        path = self.folder / "exporter.log"
        return path.read_text() if path.exists() else ""

    def processes(self) -> list[psutil.Process]:
        """Processes that serve this directory, whoever started them."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                ours = f"--directory={self.folder}" in process.cmdline()
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def close(self) -> None:
        for rank in self.ranks:
            rank.close()
        for agent in self.agents:
            agent.kill()
            agent.wait()
            if agent.stderr:
                agent.stderr.close()
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)
        os.close(self._descriptor)


@contextlib.contextmanager
def node(folder: Path, **settings: Any) -> Iterator[Node]:
    """A node that leaves nothing running."""
    made = Node(folder, settings)
    try:
        yield made
    finally:
        made.close()
