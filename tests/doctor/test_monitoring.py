"""`trainbeacon doctor` on a real Prometheus and Alertmanager: each fault is named, and what is said mends it.

Both servers are started once. One configuration holds the faults of many jobs at the same time, so that they
are looked for, mended and looked for again together.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from tests.doctor.pages import Pages
from tests.serving import Node, environment, wait_for
from trainbeacon.doctor.context import Context, fetch
from trainbeacon.doctor.mend import is_command
from trainbeacon.doctor.results import Result
from trainbeacon.doctor.visit import visit
from trainbeacon.stack import processes, web
from trainbeacon.stack.bundle import bundle_dir
from trainbeacon.stack.ports import free_port

JOBS = """\
global:
  scrape_interval: 2s
  scrape_timeout: 2s
scrape_configs:
  - job_name: trainbeacon-refused
    static_configs: [{{targets: ["{refused}"]}}]
  - job_name: trainbeacon-scheme
    scheme: https
    metrics_path: /scheme
    static_configs: [{{targets: ["{pages}"]}}]
  - job_name: trainbeacon-denied
    metrics_path: /denied
    static_configs: [{{targets: ["{pages}"]}}]
  - job_name: trainbeacon-samples
    metrics_path: /samples
    sample_limit: 1
    static_configs: [{{targets: ["{pages}"]}}]
  - job_name: trainbeacon-size
    metrics_path: /size
    body_size_limit: 10B
    static_configs: [{{targets: ["{pages}"]}}]
  - job_name: trainbeacon-labels
    metrics_path: /labels
    label_limit: 1
    static_configs: [{{targets: ["{pages}"]}}]
  - job_name: trainbeacon-slow
    metrics_path: /slow
    scrape_interval: 8s
    static_configs: [{{targets: ["{pages}"]}}]
  - job_name: trainbeacon-path
    metrics_path: /wrong
    static_configs: [{{targets: ["{pages}"]}}]
  - job_name: trainbeacon-interval
    metrics_path: /interval
    scrape_interval: 1m
    static_configs: [{{targets: ["{pages}"]}}]
  - job_name: trainbeacon-twice
    metrics_path: /interval
    static_configs: [{{targets: ["{pages}"]}}]
  - job_name: trainbeacon-renamed
    metrics_path: /renamed
    static_configs: [{{targets: ["{pages}"], labels: {{run: mine}}}}]
  - job_name: trainbeacon-dropped
    metrics_path: /dropped
    metric_relabel_configs:
      - source_labels: [__name__]
        regex: train.*
        action: drop
    static_configs: [{{targets: ["{pages}"]}}]
  - job_name: trainbeacon-clock
    metrics_path: /clock
    static_configs: [{{targets: ["{pages}"]}}]
"""
NO_JOB = "global: {evaluation_interval: 1s}\nscrape_configs:\n  - job_name: other\n    static_configs: []\n"
HALF_THE_RULES = """\
global:
  scrape_interval: 1s
  evaluation_interval: 1m
