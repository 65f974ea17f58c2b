"""Who receives what: the routing tree, judged by amtool of every version at hand."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROUTES = [
    ("team", {"alertname": "TrainingRankLost", "severity": "critical", "run": "r", "rank": "3"}),
    ("team", {"alertname": "TrainBeaconExporterBlind", "severity": "warning", "instance": "a:1"}),
    ("team", {"alertname": "SomethingElse"}),  # an alert of somebody else's rules is not lost
    ("watchdog", {"alertname": "Watchdog", "severity": "none"}),
    ("nobody", {"alertname": "TrainingSlow", "severity": "info", "run": "r"}),
]


@pytest.fixture
def configuration(repository: Path) -> Path:
    return repository / "alertmanager/alertmanager.yml"


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=False)


def test_configuration_is_valid(every_amtool: str, configuration: Path) -> None:
    """Every Alertmanager from 0.25 on takes the configuration, and finds the templates."""
    done = run(every_amtool, "check-config", configuration)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 templates" in done.stdout


@pytest.mark.parametrize(("receiver", "labels"), ROUTES, ids=lambda value: str(value))
def test_route(receiver: str, labels: dict[str, str], every_amtool: str, configuration: Path) -> None:
    """Pages and tickets reach the team, the Watchdog its own receiver, information nobody."""
    done = run(
        every_amtool,
        "config",
        "routes",
        "test",
        f"--config.file={configuration}",
        f"--verify.receivers={receiver}",
        *(f"{name}={value}" for name, value in labels.items()),
    )
    assert done.returncode == 0, done.stdout + done.stderr
