"""The rules on every Prometheus version at hand: they load, and each scenario of *.test.yml comes true."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SCENARIOS = sorted(Path(__file__).parent.glob("*.test.yml"))


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.versions_apart
@pytest.mark.parametrize("scenarios", SCENARIOS, ids=lambda path: path.name.removesuffix(".test.yml"))
def test_scenarios_come_true(scenarios: Path, every_promtool: str) -> None:
    """Alerts fire when and as the scenarios say, with exact labels and texts, and are quiet else."""
    done = run(every_promtool, "test", "rules", scenarios)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_the_configuration_with_all_rules(every_promtool: str, repository: Path) -> None:
    """The shipped prometheus.yml is valid, and its patterns find every rule file."""
    done = run(every_promtool, "check", "config", repository / "prometheus/prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    for rules in repository.glob("prometheus/rules/*/*.yml"):
        assert f"Checking {rules}" in done.stdout
    assert "FAILED" not in done.stdout + done.stderr


def test_lint_of_promtool_finds_nothing(every_promtool: str, repository: Path, tmp_path: Path) -> None:
    """With all of its checks, which count as errors; so that a rule that stands twice would be reported."""
    strict = (every_promtool, "check", "rules", "--lint=all", "--lint-fatal")
    done = run(*strict, *repository.glob("prometheus/rules/*/*.yml"))
    assert (done.returncode, done.stderr) == (0, "")
    twice = tmp_path / "twice.yml"
    twice.write_text("groups: [{name: g, rules: [{record: a:b:c, expr: up}, {record: a:b:c, expr: up}]}]")
    assert run(*strict, twice).returncode == 3
