"""What `helm test` runs in the cluster, here against a real Prometheus."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.chart.rendering import CHART, named, render
from tests.serving import PATIENCE, request, wait_for
from trainbeacon.stack.ports import free_port

POOL = "podMonitor/monitoring/trainbeacon/0"


def check(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The chart's script, as the pod runs it: with nothing but Python."""
    command = [sys.executable, "-I", str(CHART / "checks/check.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def server(prometheus: str, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus with the rules and with the pool that the operator would make of the PodMonitor."""
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    closed = f"127.0.0.1:{free_port()}"
    scrapes = [
        {"job_name": POOL, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]},
        {"job_name": "down", "scrape_interval": "1s", "scrape_timeout": "1s"}
        | {"static_configs": [{"targets": [closed]}]},
    ]
    rules = [f"{repository}/prometheus/rules/{kind}/*.yml" for kind in ("recording", "alerts")]
    config = {"rule_files": rules, "scrape_configs": scrapes}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = [prometheus, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log
        )
    try:
        wait_for(lambda: _ready(port), what="Prometheus with its pools")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _ready(port: int) -> bool:
    try:
        return POOL in request(f"http://127.0.0.1:{port}/api/v1/scrape_pools").text
    except OSError:
        return False


def test_all_is_well_where_prometheus_took_everything(helm: str, server: str) -> None:
    """With rules and monitor taken, the arguments that the chart renders lead to status 0."""
    values = Path(__file__).parent / "values/kube-prometheus-stack.yml"
    pod = named(render(helm, "--values", values), "Pod", "trainbeacon-test")
    arguments = pod["spec"]["containers"][0]["command"][2:]
    assert f"--pool={POOL}" in arguments
    groups = [argument for argument in arguments if argument.startswith("--group=")]
    assert len(groups) > 3
    here = [argument for argument in arguments if not argument.startswith("--prometheus")]
    done = check(f"--prometheus={server}", *here)
    assert (0, "") == (done.returncode, done.stderr), done.stdout
    assert f"OK: {len(groups)} groups of rules are loaded" in done.stdout


def test_rules_that_the_operator_passed_over_are_named(server: str) -> None:
    """A group that Prometheus does not have is named, with the label as the likely reason."""
    done = check(f"--prometheus={server}", "--group=trainbeacon-life", "--group=trainbeacon-absent")
    assert 1 == done.returncode
    assert "Prometheus has no group trainbeacon-absent. Does its ruleSelector ask for a label?" in done.stdout
    assert "trainbeacon-life" not in done.stdout


def test_monitor_that_the_operator_passed_over_is_named(server: str) -> None:
    """A pool that Prometheus does not have is named, with what to look at."""
    done = check(f"--prometheus={server}", "--pool=podMonitor/monitoring/other/0")
    assert 1 == done.returncode
    assert "podMonitorSelector" in done.stdout


def test_target_that_cannot_be_scraped_is_named(server: str) -> None:
    """A target of the pool that is down is a failure with Prometheus' own reason."""
    said = wait_for(
        lambda: (done := check(f"--prometheus={server}", "--pool=down")).returncode and done.stdout,
        20,
        "failed scrape",
    )
    assert "cannot be scraped" in said
    assert "refused" in said


def test_page_that_does_not_answer_is_named() -> None:
    """A bridge or a Prometheus that is not there is a failure in one line, not a traceback."""
    for option in ("--health", "--prometheus"):
        address = f"http://127.0.0.1:{free_port()}"
        done = check(f"{option}={address}")
        assert (1, "") == (done.returncode, done.stderr)
        assert f"NOT OK: {address}" in done.stdout
