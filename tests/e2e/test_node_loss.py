"""A lost node is one message a receiver: a simulated fleet, the real Prometheus and the real Alertmanager.

Two of three runs lose one of their two nodes: exporter and ranks are gone at once, as if its power was cut.
In one run the others go on waiting for them, in the other one they lose their connections and end. What
could be said of it is said by several rules within two minutes: ranks lost, run failed, run stalled,
exporter blind. Rules, waiting times, routes, grouping and inhibition are those that are shipped; two
Alertmanagers have the shipped receivers, and those of the example with a pager and a way for each team.
"""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from trainbeacon.simulate.fleet import CLUSTER, NAMESPACE, Fleet, Size
from trainbeacon.simulate.model.run import Run
from trainbeacon.stack import processes, rendering, web
from trainbeacon.stack.ports import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

REPOSITORY = Path(__file__).resolve().parents[2]
SCRAPE_SECONDS = 10.0
#: By then all runs are past their start; they are brought there at once.
PAST_SECONDS = 600.0
#: A limit of the run that waits: it is stalled for long before its ranks are known to be lost.
STALL_SECONDS = 30.0
#: After the last alert that is due: what Alertmanager collects at most before it sends, and some more.
SILENCE_SECONDS = 10.0 + 5.0
WAITS, ENDS, HEALTHY = range(3)
FIRST_LOST = 4  # of eight ranks of each run, four on each of its two nodes

Message = dict[str, Any]


class Clock:
    """Real time once `start` was called; until then as the fleet is brought up to it."""

    def __init__(self) -> None:
        self._now: float | None = time.time() - PAST_SECONDS

    def __call__(self) -> float:
        return time.time() if self._now is None else self._now

    def catch_up(self, fleet: Fleet) -> None:
        """Let the past go by."""
        while self._now is not None and self._now < time.time():
            self._now += 5.0
            fleet.advance()
        self._now = None


class Receivers(ThreadingHTTPServer):
    """A webhook for each receiver of each configuration, distinguished by the path."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Webhook)
        self.messages: dict[str, list[Message]] = defaultdict(list)
        self.guard = threading.Lock()

    def about(self, run: str) -> dict[str, list[Message]]:
        """What each receiver was told about a run."""
        with self.guard:
            return {
                receiver: found
                for receiver, messages in self.messages.items()
                if (found := [each for each in messages if each["groupLabels"].get("run") == run])
            }


class _Webhook(BaseHTTPRequestHandler):
    server: Receivers

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.guard:
            self.server.messages[self.path.strip("/")].append(body)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Keep the tests' output for what fails."""


@dataclass
class Scene:
    """What was seen by the end of the time."""

    fleet: Fleet
    receivers: Receivers
    #: Addresses of the Alertmanagers.
    alertmanagers: list[str] = field(default_factory=list)
    prometheus: str = ""

    def value(self, promql: str) -> float | None:
        """The present value of an expression that gives one series; None where it gives none."""
        if not web.answers(f"{self.prometheus}/-/ready"):
            return None
        result = web.get_json(f"{self.prometheus}/api/v1/query", 60.0, query=promql)["data"]["result"]
        return float(result[0]["value"][1]) if result else None

    def firing(self, run: str) -> set[str]:
        """Names of the run's alerts that Prometheus has firing."""
        alerts = web.get_json(f"{self.prometheus}/api/v1/alerts", 60.0)["data"]["alerts"]
        return {
            each["labels"]["alertname"]
            for each in alerts
            if each["labels"].get("run") == run and each["state"] == "firing"
        }


def start_fleet(closing: ExitStack) -> Fleet:
    """Three runs of eight ranks, on two nodes each, in training; their time goes on by a thread."""
    clock = Clock()
    fleet = Fleet(Size(ranks=24, nodes=6, runs=3), seed=11, clock=clock, in_memory=True)
    closing.callback(fleet.close)
    clock.catch_up(fleet)
    fleet.runs[WAITS].ranks[0].box.set("training_threshold", STALL_SECONDS, "stall_seconds")
    fleet.update()
    fleet.serve(0)
    over = threading.Event()

    def go_on() -> None:
        while not over.wait(0.5):
            fleet.advance()
            fleet.match_servers()

    thread = threading.Thread(target=go_on)
    closing.callback(thread.join)
    closing.callback(over.set)
    thread.start()
    return fleet


