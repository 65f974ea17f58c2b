"""Dashboards over real data: a real training job, a real Prometheus with the shipped rules."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from grafana.build import generate
from trainbeacon.demo import web
from trainbeacon.demo.launch import Ranks, free_port
from trainbeacon.demo.stack import Stack

pytestmark = pytest.mark.e2e

SMALL = "--context 16 --width 16 --heads 2 --layers 1 --text-bytes 100000 --validation-windows 16"
#: Empty while all is well, by panel and legend.
QUIET = {
    ("Ranks", "silent"),
    ("Ranks", "missing"),
    ("Firing alerts", "since"),
    ("Ranks to look at", "suspicion"),
    ("Ranks to look at", "not finite"),
}
CHOICE = {"$__rate_interval": "10s", "$cluster": ".*", "$namespace": ".*", "$rank": ".*", "$run": "demo"}


def queries() -> list[tuple[str, str, str]]:
    """Panel, legend and expression of every query of the run's dashboard, filled in as Grafana would."""
    model: dict[str, Any] = json.loads(generate()["grafana/dashboards/run.json"])
    found = []
    for panel in model["panels"]:
        for target in panel.get("targets", ()):
            expr = target["expr"]
            for name, value in CHOICE.items():
                expr = expr.replace(name, value)
            found.append((panel["title"], target["legendFormat"], expr))
    return found


def empty(prometheus: str) -> set[tuple[str, str]]:
    """The queries that return nothing now; one that fails to evaluate raises."""
    answers = {
        (title, legend): web.get_json(f"{prometheus}/api/v1/query", query=expr)["data"]["result"]
        for title, legend, expr in queries()
    }
    return {name for name, result in answers.items() if not result}


@pytest.mark.usefixtures("prometheus", "alertmanager")
def test_every_panel_of_the_run_shows_data(tmp_path: Path) -> None:
    """Each query returns data for a healthy job, but those of GPUs and those that only a fault fills."""
    port = free_port()
    job = ["--seconds", "150", "--steps", "1000000", "--evaluate-every", "50", "--checkpoint-every", "50"]
    job += ["--port", str(port), "--directory", str(tmp_path / "boxes"), *SMALL.split()]
    job += ["--checkpoint", str(tmp_path / "checkpoint.pt")]
    with Ranks(2, job, tmp_path) as ranks, Stack([f"127.0.0.1:{port}"], interval=1.0) as stack:
        gpu = {(title, legend) for title, legend, _ in queries() if title.startswith("GPU ")}
        end = time.monotonic() + 90
        while (found := empty(stack.prometheus_url) - gpu) != QUIET and time.monotonic() < end:
            assert ranks.alive, ranks.log(0).read_text()
            time.sleep(1.0)
        assert QUIET == found
