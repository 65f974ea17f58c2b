"""The routes of the chart's AlertmanagerConfig, as the operator would hand them to Alertmanager."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.rendering import Object, of_kind, render

VALUES = Path(__file__).parent / "values"
_KEYS = {
    "groupBy": "group_by",
    "groupWait": "group_wait",
    "groupInterval": "group_interval",
    "repeatInterval": "repeat_interval",
    "muteTimeIntervals": "mute_time_intervals",
    "activeTimeIntervals": "active_time_intervals",
}


def as_operator(configs: list[Object], strategy: str) -> dict[str, Any]:
    """One Alertmanager configuration out of the objects, under a base whose receiver is `base`.

    What the operator does: a receiver is called namespace/object/receiver, the object's root route
    becomes a child with `continue`, and with OnNamespace route and inhibitions match the namespace.
    """
    routes, inhibitions, receivers, intervals = [], [], [{"name": "base"}], set()
    for one in configs:
        prefix = f"{one['metadata']['namespace']}/{one['metadata']['name']}/"
        own = [f'namespace = "{one["metadata"]["namespace"]}"'] if strategy == "OnNamespace" else []
        route = _route(one["spec"]["route"], prefix)
        routes.append({**route, "matchers": [*own, *route.get("matchers", ())], "continue": True})
        receivers += [{"name": prefix + receiver["name"]} for receiver in one["spec"]["receivers"]]
        intervals |= {interval["name"] for interval in one["spec"].get("muteTimeIntervals", ())}
        for rule in one["spec"]["inhibitRules"]:
            sides = {
                f"{side}_matchers": own + _matchers(rule[f"{side}Match"]) for side in ("source", "target")
            }
            inhibitions.append({**sides, "equal": rule["equal"]})
    return {
        "route": {"receiver": "base", "routes": routes},
        "inhibit_rules": inhibitions,
        "receivers": receivers,
        "time_intervals": [{"name": name, "time_intervals": [{"years": ["2020"]}]} for name in intervals],
    }


def _route(route: dict[str, Any], prefix: str) -> dict[str, Any]:
    made = {_KEYS[key]: value for key, value in route.items() if key in _KEYS}
    if "receiver" in route:
        made["receiver"] = prefix + route["receiver"]
    if "matchers" in route:
        made["matchers"] = _matchers(route["matchers"])
    if "routes" in route:
        made["routes"] = [_route(child, prefix) for child in route["routes"]]
    unknown = route.keys() - _KEYS.keys() - {"receiver", "matchers", "routes", "continue"}
    assert not unknown, unknown
    return made | ({"continue": True} if route.get("continue") else {})


def _matchers(found: list[dict[str, str]]) -> list[str]:
    return [f'{one["name"]} {one["matchType"]} "{one["value"]}"' for one in found]


def routed(amtool: str, file: Path, **labels: str) -> list[str]:
    """The receivers that an alert reaches."""
    pairs = [f"{name}={value}" for name, value in labels.items()]
    command = [amtool, "config", "routes", "test", f"--config.file={file}", *pairs]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip().split(",")


@pytest.fixture(scope="module")
def per_namespace(helm: str, amtool: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Alertmanager configuration of three namespaces, under the operator's default strategy."""
    objects = of_kind(render(helm, "--values", VALUES / "notify.yml"), "AlertmanagerConfig")
    file = tmp_path_factory.mktemp("routes") / "alertmanager.yml"
    file.write_text(yaml.safe_dump(as_operator(objects, "OnNamespace")))
    done = subprocess.run([amtool, "check-config", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return file


def test_alert_of_a_listed_namespace_reaches_its_team(per_namespace: Path, amtool: str) -> None:
    """With the operator's namespace matcher an alert goes to the object of its own namespace."""
    alert = {"alertname": "TrainingRankLost", "severity": "critical", "run": "r"}
    assert ["nlp/trainbeacon/team"] == routed(amtool, per_namespace, namespace="nlp", **alert)
    assert ["vision/trainbeacon/team"] == routed(amtool, per_namespace, namespace="vision", **alert)


def test_alert_of_another_namespace_is_left_to_the_base(per_namespace: Path, amtool: str) -> None:
    """The trap itself: what is not listed, and the Watchdog, which has no namespace, is none of ours."""
    assert ["base"] == routed(amtool, per_namespace, alertname="TrainingRankLost", namespace="other")
    assert ["base"] == routed(amtool, per_namespace, alertname="Watchdog", severity="none")


def test_strategy_none_takes_the_alerts_of_all_namespaces(helm: str, amtool: str, tmp_path: Path) -> None:
    """One object then routes as alertmanager.yml does, the Watchdog to its own receiver."""
    objects = of_kind(render(helm, "--values", VALUES / "all-namespaces.yml"), "AlertmanagerConfig")
    assert 1 == len(objects)
    file = tmp_path / "alertmanager.yml"
    file.write_text(yaml.safe_dump(as_operator(objects, "None")))
    route = "monitoring/trainbeacon/"
    assert [route + "team"] == routed(
        amtool, file, alertname="TrainingRankLost", severity="critical", namespace="x"
    )
    assert [route + "watchdog"] == routed(amtool, file, alertname="Watchdog", severity="none")


def test_tree_of_routes_is_that_of_alertmanager_yml(helm: str, repository: Path) -> None:
    """Grouping, times, matchers and inhibitions are those of the file, so that its tests speak for both."""
    source = yaml.safe_load((repository / "alertmanager/alertmanager.yml").read_text())
    objects = of_kind(render(helm, "--values", VALUES / "all-namespaces.yml"), "AlertmanagerConfig")
    made = as_operator(objects, "None")
    (route,) = made["route"]["routes"]
    assert _without_names(_normalised(source["route"])) == _without_names(route)
    expected = [{key: _normal(value, key) for key, value in rule.items()} for rule in source["inhibit_rules"]]
    assert expected == made["inhibit_rules"]


def _normalised(route: dict[str, Any]) -> dict[str, Any]:
    made = {key: _normal(value, key) for key, value in route.items() if key != "routes"}
    return made | {"routes": [_normalised(child) for child in route["routes"]]} if "routes" in route else made


def _normal(value: Any, key: str) -> Any:
    """Matchers with one way of spacing and quoting."""
    if not key.endswith("matchers"):
        return value
    from tools.chart import _matchers as parse

    return _matchers(parse(value))


def _without_names(route: dict[str, Any]) -> dict[str, Any]:
    """The route without what the operator adds: the prefix of receivers, `continue` of the first level."""
    made = {key: value for key, value in route.items() if key != "continue"}
    made["receiver"] = route["receiver"].split("/")[-1]
    if "routes" in route:
        made["routes"] = [_without_names(child) for child in route["routes"]]
    return {key: value for key, value in made.items() if value != []}


def test_receivers_of_the_bridge_are_webhooks_to_it(helm: str) -> None:
    """A receiver that notify has is reached through its Service; others stay silent, and are there."""
    objects = render(helm, "--values", VALUES / "notify.yml")
    receivers = {one["name"]: one for one in of_kind(objects, "AlertmanagerConfig")[0]["spec"]["receivers"]}
    (webhook,) = receivers["team"]["webhookConfigs"]
    (service,) = of_kind(objects, "Service")
    host = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
    assert f"http://{host}:{service['spec']['ports'][0]['port']}/alerts/team" == webhook["url"]
    assert {"name": "nobody"} == receivers["nobody"]
