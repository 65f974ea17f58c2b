"""Who receives what: the routing tree and the message texts, judged by amtool of every version at hand."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

TEXT = '{{ template "trainbeacon.title" . }}\n{{ template "trainbeacon.text" . }}'
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
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60, check=False)


def alert(status: str, **labels: str) -> dict[str, object]:
    return {
        "status": status,
        "labels": {"alertname": "TrainingRankLost", "run": "gpt", "severity": "critical", **labels},
        "annotations": {
            "summary": "A rank of the training is lost.",
            "description": f"Run gpt: rank {labels['rank']} (host node-b, GPU 0) crashed.",
            "action": "Look at that host.",
            "runbook_url": "https://example.org/TrainingRankLost.md",
        },
        "startsAt": "2026-01-02T03:04:05Z",
        "endsAt": "2026-01-02T03:14:05Z",
    }


def render(amtool: str, repository: Path, data: dict[str, object], file: Path) -> str:
    file.write_text(json.dumps(data))
    templates = f"--template.glob={repository}/alertmanager/templates/*.tmpl"
    done = run(amtool, "template", "render", templates, f"--template.text={TEXT}", f"--template.data={file}")
    assert done.returncode == 0, done.stderr
    return done.stdout


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


def test_message_of_a_firing_alert(every_amtool: str, repository: Path, tmp_path: Path) -> None:
    """One message says which run, rank and host, what happened, what to do first, and where to read on."""
    data = {
        "status": "firing",
        "alerts": [alert("firing", rank="3"), alert("resolved", rank="1")],
        "commonLabels": {"alertname": "TrainingRankLost", "run": "gpt"},
    }
    assert render(every_amtool, repository, data, tmp_path / "data.json").splitlines() == [
        "FIRING run gpt: TrainingRankLost",
        "[critical] A rank of the training is lost.",
        "Run gpt: rank 3 (host node-b, GPU 0) crashed.",
        "First: Look at that host.",
        "Runbook: https://example.org/TrainingRankLost.md",
        "Since: 2026-01-02 03:04:05 UTC",
        "",
        "Resolved:",
        "- TrainingRankLost, rank 1",
        "Dashboard: http://127.0.0.1:3000/d/trainbeacon-run?var-run=gpt",
        "Silence: /#/silences/new?filter=%7Balertname%3D%22TrainingRankLost%22%2Crun%3D%22gpt%22%7D",
    ]


def test_message_of_a_resolved_group_without_a_run(
    every_amtool: str, repository: Path, tmp_path: Path
) -> None:
    """What is over is said in a line an alert; alerts that belong to no run claim none."""
    data = {
        "status": "resolved",
        "alerts": [alert("resolved", rank="1"), alert("resolved", rank="2")],
        "commonLabels": {},
    }
    assert render(every_amtool, repository, data, tmp_path / "data.json").splitlines() == [
        "RESOLVED: 2 alerts",
        "Resolved:",
        "- TrainingRankLost, rank 1",
        "- TrainingRankLost, rank 2",
    ]