rule_files:
  - {bundle}/prometheus/rules/alerts/*.yml
  - {own}
scrape_configs:
  - job_name: trainbeacon
    static_configs: [{{targets: ["{exporter}"]}}]
"""
INHIBITION = """\
inhibit_rules:
  - source_matchers: [severity = "critical"]
    target_matchers: [severity = "warning"]
    equal: [cluster, namespace, run]
"""
HEALTHY = """\
global:
  scrape_interval: 1s
  evaluation_interval: 5s
rule_files:
  - {bundle}/prometheus/rules/recording/*.yml
  - {bundle}/prometheus/rules/alerts/*.yml
alerting:
  alertmanagers:
    - static_configs: [{{targets: ["{alertmanager}"]}}]
scrape_configs:
  - job_name: trainbeacon
    static_configs: [{{targets: ["{exporter}"]}}]
"""
AMBIGUOUS = 'vector(1) * on () (vector(1) or label_replace(vector(1), "a", "b", "", ""))'
ROUTES = """\
route:
  receiver: nobody
  group_by: [alertname]
  group_wait: 2m
receivers:
  - name: nobody
  - name: team
    webhook_configs: [{{url: "http://127.0.0.1:{hook}/"}}]
"""
#: What the first configuration is to be found guilty of, and whether what is said can be run as it stands.
OF_JOBS = {
    "TB404": True,
    "TB405": True,
    "TB406": False,
    "TB407": True,
    "TB408": True,
    "TB409": True,
    "TB410": True,
    "TB412": True,
    "TB413": True,
    "TB414": False,
    "TB415": True,
    "TB416": True,
    "TB417": False,
    "TB420": True,
    "TB501": True,
}
OF_RULES = {"TB421": True, "TB422": True, "TB423": True}
OF_ROUTES = {"TB504": True, "TB506": True, "TB507": True, "TB509": False, "TB510": True}


@dataclass
class Ailing:
    """The servers, and what was found before and after what was said was done."""

    folder: Path
    prometheus: str
    alertmanager: str
    hook: int
    node: Node
    addresses: dict[str, str]
    before: dict[str, Result] = field(default_factory=dict)
    after: dict[str, Result] = field(default_factory=dict)

    def look(self, **options: bool) -> list[Result]:
        """All that is amiss."""
        context = Context(
            prometheus=self.prometheus,
            alertmanager=self.alertmanager,
            directory=str(self.node.folder),
            **options,  # type: ignore[arg-type]
        )
        return [each for each in visit(context) if each.status in ("fail", "warn")]

    def play(self, codes: dict[str, bool]) -> None:
        """Wait until all of these were seen, do what is said, and wait until the commands have helped.

        On a full machine a scrape may fail for another reason now and then: each code counts by itself.
        """
        seen: dict[str, list[Result]] = {}

        def all_seen() -> bool:
            for each in self.look():
                if each not in seen.setdefault(each.code, []):
                    seen[each.code].append(each)
            return codes.keys() <= seen.keys()

        with suppress(AssertionError):  # the tests say which is missing
            wait_for(all_seen)
        self.before.update({code: found[0] for code, found in seen.items()})
        found = [each for code in codes if codes[code] for each in seen.get(code, ())]
        for fix in dict.fromkeys(each.fix for each in found if is_command(each.fix)):
            subprocess.run(["bash", "-c", fix], check=True, capture_output=True, timeout=60)
        left = {code for code, runs in codes.items() if runs}

        def mended() -> bool:
            if not self._scraped():
                return False
            now = self.look()
            self.after.update({each.code: each for each in now if each.code in codes})
            left.intersection_update({each.code for each in now})
            return not left

        with suppress(AssertionError):
            wait_for(mended)
        for code in codes.keys() - left:
            self.after.pop(code, None)

    def _scraped(self) -> bool:
        """Whether every target has been scraped, and well, but for the one with a password."""
        targets = web.get_json(f"{self.prometheus}/api/v1/targets")["data"]["activeTargets"]
        return all(each["health"] == "up" or "denied" in each["scrapePool"] for each in targets)

    def configure(self, text: str) -> None:
        """Give Prometheus another configuration."""
        (self.folder / "prometheus.yml").write_text(text)
        urllib.request.urlopen(
            urllib.request.Request(f"{self.prometheus}/-/reload", method="POST"), timeout=60
        )


@pytest.fixture(scope="module")
def ailing(prometheus: str, alertmanager: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ailing]:
    """All faults of the monitoring, found and mended."""
    folder = tmp_path_factory.mktemp("doctor")
    with ExitStack() as ends:
        node = Node(folder / "boxes")
        ends.callback(node.close)
        node.rank()
        address = node.url().split("/")[2]
        pages = Pages()
        ends.callback(pages.close)
        hook, ports = free_port(), (free_port(), free_port())
        refused = ends.enter_context(closing(socket.socket()))
        refused.bind(("127.0.0.1", 0))  # taken, so that nobody else comes to listen there
        mon = Ailing(folder, f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}", hook, node, {})
        mon.addresses = {"exporter": address, "alertmanager": mon.alertmanager.partition("//")[2]}
        jobs = JOBS.format(refused="{}:{}".format(*refused.getsockname()), pages=pages.address)
        (folder / "prometheus.yml").write_text(jobs)
        (folder / "alertmanager.yml").write_text(ROUTES.format(hook=hook))
        lines = {
            mon.prometheus: [
                prometheus,
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{ports[0]}",
                "--web.enable-lifecycle",
                "--query.lookback-delta=20s",
            ],
            mon.alertmanager: [
                alertmanager,
                f"--config.file={folder}/alertmanager.yml",
                f"--storage.path={folder}/alertmanager",
                f"--web.listen-address=127.0.0.1:{ports[1]}",
                "--cluster.listen-address=",
            ],
        }
        for url, line in lines.items():
            process = processes.start(line, folder / "log")
            ends.callback(processes.stop, [process])
            wait_for(lambda url=url: web.answers(f"{url}/-/ready"))
        silence = {
            "matchers": [{"name": "severity", "value": "critical", "isRegex": False, "isEqual": True}],
            "startsAt": "2020-01-01T00:00:00Z",
            "endsAt": "2099-01-01T00:00:00Z",
            "createdBy": "somebody",
            "comment": "too much noise",
        }
        assert 200 == fetch(f"{mon.alertmanager}/api/v2/silences", body=silence).status
        mon.play({**OF_JOBS, **OF_ROUTES})
        own = folder / "numerics.yml"
        shipped = (bundle_dir() / "prometheus/rules/recording/numerics.yml").read_text()
        broken = yaml.safe_load(shipped)
        broken["groups"][0]["rules"][0]["expr"] = AMBIGUOUS
        broken["groups"][0]["interval"] = "1s"
        own.write_text(yaml.safe_dump(broken))
        mon.configure(HALF_THE_RULES.format(bundle=bundle_dir(), own=own, exporter=address))
        mon.play(OF_RULES)
        mon.configure(NO_JOB)
        mon.play({"TB403": True})
        yield mon


@pytest.mark.parametrize("code", [*OF_JOBS, *OF_ROUTES, *OF_RULES, "TB403"])
def test_each_fault_has_its_code_and_its_remedy(ailing: Ailing, code: str) -> None:
    """Who asks why nothing arrives is shown the place, and the command there, run as it stands, mends it."""
    assert code in ailing.before
    runs = {**OF_JOBS, **OF_ROUTES, **OF_RULES, "TB403": True}[code]
    assert runs == is_command(ailing.before[code].fix), ailing.before[code].fix
    if runs:
        assert code not in ailing.after, ailing.after[code]
    else:
        assert ailing.before[code].fix


def test_a_canary_is_followed_to_its_receiver(ailing: Ailing) -> None:
    """An address where nobody listens is said, by the test alert too; with somebody there all is well."""
    at = {each.code: each for each in ailing.look(test_alert=True)}
    assert "delivery failed" in at["TB512"].evidence
    assert f"127.0.0.1:{ailing.hook}" in at["TB508"].evidence
    routes = (ailing.folder / "alertmanager.yml").read_text()
    (ailing.folder / "alertmanager.yml").write_text(routes + INHIBITION)
    assert 200 == fetch(f"{ailing.alertmanager}/-/reload", body={}).status
    with closing(Pages(ailing.hook)):
        ailing.configure(HEALTHY.format(bundle=bundle_dir(), **ailing.addresses))
        wait_for(lambda: {each.code for each in ailing.look()} <= {"TB511"})
        line = [sys.executable, "-m", "trainbeacon", "doctor", "--json", "--strict", "--test-alert"]
        line += [f"--prometheus={ailing.prometheus}", f"--alertmanager={ailing.alertmanager}"]
        line += [f"--directory={ailing.node.folder}"]
        done = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=300)
        assert (0, "") == (done.returncode, done.stderr), done.stdout
        statuses = {each["code"]: each["status"] for each in json.loads(done.stdout)["checks"]}
        assert "ok" == statuses["TB512"]
        assert {"ok", "skip"} == set(statuses.values())
