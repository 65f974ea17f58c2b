"""Prometheus and Alertmanager with the shipped files on this machine."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from trainbeacon.stack import rendering
from trainbeacon.stack.binaries import Binaries
from trainbeacon.stack.bundle import bundle_dir
from trainbeacon.stack.stack import Stack, StackError


@pytest.fixture
def prometheus_config() -> dict[str, Any]:
    return rendering.prometheus_config(bundle_dir(), ["127.0.0.1:1"], 2.0, "own:1", "am:2")


def test_intervals_and_addresses_change_and_rules_stay(
    prometheus_config: dict[str, Any], repository: Path
) -> None:
    """Every shipped rule file is read where it lies; scrape and evaluation follow the parameter."""
    shipped = sorted((repository / "prometheus" / "rules").rglob("*.yml"))
    read = sorted(
        path for pattern in prometheus_config["rule_files"] for path in Path("/").glob(pattern.lstrip("/"))
    )
    assert read == shipped
    settings = prometheus_config["global"]
    assert (settings["scrape_interval"], settings["evaluation_interval"]) == ("2s", "2s")
    (job,) = [job for job in prometheus_config["scrape_configs"] if job["job_name"] == "trainbeacon"]
    assert job["static_configs"] == [{"targets": ["127.0.0.1:1"]}]
    assert "file_sd_configs" not in job
    assert prometheus_config["alerting"]["alertmanagers"][0]["static_configs"] == [{"targets": ["am:2"]}]


def test_routes_stay_and_every_channel_becomes_the_webhook(repository: Path) -> None:
    """Matchers, grouping, receivers and inhibition are as shipped, waiting is short, nobody stays nobody."""
    shipped = yaml.safe_load((repository / "alertmanager" / "alertmanager.yml").read_text())
    config = rendering.alertmanager_config(bundle_dir(), "http://hook/", 2.0)
    assert config["inhibit_rules"] == shipped["inhibit_rules"]
    assert without_waits(config["route"]) == without_waits(shipped["route"])
    assert config["route"]["group_wait"] == "2s"
    channels = {each["name"]: each.get("webhook_configs") for each in config["receivers"]}
    assert channels.keys() == {each["name"] for each in shipped["receivers"]}
    assert channels["team"] == [{"url": "http://hook/", "send_resolved": True}]
    assert channels["nobody"] is None


def without_waits(route: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in route.items() if key not in ("group_wait", "group_interval")}
    return {**kept, "routes": [without_waits(each) for each in route.get("routes", [])]}


@pytest.mark.parametrize(("value", "text"), [(2, "2s"), (0.5, "500ms"), (15.0, "15s")])
def test_durations_are_written_as_prometheus_reads_them(value: float, text: str) -> None:
    """Whole seconds as such, others in milliseconds."""
    assert rendering.seconds(value) == text


def test_the_watchdog_arrives_and_nothing_is_left(prometheus: str, alertmanager: str) -> None:
    """The real servers run on the shipped files and deliver; afterwards processes and folder are gone."""
    before = set(psutil.Process().children(recursive=True))
    tools = Binaries(prometheus=Path(prometheus), alertmanager=Path(alertmanager))
    with Stack(["127.0.0.1:9"], interval=1.0, longest_wait=1.0, tools=tools) as stack:
        started = set(psutil.Process().children(recursive=True)) - before
        assert stack.query("vector(7)") == [({}, 7.0)]
        found = stack.wait_for(lambda each: each.alert == "Watchdog", 120)
        folder = stack.folder
    assert found is not None
    assert found.receiver == "watchdog"
    assert len(started) >= 2
    assert not any(process.is_running() for process in started)
    assert not folder.exists()


def test_a_server_that_ends_says_why(prometheus: str, alertmanager: str, tmp_path: Path) -> None:
    """A rule that Prometheus refuses becomes an error with its last lines, and nothing is left running."""
    bundle = tmp_path / "bundle"
    subprocess.run(["cp", "-r", str(bundle_dir() / "alertmanager"), str(tmp_path)], check=True)
    bundle.mkdir()
    (tmp_path / "alertmanager").rename(bundle / "alertmanager")
    (bundle / "prometheus" / "rules").mkdir(parents=True)
    (bundle / "prometheus" / "rules" / "bad.yml").write_text(
        "groups: [{name: a, rules: [{record: b, expr: '('}]}]"
    )
    (bundle / "prometheus" / "prometheus.yml").write_text("rule_files: [rules/*.yml]\nscrape_configs: []\n")
    tools = Binaries(prometheus=Path(prometheus), alertmanager=Path(alertmanager))
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(StackError, match="prometheus is not ready"), Stack([], bundle=bundle, tools=tools):
        pass
    assert set(psutil.Process().children(recursive=True)) == before


def test_missing_programs_say_how_to_get_them() -> None:
    """Without the programs the error names `make tools` and the packages."""
    with pytest.raises(StackError, match=r"(?s)make tools.*apt install"), Stack([], tools=Binaries()):
        pass
