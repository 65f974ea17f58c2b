"""Files before they are deployed: configurations, rules, values of the chart, manifests."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from trainbeacon import catalogue
from trainbeacon.config.settings import Config, ConfigError
from trainbeacon.config.validation import nearest
from trainbeacon.doctor import mend
from trainbeacon.doctor.context import Context
from trainbeacon.doctor.prometheus import LONGEST_INTERVAL, PORT, seconds_of, shipped_rules
from trainbeacon.doctor.results import Check, Result, SkippedError, fail, warn
from trainbeacon.doctor.routing import Routing, judge_routes
from trainbeacon.stack.bundle import bundle_dir

#: What a histogram or an info metric is called beyond its name in the catalogue.
_SUFFIXES = ("_bucket", "_sum", "_count", "_info", "_created")
_METRIC = re.compile(r"(?<![\w:])((?:training|trainbeacon)_[a-z0-9_]+)(?![\w:])")
#: Fewer samples than a node of eight ranks serves.
_FEWEST_SAMPLES = 3000


def _files(context: Context) -> Iterator[Result]:
    if not context.files:
        raise SkippedError("no files are named")
    for file in context.files:
        try:
            with open(file, encoding="utf-8") as text:
                documents = [each for each in yaml.safe_load_all(text) if each is not None]
        except (OSError, UnicodeDecodeError) as error:
            yield fail("TB701", f"{file}: {error}", "name a file that can be read")
            continue
        except yaml.YAMLError as error:
            yield fail("TB701", " ".join(f"{file}: {error}".split()), "mend that line")
            continue
        for document in documents:
            yield from _document(file, document)


def _document(file: str, found: Any) -> Iterator[Result]:
    if not isinstance(found, Mapping):
        yield fail("TB702", f"{file} is no configuration, rules, values or manifest", "name another file")
    elif "kind" in found and "apiVersion" in found:
        yield from _manifest(file, found)
    elif "groups" in found:
        yield from _rules(file, found["groups"])
    elif "scrape_configs" in found or "rule_files" in found:
        yield from _prometheus(file, found)
    elif "route" in found or "receivers" in found:
        yield from _alertmanager(file, found)
    elif set(found) & set(_schema()["properties"]):
        yield from _values(file, found, _schema(), [])
    else:
        near = (f"{key} ({nearest(str(key), _schema()['properties'])}?)" for key in found)
        yield fail(
            "TB702",
            f"{file}: no kind of file has the keys {', '.join(near)}",
            "name another file, or mend the keys",
        )


def _prometheus(file: str, found: Mapping[str, Any]) -> Iterator[Result]:
    settings = found.get("global") or {}
    jobs = [each for each in found.get("scrape_configs") or () if _is_ours(each)]
    if not jobs:
        lines = ["  - job_name: trainbeacon", "    static_configs:", f"      - targets: [127.0.0.1:{PORT}]"]
        yield fail("TB403", f"{file} scrapes no exporter", mend.add_section(file, "scrape_configs", lines))
    every = settings.get("scrape_interval", "1m")
    for job in jobs:
        place = mend.job_place(found, job["job_name"])
        if seconds_of(job.get("scrape_interval", every)) > LONGEST_INTERVAL:
            text = f"{file}: the job {job['job_name']} scrapes every {job.get('scrape_interval', every)}"
            yield warn("TB413", text, mend.set_value(file, [*place, "scrape_interval"], "15s"))
        if 0 < int(job.get("sample_limit") or 0) < _FEWEST_SAMPLES:
            text = f"{file}: sample_limit {job['sample_limit']}; eight ranks serve up to {_FEWEST_SAMPLES}"
            yield warn("TB407", text, mend.set_value(file, [*place, "sample_limit"], "0"))
    if seconds_of(settings.get("evaluation_interval", "1m")) > LONGEST_INTERVAL:
        text = f"{file}: rules are evaluated every {settings.get('evaluation_interval', '1m')}"
        yield warn("TB423", text, mend.set_value(file, ["global", "evaluation_interval"], "15s"))
    if not found.get("rule_files"):
        lines = [
            f"  - {bundle_dir() / 'prometheus' / 'rules' / kind}/*.yml" for kind in ("recording", "alerts")
        ]
        yield fail("TB420", f"{file} names no rule_files", mend.add_section(file, "rule_files", lines))
    if not (found.get("alerting") or {}).get("alertmanagers"):
        lines = ["  alertmanagers:", "    - static_configs:", "        - targets: ['127.0.0.1:9093']"]
        yield fail("TB501", f"{file} names no Alertmanager", mend.add_section(file, "alerting", lines))


def _is_ours(job: Mapping[str, Any]) -> bool:
    text = json.dumps(job, default=str)
    return "trainbeacon" in text.lower() or f":{PORT}" in text


def _alertmanager(file: str, found: Mapping[str, Any]) -> Iterator[Result]:
    names = {each["name"] for each in found.get("receivers") or ()}
    for place, receiver in _named(found.get("route") or {}, ["route"]):
        if receiver not in names:
            other = nearest(receiver, names) or next(iter(sorted(names)), "")
            yield fail(
                "TB704",
                f"{file}: there is no receiver {receiver}",
                mend.set_value(file, [*place, "receiver"], other),
            )
            return
    for result in judge_routes(Routing(found, file)):
        yield Result(
            result.code,
            result.status,
            f"{file}: {result.evidence}",
            result.fix.partition(" && ")[0].partition(", then ")[0],
        )


def _named(route: Mapping[str, Any], place: list[str | int]) -> Iterator[tuple[list[str | int], str]]:
    if route.get("receiver"):
        yield place, str(route["receiver"])
    for number, child in enumerate(route.get("routes") or ()):
        yield from _named(child, [*place, "routes", number])


def _rules(file: str, groups: Any) -> Iterator[Result]:
    recorded = {rule["record"] for group in groups for rule in group.get("rules", ()) if "record" in rule}
    known = set(catalogue.BY_NAME) | recorded | set(shipped_rules())
    for group in groups:
        if seconds_of(group.get("interval", "")) > 60:
            yield warn(
                "TB423",
                f"{file}: the group {group['name']} is evaluated every {group['interval']}",
                f"take interval out of the group {group['name']}",
            )
        for rule in group.get("rules", ()):
            name = rule.get("alert") or rule.get("record")
            for metric in dict.fromkeys(_METRIC.findall(re.sub(r'"[^"]*"', '""', str(rule.get("expr", ""))))):
                base = next(
                    (metric.removesuffix(each) for each in _SUFFIXES if metric.endswith(each)), metric
                )
                if metric not in known and base not in known:
                    near = nearest(metric, known)
                    fix = (
                        f"sed -i 's/\\b{metric}\\b/{near}/g' {shlex.quote(file)}"
                        if near
                        else "trainbeacon catalogue lists what there is"
                    )
                    yield fail("TB705", f"{file}: {name} reads {metric}, which is not served", fix)
            if "alert" in rule and "severity" not in (rule.get("labels") or {}):
                yield warn(
                    "TB706",
                    f"{file}: {name} has no label severity: the routes take it for none",
                    f"give {name} labels: {{severity: warning}}",
                )


def _schema() -> Any:
    with open(bundle_dir() / "deploy/k8s/chart/values.schema.json", encoding="utf-8") as text:
        return json.load(text)


def _values(file: str, found: Any, schema: Mapping[str, Any], place: list[str | int]) -> Iterator[Result]:
    known = schema.get("properties")
    if not isinstance(found, Mapping) or not known:
        return
    for name, value in found.items():
        if name in known:
            child = known[name]
            yield from _value(file, value, child, [*place, name])
            yield from _values(file, value, child, [*place, name])
        elif schema.get("additionalProperties") is False:
            near = nearest(str(name), known)
            where = ".".join(map(str, [*place, name]))
            fix = (
                f"sed -i 's/\\b{name}:/{near}:/' {shlex.quote(file)}"
                if near
                else f"take {where} out of {file}"
            )
            yield fail("TB707", f"{file}: the chart has no value {where}", fix)


def _value(file: str, value: Any, schema: Mapping[str, Any], place: list[str | int]) -> Iterator[Result]:
    where = ".".join(map(str, place))
    if "enum" in schema and value not in schema["enum"]:
        yield fail(
            "TB708",
            f"{file}: {where} is {value!r}, not one of {schema['enum']}",
            mend.set_value(file, place, str(schema["enum"][0])),
        )
    if (
        place[-1] in ("interval", "scrapeInterval")
        and isinstance(value, str)
        and seconds_of(value) > LONGEST_INTERVAL
    ):
        yield warn("TB413", f"{file}: {where} is {value}", mend.set_value(file, place, "15s"))


def _manifest(file: str, found: Mapping[str, Any]) -> Iterator[Result]:
    kind, spec = str(found["kind"]), found.get("spec") or {}
    name = f"{kind} {(found.get('metadata') or {}).get('name', '')}"
    if kind == "PrometheusRule":
        yield from _rules(file, spec.get("groups") or ())
    for key in ("podMetricsEndpoints", "endpoints"):
        for number, each in enumerate(spec.get(key) or ()):
            if "notify" not in name and seconds_of(each.get("interval", "")) > LONGEST_INTERVAL:
                fix = mend.set_value(file, ["spec", key, number, "interval"], "15s")
                yield warn("TB413", f"{file}: {name} is scraped every {each['interval']}", fix)
    for container in _containers(spec):
        yield from _container(file, name, container)


def _containers(spec: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The containers of a pod, wherever its template stands in a kind that may be anybody's."""
    for key, value in spec.items():
        if key in ("containers", "initContainers") and isinstance(value, list):
            yield from (each for each in value if isinstance(each, Mapping))
        elif isinstance(value, Mapping):
            yield from _containers(value)


