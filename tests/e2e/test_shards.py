"""deploy/scale-out for real: two servers that share runs by hash, one that has all, one above the two.

And an agent that only scrapes and forwards, to a server that scrapes nothing and has the rules; and
VictoriaMetrics, to which the two servers write what they keep.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import yaml

from tests.serving import wait_for
from tools import stack
from trainbeacon.stack import processes, web
from trainbeacon.stack.ports import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

REPOSITORY = Path(__file__).resolve().parents[2]
SCALE_OUT = REPOSITORY / "deploy/scale-out"
RUNS = 8  # of six the names all hash to one server
SCENARIO = "nan,crash,stuck-loader,nan,nan,nan,nan,nan"
#: What the faults come to within a minute.
EXPECTED = {"TrainingLossNotFinite", "TrainingRankLost", "TrainingStalled"}
_OF_THE_SERVER = ("TrainBeaconRules", "Watchdog")


@dataclass(frozen=True)
class Servers:
    """Addresses."""

    whole: str
    shards: tuple[str, str]
    above: str
    behind_agent: str
    store: str

    def alerts(self, address: str) -> set[tuple[str, ...]]:
        """Firing alerts about training: name and labels, but the shard."""
        found = web.get_json(f"{address}/api/v1/alerts")["data"]["alerts"]
        return {
            (each["labels"]["alertname"], *sorted(f"{k}={v}" for k, v in each["labels"].items()))
            for each in found
            if each["state"] == "firing" and not each["labels"]["alertname"].startswith(_OF_THE_SERVER)
        }

    def values(self, address: str, query: str) -> dict[str, float]:
        """A value for each run."""
        found = web.get_json(f"{address}/api/v1/query", query=query)["data"]["result"]
        return {each["metric"].get("run", ""): float(each["value"][1]) for each in found}


@pytest.fixture(scope="module")
def servers(prometheus: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """A simulated fleet of runs that all go wrong, and the servers."""
    folder = tmp_path_factory.mktemp("shards")
    simulate = [sys.executable, "-m", "trainbeacon", "simulate", "--runs", str(RUNS), "--nodes", str(RUNS)]
    simulate += ["--ranks", str(2 * RUNS), "--scenario", SCENARIO, "--onset", "20", "--speed", "4"]
    with ExitStack() as closing, (folder / "fleet.log").open("w") as log:
        fleet = subprocess.Popen([*simulate, "--sd-dir", str(folder / "targets")], stdout=log, stderr=log)
        closing.callback(lambda: processes.stop([fleet]))
        wait_for(lambda: list((folder / "targets").glob("*.json")), what="targets")

        def start(name: str, text: str, *flags: str) -> str:
            return _start(closing, prometheus, folder, name, text, *flags)

        text = (SCALE_OUT / "hashmod-run.yml").read_text()
        program = stack.find_scraper("victoria-metrics")
        store = _start_store(closing, program, folder) if program else ""
        writing = yaml.safe_load((SCALE_OUT / "victoria-metrics.yml").read_text())["remote_write"]
        writes = yaml.safe_dump({"remote_write": writing}).replace("http://victoria-metrics:8428", store)
        kept = text + (writes if store else "")
        shards = start("0", kept), start("1", kept.replace('".+;1"', '".+;0"').replace('"0"', '"1"'))
        whole = start("whole", text.replace('".+;1"', '"none"').replace(', shard: "0"', ""))
        targets = ", ".join(each.removeprefix("http://") for each in shards)
        above = (
            (SCALE_OUT / "federate.yml").read_text().replace("prometheus-a:9090, prometheus-b:9090", targets)
        )
        only_rules = yaml.safe_dump({**yaml.safe_load(text), "scrape_configs": []})
        behind_agent = start("behind", only_rules, "--web.enable-remote-write-receiver")
        agent = (SCALE_OUT / "agent.yml").read_text().replace("http://victoria-metrics:8428", behind_agent)
        start("agent", agent, _agent_mode(prometheus))
        yield Servers(whole, shards, start("above", above), behind_agent, store)


def _agent_mode(prometheus: str) -> str:
    """The flag that this version has for it."""
    done = subprocess.run([prometheus, "--version"], capture_output=True, text=True, check=True)
    is_old = "version 2." in done.stdout + done.stderr
    return "--enable-feature=agent" if is_old else "--agent"


def _start_store(closing: ExitStack, program: str, folder: Path) -> str:
    """VictoriaMetrics, which takes what is written to it."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [program, f"-storageDataPath={folder / 'store'}", f"-httpListenAddr=127.0.0.1:{port}"]
    process = processes.start([*command, "-search.latencyOffset=0s"], folder / "store.log")
    closing.callback(lambda: processes.stop([process]))
    wait_for(lambda: web.answers(f"{address}/health"), what="VictoriaMetrics")
    return address


