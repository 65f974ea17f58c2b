"""A real Alertmanager on loopback with the shipped routes, and what it sends."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from trainbeacon.stack.ports import free_port

Message = dict[str, Any]
Labels = Mapping[str, str]
#: For a condition that comes about by itself; a loaded machine takes its time.
SECONDS = 60.0


class Receiver(ThreadingHTTPServer):
    """Collects what is posted to /alerts and /watchdog."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.messages: dict[str, queue.Queue[Message]] = {
            "/alerts": queue.Queue(),
            "/watchdog": queue.Queue(),
        }


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.messages[self.path].put(json.loads(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Keep the tests' output for what fails."""


class Alertmanager:
    """One server whose configuration can be exchanged while it runs."""

    def __init__(
        self, address: str, receiver: Receiver, file: Path, process: subprocess.Popen[bytes]
    ) -> None:
        self.address = address
        self.receiver = receiver
        self._file = file
        self._process = process

    def load(self, configuration: Mapping[str, Any]) -> None:
        """Take another configuration."""
        self._file.write_text(yaml.safe_dump(dict(configuration), sort_keys=False))
        urllib.request.urlopen(f"{self.address}/-/reload", b"", timeout=SECONDS).close()

    def post(self, *labels: Labels, over: bool = False, **annotations: str) -> None:
        """Have alerts firing, or over."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        alerts = [
            {"labels": dict(each), "annotations": {"summary": "of a test", **annotations}}
            | ({"endsAt": now} if over else {})
            for each in labels
        ]
        request = urllib.request.Request(
            f"{self.address}/api/v2/alerts",
            json.dumps(alerts).encode(),
            {"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=SECONDS).close()

    def message(self, path: str = "/alerts") -> Message:
        """The next message; fails after a minute without one."""
        return self.receiver.messages[path].get(timeout=SECONDS)

    def alerts(self) -> list[Message]:
        """What it knows, with the state of each."""
        with urllib.request.urlopen(f"{self.address}/api/v2/alerts", timeout=SECONDS) as answer:
            return list(json.load(answer))

    def wait_until_ready(self) -> None:
        """Fails after a minute, or when it has ended."""
        wait_until_ready(self.address, self._process)


def wait_until_ready(address: str, process: subprocess.Popen[bytes]) -> None:
    """Fails after a minute, or when the process has ended."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, "Alertmanager ended at once"
        try:
            urllib.request.urlopen(f"{address}/-/ready", timeout=1).close()
        except (urllib.error.URLError, ConnectionError):
            threading.Event().wait(0.05)
        else:
            return
    raise AssertionError(f"Alertmanager was not ready within {SECONDS:.0f} s")


def shipped(repository: Path, receiver: Receiver) -> dict[str, Any]:
    """The configuration that is shipped, with the addresses of this machine."""
    text = (repository / "alertmanager/alertmanager.yml").read_text()
    here = {
        "127.0.0.1:9095": f"127.0.0.1:{receiver.server_port}",
        "- templates/": f"- {repository}/alertmanager/templates/",
    }
    for old, new in here.items():
        assert old in text
        text = text.replace(old, new)
    found = yaml.safe_load(text)
    assert isinstance(found, dict)
    return found


def with_times(route: Mapping[str, Any], times: Mapping[str, str]) -> dict[str, Any]:
    """A route with other waiting times: by the ones that it has."""
    changed = {key: times.get(f"{key} {value}", value) for key, value in route.items() if key != "routes"}
    if "routes" in route:
        changed["routes"] = [with_times(child, times) for child in route["routes"]]
    return changed


@contextmanager
def serving(program: str, repository: Path, folder: Path, times: Mapping[str, str]) -> Iterator[Alertmanager]:
    """An Alertmanager with the shipped configuration, but for waiting times given as `name old: new`."""
    receiver = Receiver()
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    configuration = shipped(repository, receiver)
    configuration["route"] = with_times(configuration["route"], times)
    file = folder / "alertmanager.yml"
    file.write_text(yaml.safe_dump(configuration, sort_keys=False))
    port = free_port()
    command = [
        program,
        f"--config.file={file}",
        f"--storage.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    ]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            server = Alertmanager(f"http://127.0.0.1:{port}", receiver, file, process)
            server.wait_until_ready()
            yield server
        finally:
            process.terminate()
            process.wait(timeout=SECONDS)
            receiver.shutdown()
            receiver.server_close()