def _container(file: str, name: str, container: Mapping[str, Any]) -> Iterator[Result]:
    settings = {
        str(each["name"]): str(each["value"])
        for each in container.get("env") or ()
        if str(each.get("name", "")).startswith("TRAINBEACON_") and "value" in each
    }
    for variable, value in settings.items():
        if variable in ("TRAINBEACON_CONFIG", "TRAINBEACON_WEB_CONFIG"):
            continue  # a file of the container
        try:
            Config.load({}, {variable: value})
        except ConfigError as error:
            known = [f"trainbeacon_{field}" for field in Config.__dataclass_fields__]
            close = nearest(variable, known) if variable.lower() not in known else None
            near = close.upper() if close else None
            fix = (
                f"sed -i 's/\\b{variable}\\b/{near}/' {shlex.quote(file)}"
                if near
                else str(error).rpartition(". ")[2]
            )
            yield fail("TB709", f"{file}: {name}: {error}", fix)
    directory = settings.get("TRAINBEACON_DIRECTORY")
    mounts = [str(each.get("mountPath", "")) for each in container.get("volumeMounts") or ()]
    if directory and not any(
        directory == each or directory.startswith(each.rstrip("/") + os.sep) for each in mounts if each
    ):
        text = f"{file}: {name}: nothing is mounted at {directory}, no other container sees the boxes"
        yield fail(
            "TB710",
            text,
            f"mount the volume of the exporter at {directory} in the container {container.get('name')}",
        )


CHECKS = (
    Check(
        "files",
        {
            "TB701": "A file cannot be read",
            "TB702": "A file is of no known kind",
            "TB704": "A route names a receiver that is not there",
            "TB705": "A rule reads a metric that is not served",
            "TB706": "An alert has no severity",
            "TB707": "The chart has no such value",
            "TB708": "A value of the chart cannot be used",
            "TB709": "A setting of a container cannot be used",
            "TB710": "The folder of the boxes is not shared",
        },
        _files,
    ),
)