def lose_node(fleet: Fleet, run: Run, *, peers_end: bool) -> None:
    """Cut the power of the second node of a run, in the middle of its training."""
    lost = [rank for rank in run.ranks if rank.number >= FIRST_LOST]
    node = fleet.nodes[lost[0].place.node]
    node.is_down = True  # first, so that no scrape sees some of its ranks dead and others alive
    assert processes.wait_until(lambda: node.server is None, 30.0)
    assert processes.wait_until(lambda: run.stage == "train", 60.0)
    with fleet.guard:
        if peers_end:
            run.crash(lost[0].number, None)
        else:
            run.hang(lost[0].number, "communication")
        for rank in lost:
            rank.is_alive = False
            rank.box.end(None)


def shipped() -> dict[str, Any]:
    """The configuration that is shipped."""
    found: dict[str, Any] = yaml.safe_load((REPOSITORY / "alertmanager/alertmanager.yml").read_text())
    return found


def with_teams() -> dict[str, Any]:
    """The same with the routes and receivers of the example that has a pager and a way for each team."""
    example = yaml.safe_load((REPOSITORY / "alertmanager/receivers/baseline.yml").read_text())
    return shipped() | {"route": example["route"], "receivers": example["receivers"]}


def start_alertmanager(
    closing: ExitStack, program: str, folder: Path, name: str, config: dict[str, Any], receivers: Receivers
) -> str:
    """Start one with webhooks in the place of all that its receivers reach."""

    def stand_in(receiver: Mapping[str, Any]) -> dict[str, Any]:
        if len(receiver) == 1:
            return dict(receiver)  # tells nobody
        url = f"http://127.0.0.1:{receivers.server_port}/{name}/{receiver['name']}"
        return {"name": receiver["name"], "webhook_configs": [{"url": url, "send_resolved": True}]}

    config |= {
        "receivers": [stand_in(each) for each in config["receivers"]],
        "templates": [f"{REPOSITORY}/alertmanager/templates/*.tmpl"],
    }
    file = folder / f"{name}.yml"
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    address = f"127.0.0.1:{free_port()}"
    options = [f"--config.file={file}", f"--storage.path={folder / name}", "--cluster.listen-address="]
    child = processes.start([program, *options, f"--web.listen-address={address}"], folder / f"{name}.log")
    closing.callback(processes.stop, [child])
    return address


def start_prometheus(
    closing: ExitStack, program: str, folder: Path, fleet: Fleet, alertmanagers: list[str]
) -> str:
    """Start it with the shipped configuration over the fleet."""
    own = f"127.0.0.1:{free_port()}"
    targets = [node.address for node in fleet.nodes]
    config = rendering.prometheus_config(REPOSITORY, targets, SCRAPE_SECONDS, own, alertmanagers[0])
    config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = alertmanagers
    for job in config["scrape_configs"]:
        if job["job_name"] == rendering.JOB:
            job["static_configs"][0]["labels"] = {"cluster": CLUSTER, "namespace": NAMESPACE}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    options = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    child = processes.start([program, *options, f"--web.listen-address={own}"], folder / "prometheus.log")
    closing.callback(processes.stop, [child])
    return f"http://{own}"


