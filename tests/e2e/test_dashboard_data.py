"""Dashboards over real data: a simulated fleet, scraped by a real Prometheus of every version at hand.

All versions scrape the same fleet at the same time. Four of its runs are healthy; four have a fault, so
that the panels which only a fault fills are seen filled too.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from grafana.build import generate
from tests import runbooks
from tests.versions import versions_apart
from tools import stack
from trainbeacon.simulate.fleet import Fleet, Size
from trainbeacon.simulate.scenarios import Plan
from trainbeacon.stack import processes, web
from trainbeacon.stack.ports import free_port

#: One worker asks all of it: each has a fleet and its servers to itself.
pytestmark = [pytest.mark.e2e, pytest.mark.versions_apart, pytest.mark.xdist_group("dashboards")]

SCENARIOS = ("nan", "crash", "ecc", "throttling")
ONSET_SECONDS = 8.0
SPEED = 12.0
#: What a run or a node has to be broken for in a way, or for so long, that no test waits for it.
UNSEEN = {
    ("Ranks", "silent"),
    ("Ranks", "missing"),  # until the last of its peers has ended too
    ("GPUs", "lost"),
    ("Exporters", "down"),
    ("What fires beside the runs", ""),
    ("What fires beside the runs", "since"),
    ("Collectors failing", "{{collector}}"),
    ("Errors", "{{where}}"),
    ("Slow rank", "rank {{rank}}: {{cause}}"),
    ("What stragglers cost", "GPU-hours"),
    ("Silent longest", "rank {{rank}}"),
}
#: An exporter is down for minutes before an alert says so.
BLIND = {
    ("exporter", "Verdict", ""),
    ("exporter", "Verdict", "since"),
    ("exporter", "Firing alerts", ""),  # the annotation
}
CHOICE = {
    "$__rate_interval": "16s",
    "$__range_s": "300",
    "$__range": "5m",
    "$cluster": ".*",
    "$namespace": ".*",
    "$__interval_ms": "60000",
    "$__interval": "1m",
    "$project": ".*",
    "$owner": ".*",
    "$counted": ".*",
    "$price": "2",
    "$rank": ".*",
    "$job": ".*",
    "$instance": ".*",
    "$gpu": ".*",
}


@dataclass(frozen=True)
class Asked:
    """A query of a panel, or of a variable or annotation, as its dashboard has it."""

    dashboard: str
    title: str
    legend: str
    expr: str

    @property
    def name(self) -> tuple[str, str]:
        """How the lists of exceptions call it."""
        return self.title, self.legend

    def of(self, run: str) -> str:
        """The expression with everything chosen, and this run."""
        expr = self.expr.replace('run="$run"', f'run="{run}"').replace("$run", run)
        for name, value in CHOICE.items():
            expr = expr.replace(name, value)
        return expr.replace(" offset -4d", "")  # the week from a step on is asked for, not one to come


def panels(model: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """All panels, also those of collapsed rows."""
    for panel in model["panels"]:
        yield from panel.get("panels", ())
        if panel["type"] != "row":
            yield panel


@cache
def models() -> dict[str, Any]:
    """The dashboards by name."""
    return {Path(path).stem: json.loads(text) for path, text in generate().items()}


def queries() -> list[Asked]:
    """Every query of every panel."""
    return [
        Asked(name, panel["title"], target["legendFormat"], target["expr"])
        for name, model in models().items()
        for panel in panels(model)
        for target in panel.get("targets", ())
    ]


def choices() -> list[Asked]:
    """The queries behind the variables, as Prometheus is asked them, and those of the annotations."""
    found = []
    for name, model in models().items():
        for variable in model["templating"]["list"][1:]:
            if variable["type"] != "query":
                continue
            inner = re.sub(r"^\w+\((.*?)(, \w+)?\)$", r"\1", variable["definition"])
            found.append(Asked(name, f"${variable['name']}", "", inner))
        found += [
            Asked(name, annotation["name"], "", annotation["expr"])
            for annotation in model["annotations"]["list"]
        ]
    return found


#: What OpenCost asks for a GPU of either node, and of one without GPUs.
HOURLY = {"gpu-node-a": 3.1, "gpu-node-b": 2.3, "cpu-node": 0.0}


class Neighbours(BaseHTTPRequestHandler):
    """What dcgm-exporter, node_exporter and OpenCost serve of one GPU and one host, in their form."""

    uuid = hostname = ""

    def do_GET(self) -> None:
        """Answer a scrape."""
        gpu = f'{{gpu="0",UUID="{self.uuid}",Hostname="{self.hostname}",modelName="NVIDIA H100"}}'
        disk = '{device="/dev/sda",fstype="ext4",mountpoint="/"}'
        text = (
            f"DCGM_FI_PROF_GR_ENGINE_ACTIVE{gpu} 0.9\n"
            f"DCGM_FI_PROF_PIPE_TENSOR_ACTIVE{gpu} 0.4\n"
            f"DCGM_FI_DEV_MEMORY_TEMP{gpu} 71\n"
            f"DCGM_FI_DEV_XID_ERRORS{gpu} 63\n"
            f'node_uname_info{{nodename="{self.hostname}"}} 1\n'
            "node_load1 3\n"
            f"node_pressure_memory_waiting_seconds_total {time.time()}\n"
            f"node_filesystem_avail_bytes{disk} 4e9\nnode_filesystem_size_bytes{disk} 1e10\n"
            f'node_infiniband_port_data_received_bytes_total{{device="mlx5_0",port="1"}} {time.time()}\n'
        )
        text += "# TYPE node_gpu_hourly_cost gauge\n"
        for node, price in HOURLY.items():
            of = f'arch="amd64",instance="{node}",instance_type="p5",node="{node}",provider_id="i-{node}"'
            text += f'node_gpu_hourly_cost{{{of},region="eu-1"}} {price}\n'
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        with contextlib.suppress(OSError):  # Prometheus gave up waiting, or ends
            self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


def start_fleet(closing: ExitStack) -> Fleet:
    """Serve the fleet, with its time going on by a thread, until `closing` ends."""
    plan = Plan(SCENARIOS, ONSET_SECONDS, None)
    fleet = Fleet(Size(ranks=16, nodes=4, runs=8), seed=5, speed=SPEED, clock=time.time, spares=plan.spares)
    closing.callback(fleet.close)
    plan.arm(fleet)
    fleet.update()
    fleet.serve(0)
    over = threading.Event()

    def go_on() -> None:
        while not over.wait(1.0):
            fleet.update()
            fleet.match_servers()

    thread = threading.Thread(target=go_on)
    closing.callback(thread.join)
    closing.callback(over.set)
    thread.start()
    return fleet


def start_neighbours(closing: ExitStack, fleet: Fleet) -> str:
    """Serve the stand-in of the other exporters for a GPU and a host of a healthy run."""
    text = web.get(f"http://{fleet.nodes[-1].address}/metrics")
    (info,) = re.findall(r'training_rank_info{.*rank="0".*}', text)[:1]
    Neighbours.uuid, Neighbours.hostname = (
        re.search(f'{name}="([^"]+)"', info).group(1) for name in ("gpu_uuid", "hostname")
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), Neighbours)
    closing.callback(server.server_close)
    closing.callback(server.shutdown)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"127.0.0.1:{server.server_port}"


def start_prometheus(
    closing: ExitStack, program: str, folder: Path, fleet: Fleet, others: str, rules: Path
) -> str:
    """Start a Prometheus with the shipped rules; returns its address."""
    folder.mkdir()
    for kind in ("recording", "alerts"):
        (folder / kind).mkdir()
        for file in (rules / kind).glob("*.yml"):  # what is evaluated once a minute need not be waited for
            (folder / kind / file.name).write_text(file.read_text().replace("interval: 1m", "interval: 10s"))
    own = f"127.0.0.1:{free_port()}"
    config = {
        "global": {"scrape_interval": "4s", "scrape_timeout": "4s", "evaluation_interval": "4s"},
        "rule_files": [str(folder / kind / "*.yml") for kind in ("recording", "alerts")],
        "scrape_configs": [
            {"job_name": "trainbeacon", "static_configs": fleet.targets()},
            {"job_name": "others", "static_configs": [{"targets": [others]}]},
            {"job_name": "prometheus", "static_configs": [{"targets": [own]}]},
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    options = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    child = processes.start([program, *options, f"--web.listen-address={own}"], folder / "log")
    closing.callback(processes.stop, [child])
    return f"http://{own}"


@pytest.fixture(scope="module")
def fleet_and_prometheus(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[tuple[Fleet, dict[str, str]]]:
    """The fleet, and the addresses of the Prometheus servers by suite, all at work at once."""
    programs = {suite: stack.find("prometheus", suite) for suite in versions_apart(pytestconfig)}
    if None in programs.values():
        pytest.skip("prometheus is not available here: `make tools`, or put it on the PATH")
    folder = tmp_path_factory.mktemp("dashboards")
    rules = Path(__file__).parents[2] / "prometheus/rules"
    with ExitStack() as closing:
        fleet = start_fleet(closing)
        others = start_neighbours(closing, fleet)
        addresses = {
            suite: start_prometheus(closing, str(program), folder / suite, fleet, others, rules)
            for suite, program in programs.items()
        }
        for address in addresses.values():
            assert processes.wait_until(lambda url=f"{address}/-/ready": web.answers(url), 30.0)
        yield fleet, addresses


def names(fleet: Fleet) -> list[str]:
    """The runs, the healthy ones first: they fill most panels."""
    return [run.name for run in reversed(fleet.runs)]


def answered(prometheus: str, asked: Asked, runs: list[str]) -> bool:
    """Whether the query returns a series for one of the runs; one that fails to evaluate raises."""
    chosen = runs if 'run="$run"' in asked.expr else ["|".join(runs), *runs]
    return any(
        web.get_json(f"{prometheus}/api/v1/query", 20.0, query=asked.of(run))["data"]["result"]
        for run in chosen
    )


def unanswered(prometheus: str, wanted: list[Asked], runs: list[str], seconds: float) -> list[Asked]:
    """What still returns nothing at the end of the time."""
    end = time.monotonic() + seconds
    while True:
        wanted = [asked for asked in wanted if not answered(prometheus, asked, runs)]
        if not wanted or time.monotonic() > end:
            return wanted
        time.sleep(3.0)


def test_every_query_and_variable_returns_data(
    fleet_and_prometheus: tuple[Fleet, dict[str, str]], stack_suite: str
) -> None:
    """Each query of each panel, variable and annotation returns data for some run of the fleet."""
    fleet, addresses = fleet_and_prometheus
    wanted = [
        asked
        for asked in (*queries(), *choices())
        if asked.name not in UNSEEN and (asked.dashboard, *asked.name) not in BLIND
    ]
    found = unanswered(addresses[stack_suite], wanted, names(fleet), 90.0)
    assert not {(asked.dashboard, *asked.name) for asked in found}


def test_costs_are_by_the_price_that_opencost_serves(
    fleet_and_prometheus: tuple[Fleet, dict[str, str]], stack_suite: str
) -> None:
    """GPU-hours times the mean of the nodes that have GPUs, though its scrape names no cluster and another
    price is typed in; idle GPUs too."""
    fleet, addresses = fleet_and_prometheus
    asked = {each.title: each.of(".*") for each in queries() if each.dashboard == "efficiency"}
    wanted = [each for each in queries() if each.title in {"Cost", "GPU-hours held"}]
    assert not unanswered(addresses[stack_suite], wanted, names(fleet), 90.0)
    whole = f"({asked['Cost']}) / ({asked['GPU-hours held']})"
    priced = Asked("efficiency", "", "", f"abs({whole} - 2.7) < 1e-6")
    assert not unanswered(addresses[stack_suite], [priced], names(fleet), 90.0)


#: What only a fault fills.
FILLED_BY_FAULTS = {
    ("efficiency", "What stragglers cost"),
    ("fleet", "Firing alerts"),
    ("fleet", "What fires beside the runs"),
    ("ranks", "Slow rank"),
    ("ranks", "Silent longest"),
    ("model", "First NaN or infinity"),
    ("exporter", "Collectors failing"),
    ("exporter", "Errors"),
    ("exporter", "Verdict"),
    ("hardware", "Verdict"),
}


def test_no_panel_of_a_healthy_run_is_empty(
    fleet_and_prometheus: tuple[Fleet, dict[str, str]], stack_suite: str
) -> None:
    """Nothing but what a fault fills is empty on the dashboards of healthy runs."""
    fleet, addresses = fleet_and_prometheus
    healthy = names(fleet)[: -len(SCENARIOS)]
    wanted: dict[tuple[str, str], list[Asked]] = {}
    for asked in queries():
        if (asked.dashboard, asked.title) not in FILLED_BY_FAULTS:
            wanted.setdefault((asked.dashboard, asked.title), []).append(asked)

    def empty() -> list[tuple[str, str]]:
        return [
            panel
            for panel, of_panel in wanted.items()
            if not any(answered(addresses[stack_suite], asked, healthy) for asked in of_panel)
        ]

    processes.wait_until(lambda: not empty(), 90.0, 3.0)
    assert [] == empty()


#: Queries of runbooks that find something only in another fault than those of the fleet ...
OF_OTHER_FAULTS = {
    "trainbeacon_collector_success == 0",
    'ALERTS{alertname="TrainBeaconExporterBlind"}',
    "instance:training_clock_behind:seconds",
    "count by (cluster, namespace, run, rank) (training_rank_info) > 1",
    "trainbeacon_series_dropped_total > 0",
    'training_last_step_timestamp_seconds{run="RUN"} - training_heartbeat_timestamp_seconds{run="RUN"} > 60',
    'training_checkpoint_failures_total{run="RUN"} > 0',
    'run_rank_phase:training_phase_seconds:age{run="RUN",phase="checkpoint"}',
    'run_rank:training_bad_end_timestamp_seconds:newest{run="RUN"}',
    'run_rank:training_straggler:ratio{run="RUN"}',
    'run_rank_cause:training_straggler:ratio{run="RUN"}',
    'run_rank_cause:training_self_seconds:per_step{run="RUN"}',
    'run_rank_cause:training_self_excess_seconds:per_step{run="RUN"}',
    'run_stage:training_self_seconds:per_step{run="RUN"}',
    'run_stage:training_stage_excess:ratio{run="RUN"}',
    'run_rank:training_rank:info{run="RUN",stage!=""}',
    'run:training_overfitting:evaluations{run="RUN"}',
    'run_rank_group:training_collective_missing:number{run="RUN"}',
    'last_over_time(run_rank_group:training_collective_missing:number{run="RUN"}[1h])',
    "instance_gpu_class:training_gpu_xid_errors:increase10m",
    "up == 0",
}
#: ... after more time than a test has ...
OF_HOURS = {
    'run:training_expected_seconds:total{run="RUN"}',
    'run_rank_kind:training_memory_growth_bytes:rate10m{run="RUN"}',
    'run_rank_kind:training_memory_growth_bytes:rate10m{kind="resident"}',
    'run_rank_kind:training_gpu_memory_full:seconds{run="RUN"}',
    'run_rank_signal:training_signal:spreads{run="RUN"}',
    'run_rank_signal:training_signal:value{run="RUN"}',
    'run_signal:training_signal:spreads{run="RUN"}',
}
#: ... or of a bridge, an Alertmanager or a feature of Prometheus that are not there.
OF_OTHERS = {
    "trainbeacon_notify_messages_total",
    "trainbeacon_notify_last_success_timestamp_seconds",
    "trainbeacon_notify_waiting",
    "scrape_samples_post_metric_relabeling / scrape_sample_limit",
    "rate(prometheus_notifications_errors_total[5m])",
    "rate(alertmanager_notifications_failed_total[5m])",
}


def test_every_query_of_the_runbooks_is_answered(
    fleet_and_prometheus: tuple[Fleet, dict[str, str]], stack_suite: str
) -> None:
    """As it stands in the book, for some run, rank or instance of the fleet; every one of them evaluates."""
    _, addresses = fleet_and_prometheus
    asked = [
        Asked(each.runbook, each.text, "", re.sub('="(RUN|RANK|INSTANCE|GPU)"', '=~".+"', each.text))
        for each in runbooks.queries()
    ]
    patient = OF_OTHER_FAULTS | OF_HOURS | OF_OTHERS
    for each in asked:
        answered(addresses[stack_suite], each, [""])
    wanted = [each for each in asked if each.title not in patient]
    assert patient <= {each.title for each in asked}
    assert [] == [each.title for each in unanswered(addresses[stack_suite], wanted, [""], 90.0)]
