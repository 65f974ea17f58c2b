"""Grafana: whether its data source is the Prometheus that is asked."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Iterator

from trainbeacon.doctor.context import Context, fetch
from trainbeacon.doctor.results import Check, Result, SkippedError, UnknownError, fail, warn
from trainbeacon.stack.up.state import State


def _grafana(context: Context) -> Iterator[Result]:
    note = State().read_note()
    url = context.grafana or (
        note.urls.get("grafana", "") if note is not None and not context.prometheus else ""
    )
    if not url:
        raise SkippedError("no Grafana is named: --grafana URL")
    url = url.rstrip("/")
    try:
        health = fetch(f"{url}/api/health")
    except OSError as error:
        yield fail("TB601", f"{url}: {error}", "start it, or name another with --grafana URL")
        return
    if health.status != 200:
        yield fail("TB601", f"{url} answers {health.status}", "read Grafana's log")
        return
    answer = fetch(f"{url}/api/datasources")
    if answer.status != 200:
        raise UnknownError(
            f"its data sources are for administrators ({answer.status}): give http://USER:PASSWORD@HOST"
        )
    sources = [each for each in json.loads(answer.text) if each.get("type") == "prometheus"]
    if not sources:
        yield fail(
            "TB602",
            f"{url} has no data source of the type prometheus",
            "run trainbeacon bundle FOLDER, and copy grafana/provisioning to /etc/grafana/provisioning",
        )
    elif context.prometheus and not any(
        _same(each.get("url", ""), context.prometheus_url) for each in sources
    ):
        named = ", ".join(str(each.get("url")) for each in sources)
        yield warn(
            "TB603",
            f"the data source reads {named}, not {context.prometheus_url}",
            f"give the data source the address {context.prometheus_url}",
        )


def _same(one: str, other: str) -> bool:
    return urllib.parse.urlsplit(one).netloc == urllib.parse.urlsplit(other).netloc


CHECKS = (
    Check(
        "grafana",
        {
            "TB601": "Grafana does not answer",
            "TB602": "Grafana has no data source",
            "TB603": "Grafana reads another Prometheus",
        },
        _grafana,
    ),
)
