"""The shipped routes in the real Alertmanager on loopback, with a receiver of our own behind the webhooks.

Only the addresses and the waiting times differ from the file that is shipped.
"""

from __future__ import annotations

import json
import queue
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from trainbeacon.stack.ports import free_port

Message = dict[str, Any]
FASTER = {
    "group_wait: 10s": "group_wait: 1s",
    "group_wait: 5s": "group_wait: 1s",
    "group_interval: 1m": "group_interval: 2s",
}


class Receiver(ThreadingHTTPServer):
    """Collects what is posted to /alerts and /watchdog."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.messages: dict[str, queue.Queue[Message]] = {
            "/alerts": queue.Queue(),
            "/watchdog": queue.Queue(),
        }


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.messages[self.path].put(json.loads(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Keep the tests' output for what fails."""


@dataclass(frozen=True)
class Stack:
    address: str
    receiver: Receiver

    def post(self, *labels: dict[str, str]) -> None:
        alerts = [{"labels": each, "annotations": {"summary": "of a test"}} for each in labels]
        request = urllib.request.Request(
            f"{self.address}/api/v2/alerts",
            json.dumps(alerts).encode(),
            {"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=10).close()

    def message(self, path: str = "/alerts") -> Message:
        """The next message; fails after 30 s without one."""
        return self.receiver.messages[path].get(timeout=30)

    def active(self) -> dict[str, str]:
        """State of each alert that Alertmanager knows, by alert name and run."""
        with urllib.request.urlopen(f"{self.address}/api/v2/alerts", timeout=10) as answer:
            alerts = json.load(answer)
        return {
            f"{each['labels']['alertname']} {each['labels'].get('run', '')}": each["status"]["state"]
            for each in alerts
        }


def wait_until_ready(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        assert process.poll() is None, "Alertmanager ended at once"
        try:
            urllib.request.urlopen(f"{address}/-/ready", timeout=1).close()
        except (urllib.error.URLError, ConnectionError):
            threading.Event().wait(0.05)
        else:
            return
    raise AssertionError("Alertmanager was not ready within 30 s")


@pytest.fixture
def stack(alertmanager: str, repository: Path, tmp_path: Path) -> Iterator[Stack]:
    receiver = Receiver()
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    text = (repository / "alertmanager/alertmanager.yml").read_text()
    shipped = {
        "127.0.0.1:9095": f"127.0.0.1:{receiver.server_port}",
        "- templates/": f"- {repository}/alertmanager/templates/",
    }
    for old, new in {**FASTER, **shipped}.items():
        assert old in text
        text = text.replace(old, new)
    configuration = tmp_path / "alertmanager.yml"
    configuration.write_text(text)
    port = free_port()
    command = [
        alertmanager,
        f"--config.file={configuration}",
        f"--storage.path={tmp_path}/data",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    ]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            wait_until_ready(f"http://127.0.0.1:{port}", process)
            yield Stack(f"http://127.0.0.1:{port}", receiver)
        finally:
            process.terminate()
            process.wait(timeout=20)
            receiver.shutdown()
            receiver.server_close()


def critical(alertname: str, run: str, **labels: str) -> dict[str, str]:
    return {"alertname": alertname, "severity": "critical", "run": run, **labels}


def names(message: Message) -> list[str]:
    return sorted(
        f"{each['labels']['alertname']} {each['labels'].get('rank', '')}" for each in message["alerts"]
    )


def test_a_run_is_one_message(stack: Stack) -> None:
    """Alerts of several ranks and names are one message of their run; another run has its own."""
    stack.post(
        critical("TrainingRankLost", "a", rank="1"),
        critical("TrainingRankLost", "a", rank="2"),
        critical("TrainingLossNotFinite", "a"),
        critical("TrainingLossNotFinite", "b"),
    )
    first, second = sorted((stack.message(), stack.message()), key=lambda each: each["groupLabels"]["run"])
    assert first["groupLabels"] == {"run": "a"}
    assert names(first) == ["TrainingLossNotFinite ", "TrainingRankLost 1", "TrainingRankLost 2"]
    assert second["groupLabels"] == {"run": "b"}
    assert names(second) == ["TrainingLossNotFinite "]


def test_the_cause_mutes_its_consequence_of_the_same_run_only(stack: Stack) -> None:
    """A lost rank mutes the stall and a page the warnings of its own run, and of no other."""
    stack.post(
        critical("TrainingRankLost", "a", rank="1"),
        critical("TrainingStalled", "a"),
        {"alertname": "TrainingSlow", "severity": "warning", "run": "a"},
        critical("TrainingStalled", "b"),
    )
    first, second = sorted((stack.message(), stack.message()), key=lambda each: each["groupLabels"]["run"])
    assert names(first) == ["TrainingRankLost 1"]
    assert names(second) == ["TrainingStalled "]
    assert stack.active() == {
        "TrainingRankLost a": "active",
        "TrainingStalled a": "suppressed",
        "TrainingSlow a": "suppressed",
        "TrainingStalled b": "active",
    }


def test_alerts_without_a_run_mute_nothing(stack: Stack) -> None:
    """Labels absent on both sides count as equal, so a critical alert of no run must not mute warnings."""
    stack.post(
        {"alertname": "SomethingElse", "severity": "critical"},
        {"alertname": "TrainBeaconExporterBlind", "severity": "warning", "instance": "a:1"},
    )
    both = names(stack.message()) + names(stack.message())  # a page and a ticket have routes of their own
    assert sorted(both) == ["SomethingElse ", "TrainBeaconExporterBlind "]


def test_the_watchdog_has_a_receiver_of_its_own_and_information_none(stack: Stack) -> None:
    """The sign of life is not mixed with messages to people, and information reaches no one."""
    stack.post(
        {"alertname": "Watchdog", "severity": "none"},
        {"alertname": "TrainingNote", "severity": "info", "run": "a"},
    )
    assert names(stack.message("/watchdog")) == ["Watchdog "]
    stack.post(critical("TrainingStalled", "z"))  # what had to come before it would have come by now
    assert stack.message()["groupLabels"] == {"run": "z"}
    assert stack.receiver.messages["/alerts"].empty()
