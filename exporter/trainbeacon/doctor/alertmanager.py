"""Alertmanager: whether a page would reach somebody."""

from __future__ import annotations

import json
import re
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone

import yaml

from trainbeacon.doctor import mend
from trainbeacon.doctor.context import Context, fetch, listener
from trainbeacon.doctor.exporters import samples
from trainbeacon.doctor.results import Check, Result, SkippedError, UnknownError, fail, warn
from trainbeacon.doctor.routing import PAGE, Routing, holds, judge_routes

_SECONDS_TO_DELIVER = 60.0


def _known(context: Context) -> Iterator[Result]:
    try:
        active = context.ask("alertmanagers")["activeAlertmanagers"]
        config = yaml.safe_load(context.ask("status/config")["yaml"]) or {}
    except (OSError, UnknownError) as error:
        raise SkippedError("Prometheus does not answer: TB401") from error
    process = listener(context.prometheus_url)
    file = process.path("config.file") if process is not None else ""
    if not active and not (config.get("alerting") or {}).get("alertmanagers"):
        address = urllib.parse.urlsplit(context.alertmanager).netloc or "127.0.0.1:9093"
        lines = ("  alertmanagers:", "    - static_configs:", f"        - targets: ['{address}']")
        fix = mend.add_section(file, "alerting", lines)
        yield fail(
            "TB501",
            f"{context.prometheus_url} sends its alerts to nobody",
            mend.then(fix, mend.reload(context.prometheus_url)),
        )


def _answers(context: Context) -> Iterator[Result]:
    url = context.alertmanager_url
    try:
        answer = fetch(f"{url}/api/v2/status")
        if answer.status != 200:
            raise OSError(f"it answers {answer.status}")
        version = str(json.loads(answer.text)["versionInfo"]["version"])
    except (OSError, ValueError, KeyError) as error:
        yield fail("TB502", f"{url}: {error}", "start it, or name another with --alertmanager URL")
        return
    if tuple(int(each) for each in re.findall(r"\d+", version)[:2]) < (0, 25):
        yield fail(
            "TB503", f"Alertmanager {version}: the routes need 0.25 or later", "install a later Alertmanager"
        )


def _routes(context: Context) -> Iterator[Result]:
    yield from judge_routes(Routing.of(context))


def _silences(context: Context) -> Iterator[Result]:
    url = context.alertmanager_url
    answer = fetch(f"{url}/api/v2/silences")
    for each in json.loads(answer.text):
        if each["status"]["state"] != "active":
            continue
        matchers = each["matchers"]
        wide = all(
            holds(
                PAGE.get(m["name"], ""),
                ("=" if m.get("isEqual", True) else "!")
                + ("~" if m["isRegex"] else ("" if m.get("isEqual", True) else "=")),
                m["value"],
            )
            for m in matchers
        )
        if wide:
            who = f"{each['createdBy']}: {each['comment']}"
            yield warn(
                "TB510",
                f"a silence until {each['endsAt'][:16]} mutes every critical alert ({who})",
                f"curl -fsS -X DELETE {url}/api/v2/silence/{each['id']}",
            )


def _delivery(context: Context) -> Iterator[Result]:
    """What Alertmanager counts of its deliveries."""
    if context.test_alert:
        raise SkippedError("the test alert says more: TB512")
    page = fetch(f"{context.alertmanager_url}/metrics").text
    sent, failed = _counts(page)
    for integration, count in failed.items():
        if count and count >= sent.get(integration, 0.0) / 2:
            yield warn(
                "TB511",
                f"{count:.0f} of {sent.get(integration, 0.0):.0f} requests by {integration} failed so far",
                "see trainbeacon doctor --test-alert",
            )


def _counts(page: str) -> tuple[dict[str, float], dict[str, float]]:
    found: list[dict[str, float]] = []
    for name in (
        "alertmanager_notification_requests_total",
        "alertmanager_notification_requests_failed_total",
    ):
        counts: dict[str, float] = {}
        for labels, value in samples(page, name):
            key = labels.get("integration", "")
            counts[key] = counts.get(key, 0.0) + value
        found.append(counts)
    return found[0], found[1]


def _canary(context: Context) -> Iterator[Result]:
    """Send one alert, and follow it to the end."""
    if not context.test_alert:
        raise SkippedError("it sends an alert: --test-alert")
    routing = Routing.of(context)
    name = f"TrainBeaconDoctor{int(time.time() * 1000) % 10**9}"
    labels = {"alertname": name, "severity": "critical", "run": name}
    receivers = [str(route.get("receiver", "")) for _, route in routing.routes(labels)]
    sent, failed = _counts(fetch(f"{routing.url}/metrics").text)
    now = datetime.now(timezone.utc).isoformat()
    notes = {
        "summary": "A test of the way to you.",
        "description": "trainbeacon doctor --test-alert",
        "action": "Nothing.",
    }
    answer = fetch(
        f"{routing.url}/api/v2/alerts", body=[{"labels": labels, "annotations": notes, "startsAt": now}]
    )
    if answer.status != 200:
        yield fail(
            "TB512",
            f"{routing.url} takes no alert: {answer.status} {answer.text[:200]}",
            "read Alertmanager's log",
        )
        return
    try:
        outcome = _wait(routing.url, sent, failed)
    finally:
        fetch(
            f"{routing.url}/api/v2/alerts",
            body=[{"labels": labels, "startsAt": now, "endsAt": datetime.now(timezone.utc).isoformat()}],
        )
    to = ", ".join(receivers)
    if outcome == "failed":
        yield fail(
            "TB512",
            f"the test alert was routed to {to}, and its delivery failed",
            "give that receiver an address that answers; Alertmanager's log has the error",
        )
    elif outcome == "":
        yield fail(
            "TB512",
            f"the test alert was routed to {to}, and nothing was sent for {_SECONDS_TO_DELIVER:g} s",
            "look for a silence, a mute interval or an empty receiver: trainbeacon doctor --only TB5",
        )


def _wait(url: str, sent: Mapping[str, float], failed: Mapping[str, float]) -> str:
    deadline = time.monotonic() + _SECONDS_TO_DELIVER
    while time.monotonic() < deadline:
        now_sent, now_failed = _counts(fetch(f"{url}/metrics").text)
        if sum(now_failed.values()) > sum(failed.values()):
            return "failed"
        if sum(now_sent.values()) > sum(sent.values()):  # it counts a failure after the request
            time.sleep(1.0)
            _, now_failed = _counts(fetch(f"{url}/metrics").text)
            return "failed" if sum(now_failed.values()) > sum(failed.values()) else "sent"
        time.sleep(0.3)
    return ""


CHECKS = (
    Check("alerting", {"TB501": "Prometheus sends its alerts to nobody"}, _known),
    Check(
        "alertmanager",
        {"TB502": "Alertmanager does not answer", "TB503": "Alertmanager is too old"},
        _answers,
    ),
    Check(
        "routes",
        {
            "TB504": "A page reaches nobody",
            "TB505": "The end of an incident is not said",
            "TB506": "Alerts of all runs are one message",
            "TB507": "A page waits too long",
            "TB508": "Nobody listens at a receiver's address",
            "TB509": "Nothing is inhibited",
        },
        _routes,
    ),
    Check("silences", {"TB510": "A silence mutes every page"}, _silences),
    Check("delivery", {"TB511": "Notifications fail"}, _delivery),
    Check("test alert", {"TB512": "The test alert does not arrive"}, _canary),
)