def _start(closing: ExitStack, prometheus: str, folder: Path, name: str, text: str, *flags: str) -> str:
    """A server with an example, at an interval of 5 s and with no Alertmanager."""
    home, port = folder / name, free_port()
    home.mkdir()
    (home / "rules").symlink_to(REPOSITORY / "prometheus/rules")
    (home / "targets").symlink_to(folder / "targets")
    text = (
        text.replace("15s", "5s").replace("30s", "5s").replace("targets: [alertmanager:9093]", "targets: []")
    )
    (home / "prometheus.yml").write_text(text)
    storage = "agent" if any("agent" in each for each in flags) else "tsdb"
    options = [
        f"--config.file={home / 'prometheus.yml'}",
        f"--storage.{storage}.path={home / 'data'}",
        *flags,
    ]
    process = processes.start([prometheus, *options, f"--web.listen-address=127.0.0.1:{port}"], home / "log")
    closing.callback(lambda: processes.stop([process]))
    address = f"http://127.0.0.1:{port}"
    wait_for(lambda: web.answers(f"{address}/-/ready"), what=f"server {name}")
    return address


def test_two_servers_fire_what_one_does(servers: Servers) -> None:
    """Runs are whole on one of the two: NaN, lost rank and stall are alerts of the same labels."""
    one, other = servers.shards

    def same() -> bool:
        whole = servers.alerts(servers.whole)
        return {each[0] for each in whole} >= EXPECTED and whole == _both(servers.alerts)

    def _both(ask: Callable[[str], set[tuple[str, ...]]]) -> set[tuple[str, ...]]:
        return ask(one) | ask(other)

    wait_for(same, 240, "the same alerts")
    of_runs = [{each for each in servers.alerts(shard) if "run=" in str(each)} for shard in servers.shards]
    assert all(of_runs)
    assert set() == of_runs[0] & of_runs[1]


def test_rules_behind_an_agent_fire_what_they_do_beside_the_scrapes(servers: Servers) -> None:
    """What an agent forwards is enough for the rules: the same alerts, of the same labels."""

    def same() -> bool:
        whole = servers.alerts(servers.whole)
        return {each[0] for each in whole} >= EXPECTED and whole == servers.alerts(servers.behind_agent)

    wait_for(same, 240, "the same alerts")


def test_every_run_is_on_one_of_two_servers(servers: Servers) -> None:
    """Both have some, none is on both, and none is cut in two."""
    query = "count by (run) (training_step)"
    one, other = (servers.values(shard, query) for shard in servers.shards)
    assert one
    assert other
    assert set() == one.keys() & other.keys()
    assert servers.values(servers.whole, query) == one | other


def test_server_above_shows_all_runs(servers: Servers) -> None:
    """What was recorded of runs is federated from both, with the alerts, and no series of ranks."""
    wait_for(
        lambda: len(servers.values(servers.above, "run:training_ranks_running:count")) >= RUNS - 1,
        what="runs",
    )
    wait_for(
        lambda: servers.values(servers.above, 'count by (run) (ALERTS{alertname="TrainingLossNotFinite"})'),
        what="alerts",
    )
    assert {} == servers.values(servers.above, "training_step")


def test_store_behind_two_servers_has_all_runs_once(servers: Servers, victoria_metrics: str) -> None:
    """All that both write arrives, each run from one of them, with its alerts; nothing of what is dropped."""

    def arrived(query: str) -> dict[str, float]:
        web.get(f"{servers.store}/internal/force_flush")  # what is new can be asked for at once
        return servers.values(servers.store, query)

    def kept(query: str) -> dict[str, float]:
        one, other = (servers.values(shard, query) for shard in servers.shards)
        return one | other

    assert victoria_metrics
    now = int(time.time())
    for query in (
        f"sum by (run) (training_step @ {now})",
        f"sum by (run) (training_samples_total @ {now})",
        f"sum by (run) (run:training_ranks_running:count @ {now})",
        f'count by (run) (ALERTS{{alertname="TrainingLossNotFinite"}} @ {now})',
    ):
        expected = kept(query)
        assert expected, query
        wait_for(partial(_is_same, expected, partial(arrived, query)), what=query)
    dropped = "count by (run) (training_step_duration_seconds_bucket)"
    assert kept(dropped)
    assert {} == arrived(dropped)


def _is_same(expected: dict[str, float], ask: Callable[[], dict[str, float]]) -> bool:
    return expected == ask()