@pytest.fixture(scope="module")
def scene(prometheus: str, alertmanager: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Everything at work, and the time after the loss gone by."""
    folder = tmp_path_factory.mktemp("node-loss")
    with ExitStack() as closing:
        receivers = Receivers()
        closing.callback(receivers.server_close)
        closing.callback(receivers.shutdown)
        threading.Thread(target=receivers.serve_forever, daemon=True).start()
        made = Scene(start_fleet(closing), receivers)
        for name, config in {"shipped": shipped(), "teams": with_teams()}.items():
            address = start_alertmanager(closing, alertmanager, folder, name, config, receivers)
            made.alertmanagers.append(address)
        made.prometheus = start_prometheus(closing, prometheus, folder, made.fleet, made.alertmanagers)
        seen = f'count(count_over_time(run_rank:training_state:newest_start{{cluster="{CLUSTER}"}}[5m]) >= 2)'
        assert processes.wait_until(lambda: made.value(seen) == made.fleet.size.ranks, 180.0)
        lose_node(made.fleet, made.fleet.runs[WAITS], peers_end=False)
        lose_node(made.fleet, made.fleet.runs[ENDS], peers_end=True)
        waits, ends = (made.fleet.runs[number].name for number in (WAITS, ENDS))
        assert processes.wait_until(
            lambda: made.firing(waits) >= {"TrainingRankLost", "TrainingStalled"}, 240.0
        )
        assert processes.wait_until(lambda: made.firing(ends) & ENDINGS, 240.0)
        time.sleep(SILENCE_SECONDS)  # that nothing more comes can only be waited for
        yield made


#: What is said of a run of which nobody is left: that it failed, or that of its other node nothing is seen.
ENDINGS = {"TrainingRunFailed", "TrainBeaconExporterBlind"}


@pytest.mark.parametrize(("number", "team"), [(WAITS, "nlp-team"), (ENDS, "slack")])
def test_a_lost_node_is_at_most_two_messages_a_receiver(scene: Scene, number: int, team: str) -> None:
    """Whoever is told of a lost node is told once, or twice where it got worse; never once a rank."""
    told = scene.receivers.about(scene.fleet.runs[number].name)
    assert {"shipped/team", "teams/pager", f"teams/{team}"} >= set(told)
    assert {"shipped/team", "teams/pager"} <= set(told)
    assert max(map(len, told.values())) <= 2


def test_ranks_that_others_wait_for_are_named_with_their_host(scene: Scene) -> None:
    """Where the others wait, each receiver learns of just the ranks that are gone, and where they ran."""
    run = scene.fleet.runs[WAITS]
    lost = [rank for rank in run.ranks if rank.number >= FIRST_LOST]
    host = scene.fleet.nodes[lost[0].place.node].hostname
    for messages in scene.receivers.about(run.name).values():
        named = [each for one in messages for each in one["alerts"] if each["labels"].get("rank")]
        assert {str(rank.number) for rank in lost} == {each["labels"]["rank"] for each in named}
        assert all(f"(host {host}, GPU" in each["annotations"]["description"] for each in named)


def test_a_run_of_which_nobody_is_left_is_told_as_such(scene: Scene) -> None:
    """Where its peers ended with it, no rank is called lost: the run failed, and a node is out of sight."""
    for messages in scene.receivers.about(scene.fleet.runs[ENDS].name).values():
        names = {each["labels"]["alertname"] for one in messages for each in one["alerts"]}
        assert names & ENDINGS


def test_there_was_more_to_say(scene: Scene) -> None:
    """It is one message though more was amiss: a stall beyond its limit, a failed run."""
    waits, ends = (scene.fleet.runs[number].name for number in (WAITS, ENDS))
    stall = f'run:training_standstill_seconds:age{{run="{waits}"}} > {STALL_SECONDS + 60.0}'
    assert scene.value(stall) is not None
    failure = f'run_rank:training_run_failure_timestamp_seconds:held{{run="{ends}"}} offset 1m'
    assert scene.value(failure) is not None


def test_a_healthy_run_beside_them_is_no_message(scene: Scene) -> None:
    """Nor is anything said without a run, but for the Watchdog."""
    assert scene.receivers.about(scene.fleet.runs[HEALTHY].name) == {}
    with scene.receivers.guard:
        others = {
            receiver
            for receiver, messages in scene.receivers.messages.items()
            if any("run" not in each["groupLabels"] for each in messages)
        }
    assert others == {"shipped/watchdog", "teams/heartbeat"}
