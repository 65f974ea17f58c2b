"""What is given for other programs: their own checkers take it, and it speaks of metrics that exist."""

from __future__ import annotations

import csv
import re
import subprocess
from functools import cache
from pathlib import Path

import promql_parser
import pytest
import yaml

from tests.chart.rendering import REPOSITORY, of_kind, render
from trainbeacon import catalogue

SCALE_OUT = sorted((REPOSITORY / "deploy/scale-out").glob("*.yml"))
PAGES = [REPOSITORY / "docs" / name for name in ("neighbours.md", "scale-out.md")]


@cache
def known_names() -> frozenset[str]:
    """Names of ours: metrics with the endings of histograms, and what the rules record."""
    names = {name + ending for name in catalogue.BY_NAME for ending in ("", "_bucket", "_sum", "_count")}
    for file in REPOSITORY.glob("prometheus/rules/*/*.yml"):
        for group in yaml.safe_load(file.read_text())["groups"]:
            names |= {rule["record"] for rule in group["rules"] if "record" in rule}
    return frozenset(names)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_queries_of_the_page_parse_and_name_what_exists(page: Path) -> None:
    """Every query can be copied: it parses, and what it asks of ours is served or recorded."""
    queries = re.findall(r"```promql\n(.*?)```", page.read_text(), re.DOTALL)
    assert queries
    for query in queries:
        promql_parser.parse(query)
        ours = set(re.findall(r"\b(?:training|trainbeacon)_\w+|\brun\w*:\w+:\w+", query))
        assert ours <= known_names()


@pytest.mark.parametrize("file", SCALE_OUT, ids=lambda path: path.stem)
def test_prometheus_takes_the_configuration(file: Path, every_promtool: str, tmp_path: Path) -> None:
    """Each example is valid as it lies there, agent mode by its own rules."""
    (tmp_path / file.name).write_text(file.read_text())
    (tmp_path / "rules").symlink_to(REPOSITORY / "prometheus/rules")
    mode = ["--agent"] if file.stem == "agent" else []
    command = [every_promtool, "check", "config", *mode, str(tmp_path / file.name)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", SCALE_OUT, ids=lambda path: path.stem)
def test_patterns_of_names_match_something(file: Path) -> None:
    """What is dropped or federated by name is there to be dropped or federated."""
    patterns = re.findall(r'(?:regex: |__name__=~")(training_[^"\n]+|run:[^"\n]+)', file.read_text())
    for pattern in patterns:
        for part in pattern.split("|"):
            assert any(re.fullmatch(part, name) for name in known_names()), part


def test_list_of_gpu_fields_is_well_formed() -> None:
    """Three columns, a type that dcgm-exporter knows, no field twice: one bad line and it does not start."""
    lines = (REPOSITORY / "deploy/neighbours/dcgm-counters.csv").read_text().splitlines()
    rows = list(csv.reader(line for line in lines if not line.startswith("#")))
    assert len(rows) > 10
    for field, kind, text in rows:
        assert re.fullmatch(r"DCGM_FI_(DEV|PROF|DRIVER)_?[A-Z0-9_]+", field)
        assert kind.strip() in ("gauge", "counter", "label")
        assert text.strip().endswith((".", "version"))
    assert len({row[0] for row in rows}) == len(rows)


def test_routes_keep_stock_alerts_from_training_only(amtool: str) -> None:
    """The alerts are silenced for namespaces that train; elsewhere they go where they went."""
    file = REPOSITORY / "deploy/neighbours/alertmanager-routes.yml"
    done = subprocess.run([amtool, "check-config", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for alert, namespace, receiver in (
        ("KubeJobNotCompleted", "nlp", "nobody"),
        ("KubeJobNotCompleted", "shop", "default"),
        ("CPUThrottlingHigh", "vision", "nobody"),
        ("TrainingStalled", "nlp", "default"),
    ):
        labels = [f"alertname={alert}", f"namespace={namespace}"]
        command = [amtool, "config", "routes", "test", f"--config.file={file}", *labels]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert receiver == done.stdout.strip()


def test_limits_of_samples_are_the_charts(helm: str) -> None:
    """A limit that falls behind what an exporter may serve would have its whole answer refused."""
    (monitor,) = of_kind(render(helm), "PodMonitor")
    limits = {
        int(each) for file in SCALE_OUT for each in re.findall(r"sample_limit: (\d+)", file.read_text())
    }
    assert {monitor["spec"]["sampleLimit"]} == limits
