"""The shipped configuration fitted to one machine: other addresses and intervals, the same rules, routes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

#: Name of the job in the shipped prometheus.yml that scrapes exporters.
JOB = "trainbeacon"
#: Name of the receiver in the shipped alertmanager.yml that gets the sign of life.
_WATCHDOG = "watchdog"


def prometheus_config(
    bundle: Path, targets: Sequence[str] | Path, interval: float, own: str, alertmanager: str
) -> dict[str, Any]:
    """The shipped prometheus.yml with these addresses (`host:port`) and one interval, in seconds.

    Targets that are a path are a file for `file_sd_configs`, of exporters on this machine. Jobs other than
    TrainBeacon's own stay only if they scrape Prometheus or Alertmanager themselves.
    """
    config = _load(bundle / "prometheus" / "prometheus.yml")
    found = targets if isinstance(targets, Path) else list(targets)
    known: dict[str, list[str] | Path] = {JOB: found, "prometheus": [own], "alertmanager": [alertmanager]}
    config["global"] = {
        **config.get("global", {}),
        "scrape_interval": seconds(interval),
        "scrape_timeout": seconds(interval),
        "evaluation_interval": seconds(interval),
    }
    config["scrape_configs"] = [
        _scrape(job, known[job["job_name"]]) for job in config["scrape_configs"] if job["job_name"] in known
    ]
    config["rule_files"] = [str(bundle / "prometheus" / pattern) for pattern in config["rule_files"]]
    config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]}
    return config


def _scrape(job: Mapping[str, Any], targets: list[str] | Path) -> dict[str, Any]:
    discovery = {name for name in job if name.endswith("_sd_configs")}
    left_out = discovery | {"static_configs", "scrape_interval", "scrape_timeout"}
    kept = {name: value for name, value in job.items() if name not in left_out}
    if isinstance(targets, Path):
        # A certificate of an exporter on this machine is its own and names the machine, not loopback.
        return {
            **kept,
            "tls_config": {"insecure_skip_verify": True},
            "file_sd_configs": [{"files": [str(targets)]}],
        }
    return {**kept, "static_configs": [{"targets": targets}]}


def alertmanager_config(
    bundle: Path, webhook: str, longest_wait: float | None, *, people: str = "", also: Sequence[str] = ()
) -> dict[str, Any]:
    """The shipped alertmanager.yml with a webhook in every receiver that notifies somebody.

    Alertmanager collects for at most `longest_wait` seconds before it sends, or as long as shipped where that
    is None. Routes, grouping and inhibition are untouched. `people` is a second webhook, for what people are
    to read: not the watchdog's sign of life. `also` are alerts that go to them whatever their severity.
    """
    config = _load(bundle / "alertmanager" / "alertmanager.yml")
    config["receivers"] = [_receiver(each, webhook, people) for each in config["receivers"]]
    if also:
        route = {"matchers": [f'alertname =~ "{"|".join(also)}"'], "receiver": config["route"]["receiver"]}
        config["route"]["routes"].insert(0, route)
    config["templates"] = [str(bundle / "alertmanager" / each) for each in config.get("templates", [])]
    if longest_wait is not None:
        _shorten(config["route"], seconds(longest_wait))
    return config


def _shorten(root: dict[str, Any], wait: str) -> None:
    for route in _routes(root):
        for name in {"group_wait", "group_interval"} & route.keys():
            route[name] = wait if route[name] != "0s" else "0s"


def _receiver(shipped: Mapping[str, Any], webhook: str, people: str) -> dict[str, Any]:
    channels = [each for name, value in shipped.items() if name.endswith("_configs") for each in value]
    if not channels:
        return dict(shipped)
    resolved = any(each.get("send_resolved", True) for each in channels)
    urls = [webhook, people] if people and shipped["name"] != _WATCHDOG else [webhook]
    hooks = [{"url": url, "send_resolved": resolved} for url in urls]
    return {"name": shipped["name"], "webhook_configs": hooks}


def _routes(route: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield route
    for child in route.get("routes", []):
        yield from _routes(child)


def seconds(value: float) -> str:
    """A duration as Prometheus writes it: `500ms`, `2s`."""
    return f"{round(value * 1000)}ms" if value % 1 else f"{round(value)}s"


def _load(path: Path) -> dict[str, Any]:
    config = yaml.safe_load(path.read_text())
    if not isinstance(config, dict):
        raise TypeError(f"{path} holds no mapping")
    return config
