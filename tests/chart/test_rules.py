"""Rules and dashboards come out of the chart as they went in, and switches change nothing else."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.rendering import REPOSITORY, Object, of_kind, render, render_text

RULES = sorted((REPOSITORY / "prometheus/rules").glob("*/*.yml"))
VALUES = Path(__file__).parent / "values"
Rule = dict[str, Any]


def groups_in(objects: list[Object]) -> list[dict[str, Any]]:
    return [group for one in of_kind(objects, "PrometheusRule") for group in one["spec"]["groups"]]


def groups_of(file: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load(file.read_text())["groups"])


def alerts_in(groups: list[dict[str, Any]]) -> list[Rule]:
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def test_rules_are_byte_identical_by_default(helm: str) -> None:
    """Each file of rules is the text under `spec` of one object, comments and braces included.

    So all that tests/rules says of the files holds for what an operator hands to Prometheus.
    """
    text = render_text(helm)
    specs = re.findall(r"^kind: PrometheusRule$.*?^spec:\n(.*?)(?=^---$|\Z)", text, re.DOTALL | re.MULTILINE)
    assert {file.read_text() for file in RULES} == {textwrap.dedent(spec) for spec in specs}


def test_dashboards_are_the_same_by_default(helm: str) -> None:
    """Each ConfigMap holds one dashboard, equal to its source, and small enough for kubectl apply."""
    sources = {
        path.name: json.loads(path.read_text()) for path in REPOSITORY.glob("grafana/dashboards/*.json")
    }
    found = {}
    for one in of_kind(render(helm), "ConfigMap"):
        ((name, text),) = one["data"].items()
        found[name.removeprefix("trainbeacon-")] = json.loads(text)
        carried = REPOSITORY / "deploy/k8s/chart/files/dashboards" / name.removeprefix("trainbeacon-")
        assert carried.read_text() == text
        assert len(json.dumps(one).encode()) < 262_144, name  # the limit of an annotation
        assert "1" == one["metadata"]["labels"]["grafana_dashboard"]
    assert sources == found


@pytest.mark.parametrize("price", ["3.25", "4", "0"])
def test_the_price_of_a_gpu_hour_reaches_its_variable(helm: str, price: str) -> None:
    """It stands in the dashboard's field at first, and nothing else is changed on any dashboard."""
    sources = {
        path.name: json.loads(path.read_text()) for path in REPOSITORY.glob("grafana/dashboards/*.json")
    }
    (variable,) = (
        each for each in sources["efficiency.json"]["templating"]["list"] if each["name"] == "price"
    )
    chosen = {"selected": True, "text": price, "value": price}
    variable |= {"query": price, "current": chosen, "options": [chosen]}
    found = {}
    for one in of_kind(render(helm, f"--set=dashboards.gpuHourPrice={price}"), "ConfigMap"):
        ((name, text),) = one["data"].items()
        found[name.removeprefix("trainbeacon-")] = json.loads(text)
    assert sources == found


@pytest.mark.parametrize("url", ["https://wiki.example.org/a$b", "http://trainbeacon-notify:9798/runbooks/"])
def test_links_to_runbooks_have_the_base_that_is_set(helm: str, url: str) -> None:
    """Every alert's link, and nothing else in the rules."""
    base = url.rstrip("/")
    alerts = alerts_in(groups_in(render(helm, f"--set-string=prometheusRule.runbookUrl={url}")))
    assert {f"{base}/{alert['alert']}.md" for alert in alerts} == {
        alert["annotations"]["runbook_url"] for alert in alerts
    }
    shipped = {alert["alert"] for file in RULES for alert in alerts_in(groups_of(file))}
    assert {alert["alert"] for alert in alerts} == shipped


def test_switches_leave_the_other_rules_alone(helm: str) -> None:
    """Off means gone; all that stays has its expression, time and texts, and labels only added to."""
    groups = groups_in(render(helm, "--values", VALUES / "switches.yml"))
    source = [group for file in RULES for group in groups_of(file) if group["name"] != _OFF]
    assert [group["name"] for group in source] == [group["name"] for group in groups]
    kept = [[rule for rule in group["rules"] if rule.get("alert") != "TrainingStalled"] for group in source]
    expected = [[_labelled(rule) for rule in rules] for rules in kept]
    assert expected == [group["rules"] for group in groups]
    assert [group.get("interval") for group in source] == [group.get("interval") for group in groups]


_OFF = "trainbeacon-identity-alerts"


def _labelled(rule: Rule) -> Rule:
    """The rule with the labels that tests/chart/values/switches.yml adds."""
    if "alert" not in rule:
        return rule
    own = {"severity": "warning", "pager": "ml"} if rule["alert"] == "TrainingRankLost" else {}
    return {**rule, "labels": {**rule.get("labels", {}), "team": "ml", **own}}


def test_each_group_and_each_alert_has_a_switch(helm: str) -> None:
    """Whatever its name, a group or an alert can be switched off, and then it alone is gone."""
    all_groups = groups_in(render(helm))
    names = [group["name"] for group in all_groups]
    alerts = {rule["alert"] for rule in alerts_in(all_groups)}
    off = [*(f"prometheusRule.groups.{name}.enabled=false" for name in names[1:])]
    assert names[:1] == [group["name"] for group in groups_in(render(helm, "--set", ",".join(off)))]
    off = [f"prometheusRule.alerts.{name}.enabled=false" for name in sorted(alerts - {"Watchdog"})]
    left = alerts_in(groups_in(render(helm, "--set", ",".join(off))))
    assert ["Watchdog"] == [rule["alert"] for rule in left]
