"""Two replicas of Prometheus before one Alertmanager: an incident is reported once, and over once."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml

from tests.serving import wait_for
from trainbeacon.stack import processes, rendering, web
from trainbeacon.stack.ports import free_port
from trainbeacon.stack.receiver import Notification, Receiver

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

REPOSITORY = Path(__file__).resolve().parents[2]
LOST = "TrainingRankLost"
#: All that the incident is about; the rest would only keep a small machine busy.
RULES = (
    *(f"alerts/{name}" for name in ("life", "progress", "health")),
    *(f"recording/{name}" for name in ("identity", "learning", "failures")),
)
#: How long a replica was down. What is held reads itself over an hour.
GAP_SECONDS = 3300
#: Evaluations, a second each, after which a replica has said what it has to say.
ENOUGH = 6


@dataclass
class Job:
    """What an exporter serves of a run of two ranks: the second crashes, and is started again."""

    crashed_at: float = 0.0
    restarted_at: float = 0.0
    begun: float = field(default_factory=lambda: time.time() - 7200)

    def page(self) -> str:
        now = time.time()
        crashed = bool(self.crashed_at) and not self.restarted_at
        lines = []
        for rank in (0, 1):
            of = f'run="r",rank="{rank}"'
            state = "crashed" if crashed and rank else "running"
            start = self.restarted_at if rank and self.restarted_at else self.begun
            lines += [
                *(f'training_state{{{of},state="{s}"}} {int(s == state)}' for s in ("running", "crashed")),
                f"training_start_timestamp_seconds{{{of}}} {start}",
                f"training_heartbeat_timestamp_seconds{{{of}}} {now}",
                f"training_last_step_timestamp_seconds{{{of}}} {now}",
                f"training_step{{{of}}} {int(now - self.begun)}",
                f"training_world_size{{{of}}} 2",
            ]
            lines += [f"training_end_timestamp_seconds{{{of}}} {self.crashed_at}"] * (state == "crashed")
        return "\n".join([*lines, f"trainbeacon_clock_timestamp_seconds {now}", ""])


@dataclass
class Replica:
    """A Prometheus with the shipped rules on life and progress."""

    program: str
    folder: Path
    exporter: str
    alertmanager: str
    address: str = ""
    process: subprocess.Popen[str] | None = None

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def start(self) -> None:
        self.address = self.address or f"127.0.0.1:{free_port()}"
        self.folder.mkdir(exist_ok=True)
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(REPOSITORY / f"prometheus/rules/{name}.yml") for name in RULES],
            "scrape_configs": [{"job_name": "trainbeacon", "static_configs": [{"targets": [self.exporter]}]}],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [self.alertmanager]}]}]},
        }
        (self.folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        options = (
            f"--config.file={self.folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.data}",
            f"--web.listen-address={self.address}",
            "--rules.alert.resend-delay=15s",
        )
        self.process = processes.start([self.program, *options], self.folder / "log")
        wait_for(lambda: web.answers(f"http://{self.address}/-/ready"), what="a replica")

    def stop(self) -> None:
        processes.stop([self.process] if self.process else [])

    def value(self, query: str) -> float:
        """The value of the first series, 0 where there is none."""
        found = web.get_json(f"http://{self.address}/api/v1/query", query=query)["data"]["result"]
        return float(found[0]["value"][1]) if found else 0.0

    def has_its_say(self) -> None:
        """Wait until it has seen the job, and evaluated its rules often enough from now on."""
        begun = time.time()

        def enough() -> bool:
            window = f"{int(time.time() - begun) + 1}s"
            evaluations = f"count_over_time(trainbeacon:training_life:evaluated[{window}])"
            return self.value("count(training_state)") > 0 and self.value(evaluations) >= ENOUGH

        wait_for(enough, what="evaluations")

    def copy_as_of(self, seconds: float, promtool: str, folder: Path) -> Path:
        """What it knows, with its times among the values, as if it had been so many seconds earlier."""
        found = web.get_json(f"http://{self.address}/api/v1/query", query='{__name__=~".+"}[1h]')
        now, lines = time.time(), []
        for series in found["data"]["result"]:
            name = series["metric"].pop("__name__")
            labels = ",".join(f"{key}={json.dumps(value)}" for key, value in series["metric"].items())
            for stamp, value in series["values"]:
                number = float(value) - seconds * (abs(float(value) - now) < 86400)
                lines.append(f"{name}{{{labels}}} {number!r} {stamp - seconds:.3f}")
        text = folder / "earlier.om"
        text.write_text("\n".join([*lines, "# EOF", ""]))
        create = [promtool, "tsdb", "create-blocks-from", "openmetrics", str(text), str(folder / "data")]
        subprocess.run(create, capture_output=True, check=True)
        return folder / "data"


@pytest.fixture
def job() -> Iterator[tuple[Job, str]]:
    """The job, and where it is scraped."""
    served = Job()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the name that http.server calls
            body = served.page().encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing on standard error."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    yield served, f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_two_replicas_tell_an_incident_once_and_its_end_once(
    prometheus: str, promtool: str, alertmanager: str, job: tuple[Job, str], tmp_path: Path
) -> None:
    """One replica is restarted in it, one was down for an hour, and one returns from that when it is over."""
    served, exporter = job
    with ExitStack() as closing:
        receiver = closing.enter_context(Receiver())
        routes = rendering.alertmanager_config(REPOSITORY, receiver.url, 1)
        (tmp_path / "alertmanager.yml").write_text(yaml.safe_dump(routes))
        address = f"127.0.0.1:{free_port()}"
        options = (
            f"--config.file={tmp_path / 'alertmanager.yml'}",
            f"--storage.path={tmp_path / 'alertmanager'}",
            f"--web.listen-address={address}",
            "--cluster.listen-address=",
        )
        process = processes.start([alertmanager, *options], tmp_path / "alertmanager.log")
        closing.callback(lambda: processes.stop([process]))
        wait_for(lambda: web.answers(f"http://{address}/-/ready"), what="Alertmanager")

        def replica(name: str, data: Path | None = None) -> Replica:
            made = Replica(prometheus, tmp_path / name, exporter, address)
            if data:
                shutil.copytree(data, made.data)
            made.start()
            closing.callback(made.stop)
            return made

        def about_it() -> list[Notification]:
            return [each for each in receiver.notifications if each.alert == LOST]

        def said() -> list[str]:
            return [each.status for each in about_it()]

        one = replica("one")
        one.has_its_say()
        served.crashed_at = time.time()
        wait_for(said, what="a message")

        an_hour_ago = one.copy_as_of(GAP_SECONDS, promtool, tmp_path)
        two = replica("two", an_hour_ago)
        two.has_its_say()
        assert time.time() - GAP_SECONDS == pytest.approx(two.value("run_rank:training_lost:since"), abs=300)
        one.stop()
        one.start()
        one.has_its_say()
        assert said() == ["firing"]

        served.restarted_at = time.time() - 61
        wait_for(lambda: len(said()) > 1, what="the end")
        replica("three", an_hour_ago).has_its_say()
        assert said() == ["firing", "resolved"]
        closed = about_it()[-1].annotations["closed"]
        assert re.fullmatch(r"The rank is at work again, at step \d+; it was lost at step \d+\.", closed)
