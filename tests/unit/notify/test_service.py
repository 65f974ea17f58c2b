"""The bridge over HTTP: what Alertmanager is answered, what is delivered through Apprise, what is counted."""

from __future__ import annotations

import json
import queue
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.unit.notify.payloads import alert, payload
from trainbeacon.cli import main
from trainbeacon.exporter.http.limits import Limits
from trainbeacon.exporter.http.server import Server
from trainbeacon.notify.runbooks import Runbooks
from trainbeacon.notify.service import MOST_BODY_BYTES, Bridge
from trainbeacon.notify.services import post
from trainbeacon.notify.settings import Settings
from trainbeacon.stack.bundle import runbooks_dir
from trainbeacon.testing import read_exposition, series


class Sink(ThreadingHTTPServer):
    """What Apprise's json:// posts to."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.got: queue.Queue[dict[str, Any]] = queue.Queue()
        self.status = 200
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"json://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    server: Sink

    def do_POST(self) -> None:
        self.server.got.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Keep the tests' output for what fails."""


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    made = Sink()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture(autouse=True)
def fresh(sink: Sink) -> None:
    sink.status, sink.got = 200, queue.Queue()


@pytest.fixture(scope="module")
def settings_file(tmp_path_factory: pytest.TempPathFactory, sink: Sink) -> Path:
    folder = tmp_path_factory.mktemp("notify")
    (folder / "team").write_text(f"{sink.url}\n", encoding="utf-8")
    path = folder / "notify.yaml"
    path.write_text(
        f"receivers:\n  team:\n    urls_file: {folder / 'team'}\n    coalesce_seconds: 0\n    format: text\n",
        encoding="utf-8",
    )
    return path


@pytest.fixture(scope="module")
def address(settings_file: Path) -> Iterator[str]:
    bridge = Bridge(Settings.load(str(settings_file)), post, runbooks=Runbooks(runbooks_dir()))
    server = Server(bridge, bridge.counts, "127.0.0.1", 0, limits=Limits(body_bytes=MOST_BODY_BYTES))
    server.start()
    yield f"http://127.0.0.1:{server.port}"
    bridge.stop()
    server.stop()


def asked(url: str, body: bytes | None = None) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=120) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_a_notification_arrives_through_apprise(address: str, sink: Sink) -> None:
    """Alertmanager's JSON goes in, the service gets title and text, and only then the answer is 200."""
    assert (200, "delivered\n") == asked(f"{address}/alerts/team", payload())
    got = sink.got.get_nowait()
    assert "Hang in gpt since 12:34 UTC: rank 3, node-7" == got["title"]
    assert "rank 3 (host node-7, GPU 0)" in got["message"]
    assert "failure" == got["type"]


def test_a_service_that_refuses_makes_alertmanager_try_again(address: str, sink: Sink) -> None:
    """503 is what Alertmanager retries upon."""
    sink.status = 500
    assert 503 == asked(f"{address}/alerts/team", payload())[0]
    sink.status = 200
    assert 200 == asked(f"{address}/alerts/team", payload())[0]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/alerts/teem", payload(), 404),
        ("/alerts/team", b"{}", 400),
        ("/alerts/team", None, 405),
        ("/nowhere", None, 404),
        ("/metrics", b"x", 405),
    ],
)
def test_what_trying_again_will_not_mend_is_a_client_error(
    address: str, sink: Sink, path: str, body: bytes | None, status: int
) -> None:
    """Alertmanager logs a 4xx and does not repeat it."""
    assert status == asked(f"{address}{path}", body)[0]
    assert sink.got.empty()


def test_a_thousand_alerts_are_one_message(address: str, sink: Sink) -> None:
    """A dying cluster sends megabytes; people get one text that counts the rest."""
    assert 200 == asked(f"{address}/alerts/team", payload(*(alert(rank=str(n)) for n in range(1000))))[0]
    assert sink.got.get_nowait()["message"].endswith("... and 992 more. (Hang 992)")
    assert sink.got.empty()


def test_the_bridge_speaks_of_itself(address: str, sink: Sink) -> None:
    """Requests by outcome, messages by receiver, the last success and what waits are on /metrics."""
    before = read_exposition(asked(f"{address}/metrics")[1])
    asked(f"{address}/alerts/team", payload())
    sink.status = 500
    asked(f"{address}/alerts/team", payload(group="b"))
    asked(f"{address}/alerts/nobody", payload())
    after = read_exposition(asked(f"{address}/metrics")[1])
    requests, messages = "trainbeacon_notify_requests_total", "trainbeacon_notify_messages_total"
    counted = [
        *(series(requests, outcome=outcome) for outcome in ("delivered", "failed", "refused")),
        *(series(messages, receiver="team", outcome=outcome) for outcome in ("delivered", "failed")),
    ]
    assert [1.0] * 5 == [after[each] - before[each] for each in counted]
    assert 0.0 == after[series("trainbeacon_notify_waiting", receiver="team")]
    assert 1.7e9 < after[series("trainbeacon_notify_last_success_timestamp_seconds", receiver="team")]
    assert (200, "ok\n") == asked(f"{address}/healthz")


def test_check_and_test_say_whether_it_will_work(
    settings_file: Path, sink: Sink, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the night: the settings are read, and a test message is really sent."""
    assert 0 == main(["notify", "--config", str(settings_file), "--check"])
    assert 0 == main(["notify", "--config", str(settings_file), "--test", "team"])
    assert "TrainBeacon: a test" == sink.got.get_nowait()["title"]
    assert "address 1: delivered" in capsys.readouterr().out
    sink.status = 500
    assert 1 == main(["notify", "--config", str(settings_file), "--test", "team"])
    assert 2 == main(["notify", "--config", str(settings_file), "--test", "nobody"])
    assert "there are team" in capsys.readouterr().err


def test_runbooks_are_pages(address: str, repository: Path) -> None:
    """Every book by its name, with and without the ending of the rules' links; links stay on the server."""
    names = sorted(path.stem for path in repository.glob("prometheus/runbooks/*.md"))
    status, listed = asked(f"{address}/runbooks")  # is sent on to /runbooks/
    assert 200 == status
    assert names == re.findall(r'href="(\w+)\.md"', listed)
    for name in names:
        status, page = asked(f"{address}/runbooks/{name}.md")
        assert (200, 1) == (status, page.count(f"<h1>{name}</h1>"))
        links = re.findall(r'href="([^"]*)"', page)
        assert [] == [link for link in links if link != "./" and link.removesuffix(".md") not in names]
    assert asked(f"{address}/runbooks/TrainingStalled") == asked(f"{address}/runbooks/TrainingStalled.md")


@pytest.mark.parametrize(
    "path", ["Nothing.md", "../notify.yaml", "%2e%2e/%2e%2e/etc/passwd", "TrainingStalled/x"]
)
def test_only_runbooks_are_pages(address: str, path: str) -> None:
    """Nothing else of the disk is."""
    assert 404 == asked(f"{address}/runbooks/{path}")[0]


def test_a_runbook_is_safe_html(tmp_path: Path) -> None:
    """Whoever may write a book may not run a script in the reader's browser."""
    (tmp_path / "Odd.md").write_text("# Odd\n\n<script>x</script> [a](javascript:x) <b onclick=x>\n", "utf-8")
    page = Runbooks(tmp_path).page("Odd.md") or ""
    assert "<script" not in page
    assert 'href="javascript' not in page
    assert "<b onclick" not in page
