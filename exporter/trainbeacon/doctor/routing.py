"""The routes of Alertmanager: where an alert goes, and what is amiss on its way."""

from __future__ import annotations

import json
import re
import socket
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from trainbeacon.doctor import mend
from trainbeacon.doctor.context import Context, fetch, listener
from trainbeacon.doctor.prometheus import seconds_of
from trainbeacon.doctor.results import Result, UnknownError, fail, warn

#: What a page carries.
PAGE = {"alertname": "TrainingStalled", "severity": "critical", "run": "doctor", "owner": ""}


class Routing:
    """The configuration that an Alertmanager uses, and where an alert goes by it."""

    def __init__(self, config: Any, file: str = "", url: str = "") -> None:
        self.config, self.file, self.url = config, file, url
        receivers = {each["name"]: each for each in config.get("receivers") or ()}
        self.receivers: Mapping[str, Any] = receivers

    @classmethod
    def of(cls, context: Context) -> Routing:
        """What the Alertmanager that is asked uses now. Raises UnknownError."""
        url = context.alertmanager_url
        try:
            answer = fetch(f"{url}/api/v2/status")
        except OSError as error:
            raise UnknownError(f"{url}: {error}") from error
        if answer.status != 200:
            raise UnknownError(f"{url} answers {answer.status}")
        process = listener(url)
        return cls(
            yaml.safe_load(json.loads(answer.text)["config"]["original"]),
            process.path("config.file") if process is not None else "",
            url,
        )

    def routes(self, labels: Mapping[str, str]) -> list[tuple[list[str | int], Mapping[str, Any]]]:
        """The routes that an alert takes, each with its place and what it inherits."""
        return list(_take(self.config.get("route") or {}, labels, ["route"], {}))

    def reaches(self, receiver: str) -> bool:
        """Whether a receiver sends anything anywhere."""
        found = self.receivers.get(receiver) or {}
        return any(name.endswith("_configs") and value for name, value in found.items())

    def fixed(self, place: list[str | int], value: str) -> str:
        """The command that sets a value and has it read."""
        return mend.then(mend.set_value(self.file, place, value), mend.reload(self.url))


def _take(
    route: Mapping[str, Any], labels: Mapping[str, str], place: list[str | int], above: Mapping[str, Any]
) -> Iterator[tuple[list[str | int], Mapping[str, Any]]]:
    kept = {
        name: value
        for name, value in {**above, **route}.items()
        if name not in ("routes", "matchers", "match", "match_re", "continue")
    }
    found = False
    for number, child in enumerate(route.get("routes") or ()):
        if matches(child, labels):
            found = True
            yield from _take(child, labels, [*place, "routes", number], kept)
            if not child.get("continue"):
                return
    if not found:
        yield place, {**kept, "_own": dict(route)}


def matches(route: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether an alert with these labels is taken by a route, by any of the three forms."""
    wanted = [(name, "=", str(text)) for name, text in (route.get("match") or {}).items()]
    wanted += [(name, "=~", str(text)) for name, text in (route.get("match_re") or {}).items()]
    for text in route.get("matchers") or ():
        for part in re.findall(r'[\w.]+\s*(?:=~|!~|!=|=)\s*(?:"(?:[^"\\]|\\.)*"|[^,{}]+)', text):
            name, sign, value = re.match(r"([\w.]+)\s*(=~|!~|!=|=)\s*(.*)", part).groups()  # type: ignore[union-attr]
            wanted.append((name, sign, value.strip().strip('"').replace('\\"', '"')))
    return all(holds(labels.get(name, ""), sign, value) for name, sign, value in wanted)


def holds(text: str, sign: str, value: str) -> bool:
    """Whether a label fits one matcher."""
    if sign in ("=", "!="):
        return (text == value) == (sign == "=")
    return bool(re.fullmatch(value, text)) == (sign == "=~")


def judge_routes(routing: Routing) -> Iterator[Result]:
    """What the configuration does with a page, the sign of life and a run's alerts."""
    for place, route in routing.routes(PAGE):
        receiver = str(route.get("receiver", ""))
        others = sorted(name for name in routing.receivers if routing.reaches(name) and name != "watchdog")
        if not routing.reaches(receiver):
            where = f"a critical alert goes to the receiver {receiver}, which sends nothing"
            fix = (
                routing.fixed([*place, "receiver"], others[0])
                if others
                else f"give the receiver {receiver} a configuration (alertmanager/receivers/)"
            )
            yield fail("TB504", where, fix)
        elif not any(each.get("send_resolved", True) for each in _channels(routing, receiver)):
            yield warn(
                "TB505",
                f"the receiver {receiver} never says that an alert is over",
                f"set send_resolved: true in the receiver {receiver}",
            )
        group = route.get("group_by") or []
        if "run" not in group and "..." not in group:
            yield warn(
                "TB506",
                f"alerts are grouped by {group or 'nothing'}: alerts of all runs are one message",
                routing.fixed(["route", "group_by"], "[cluster, namespace, run]"),
            )
        if seconds_of(str(route.get("group_wait", "30s"))) > 60:
            yield warn(
                "TB507",
                f"a page waits {route['group_wait']} before it is sent",
                routing.fixed([*place, "group_wait"], "5s"),
            )
        yield from _unreachable(routing, receiver)
    sources = {
        json.dumps(each.get("source_matchers") or each.get("source_match") or "")
        for each in routing.config.get("inhibit_rules") or ()
    }
    if not any("Training" in each or "severity" in each for each in sources):
        yield warn(
            "TB509",
            "no inhibition: what follows from an incident is sent beside it",
            "take inhibit_rules of the shipped alertmanager.yml over (trainbeacon bundle FOLDER)",
        )


def _channels(routing: Routing, receiver: str) -> Iterator[Mapping[str, Any]]:
    for name, value in (routing.receivers.get(receiver) or {}).items():
        if name.endswith("_configs"):
            yield from value or ()


def _unreachable(routing: Routing, receiver: str) -> Iterator[Result]:
    """A webhook on this machine to which nobody listens."""
    for channel in _channels(routing, receiver):
        parts = urllib.parse.urlsplit(str(channel.get("url", "")))
        if parts.hostname not in ("127.0.0.1", "localhost", "::1") or listener(routing.url) is None:
            continue
        try:
            socket.create_connection((parts.hostname, parts.port or 80), 2.0).close()
        except OSError as error:
            yield fail(
                "TB508",
                f"nobody listens at {parts.hostname}:{parts.port}, the webhook of {receiver}: {error}",
                "start what shall listen there (trainbeacon notify), or give the receiver another address",
            )
