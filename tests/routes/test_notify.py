"""The real Alertmanager, the bridge as a process of its own, and a service that Apprise speaks to."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.routes.served import wait_until_ready
from trainbeacon.stack.ports import free_port

CONFIGURATION = """
route: {{receiver: team, group_by: [run], group_wait: 0s, group_interval: 1s, repeat_interval: 1h}}
receivers: [{{name: team, webhook_configs: [{{url: "http://127.0.0.1:{port}/alerts/team"}}]}}]
"""


class Service(ThreadingHTTPServer):
    """Takes messages as Apprise's json:// sends them; refuses the first `refusals` of them."""

    def __init__(self, refusals: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.refusals = refusals
        self.messages: queue.Queue[dict[str, Any]] = queue.Queue()


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        refused, self.server.refusals = self.server.refusals > 0, self.server.refusals - 1
        if not refused:
            self.server.messages.put(content)
        self.send_response(500 if refused else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Keep the tests' output for what fails."""


@contextmanager
def running(command: list[str], log: Path, ready: str) -> Iterator[None]:
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            wait_until_ready(ready, process)
            yield
        finally:
            process.terminate()
            process.wait(timeout=120)


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service(refusals=1)
    threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def address(alertmanager: str, service: Service, tmp_path: Path) -> Iterator[str]:
    port, own = free_port(), free_port()
    (tmp_path / "team").write_text(f"json://127.0.0.1:{service.server_port}/\n")
    settings = f"receivers: {{team: {{urls_file: {tmp_path / 'team'}, coalesce_seconds: 0}}}}"
    (tmp_path / "notify.yaml").write_text(settings)
    (tmp_path / "alertmanager.yml").write_text(CONFIGURATION.format(port=port))
    bridge = [sys.executable, "-m", "trainbeacon", "notify", "--config", str(tmp_path / "notify.yaml")]
    command = [
        alertmanager,
        f"--config.file={tmp_path}/alertmanager.yml",
        f"--storage.path={tmp_path}/data",
        f"--web.listen-address=127.0.0.1:{own}",
        "--cluster.listen-address=",
    ]
    with (
        serving([*bridge, f"--port={port}"], tmp_path / "notify.log"),
        running(command, tmp_path / "log", f"http://127.0.0.1:{own}"),
    ):
        yield f"http://127.0.0.1:{own}"


@contextmanager
def serving(command: list[str], log: Path) -> Iterator[None]:
    """The bridge, from its word that it listens on."""
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            while b"listening on" not in log.read_bytes():
                assert process.poll() is None, log.read_text()
                threading.Event().wait(0.05)
            yield
        finally:
            process.terminate()
            assert 0 == process.wait(timeout=120)


def test_a_page_survives_a_service_that_refuses_it_once(address: str, service: Service) -> None:
    """Refused at first, the bridge answers 503, Alertmanager tries again by itself, and the page arrives."""
    labels = {"alertname": "TrainingRankLost", "severity": "critical", "run": "gpt", "rank": "3"}
    alerts = [{"labels": labels, "annotations": {"summary": "A rank is lost.", "description": "Rank 3."}}]
    body = json.dumps(alerts).encode()
    request = urllib.request.Request(f"{address}/api/v2/alerts", body, {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=120).close()
    message = service.messages.get(timeout=120)
    assert message["title"].startswith("Rank lost in gpt since ")
    assert message["title"].endswith(" UTC: rank 3")
    assert "Rank 3." in message["message"]
    assert service.refusals <= 0
