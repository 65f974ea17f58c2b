"""Prometheus: whether it scrapes the exporters, and evaluates the rules."""

from __future__ import annotations

import re
import urllib.parse
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from trainbeacon.doctor import mend
from trainbeacon.doctor.context import Context, fetch, listener
from trainbeacon.doctor.results import Check, Result, SkippedError, UnknownError, fail, warn
from trainbeacon.stack.bundle import bundle_dir

PORT = 9797
#: The longest interval that the rules' windows hold for.
LONGEST_INTERVAL = 15.0
OLDEST = (2, 42)
_CLOCK_SECONDS = 30.0
_CLOCK = (
    "max by (instance) (abs(trainbeacon_clock_timestamp_seconds"
    " - timestamp(trainbeacon_clock_timestamp_seconds)))"
)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds_of(text: str) -> float:
    """A duration of Prometheus (`1m30s`) in seconds."""
    return sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+)(ms|[smhd])", str(text)))


def _answers(context: Context) -> Iterator[Result]:
    url = context.prometheus_url
    try:
        version = str(context.ask("status/buildinfo")["version"])
    except (OSError, UnknownError, ValueError, KeyError) as error:
        yield fail("TB401", f"{url}: {error}", "start one (trainbeacon up), or --prometheus URL")
        return
    if tuple(int(each) for each in re.findall(r"\d+", version)[:2]) < OLDEST:
        yield fail(
            "TB402", f"Prometheus {version}: the rules need 2.42 or later", "install a later Prometheus"
        )


class _Scraping:
    """What Prometheus scrapes of ours, with its configuration and where that lies."""

    def __init__(self, context: Context) -> None:
        try:
            active = context.ask("targets", state="active")["activeTargets"]
        except OSError as error:
            raise SkippedError("Prometheus does not answer: TB401") from error
        self.url = context.prometheus_url
        own = {part.netloc for each in context.served if (part := urllib.parse.urlsplit(each.url)).netloc}
        self.served = own
        self.targets = [each for each in active if _is_ours(each, own)]
        self.config = yaml.safe_load(context.ask("status/config")["yaml"]) or {}
        process = listener(self.url)
        self.file = process.path("config.file") if process is not None else ""
        self.here = self._read_file()

    def _read_file(self) -> Any:
        try:
            return yaml.safe_load(Path(self.file).read_text()) if self.file else {}
        except (OSError, ValueError, yaml.YAMLError):
            return {}

    def set(self, target: Mapping[str, Any], name: str, value: str) -> str:
        """The command that sets a key of the job of a target."""
        place = mend.job_place(self.here, target["scrapePool"]) or ["scrape_configs", target["scrapePool"]]
        return self.reloaded(mend.set_value(self.file, [*place, name], value))

    def remove(self, target: Mapping[str, Any], name: str) -> str:
        """The command that takes a key of the job of a target out."""
        place = mend.job_place(self.here, target["scrapePool"]) or ["scrape_configs", target["scrapePool"]]
        return self.reloaded(mend.remove(self.file, [*place, name]))

    def reloaded(self, fix: str) -> str:
        """That, and reading it again."""
        return mend.then(fix, mend.reload(self.url))


def _is_ours(target: Mapping[str, Any], own: set[str]) -> bool:
    job = target["labels"].get("job", "") + target.get("scrapePool", "")
    address = urllib.parse.urlsplit(target["scrapeUrl"])
    return "trainbeacon" in job.lower() or address.netloc in own or address.port == PORT


def _scrapes(context: Context) -> Iterator[Result]:
    scraping = _Scraping(context)
    if not scraping.targets:
        addresses = ", ".join(sorted(scraping.served)) or f"127.0.0.1:{PORT}"
        job = ("  - job_name: trainbeacon", "    static_configs:", f"      - targets: [{addresses}]")
        yield fail(
            "TB403",
            f"{scraping.url} scrapes no exporter",
            scraping.reloaded(mend.add_section(scraping.file, "scrape_configs", job)),
        )
        return
    scraped = {urllib.parse.urlsplit(each["scrapeUrl"]).netloc for each in scraping.targets}
    for target in scraping.targets:
        if target["health"] == "down":
            yield _down(scraping, target, sorted(scraping.served - scraped))
        yield from _timing(scraping, target)
    yield from _twice(scraping)
    yield from _labels(context, scraping)


def _down(scraping: _Scraping, target: Mapping[str, Any], unscraped: list[str]) -> Result:
    """Why a target is down, by what Prometheus says of it."""
    error, url = str(target["lastError"]), str(target["scrapeUrl"])
    said = f"{url} (job {target['scrapePool']}) is down: {error}"
    if other := _other_scheme(url, error):
        return fail("TB405", said, scraping.set(target, "scheme", other))
    if "401" in error or "403" in error:
        return fail(
            "TB406",
            said,
            f"give the job {target['scrapePool']} basic_auth with a password_file (docs/security.md)",
        )
    if "sample limit" in error or "sample_limit" in error:
        return fail("TB407", said, scraping.set(target, "sample_limit", "0"))
    if "body size limit" in error:
        return fail("TB408", said, scraping.set(target, "body_size_limit", "0"))
    if "label" in error and "limit" in error:
        name = next(
            (each for each in ("label_name_length_limit", "label_value_length_limit") if each in error),
            "label_limit",
        )
        return fail("TB409", said, scraping.set(target, name, "0"))
    if "deadline exceeded" in error or "Timeout" in error:
        return fail("TB410", said, scraping.set(target, "scrape_timeout", _longest_timeout(target)))
    if "x509" in error or "certificate" in error:
        return fail(
            "TB411",
            said,
            f"name the authority in tls_config.ca_file of the job {target['scrapePool']} (docs/security.md)",
        )
    if "HTTP status 404" in error:
        return fail("TB412", said, scraping.remove(target, "metrics_path"))
    if unscraped:
        old, new = urllib.parse.urlsplit(url).netloc, unscraped[0]
        if scraping.file and old in Path(scraping.file).read_text():
            return fail(
                "TB404", said, scraping.reloaded(f"sed -i 's/{re.escape(old)}/{new}/' {scraping.file}")
            )
        return fail("TB404", said, f"scrape {new} in its place")
    return fail(
        "TB404", said, f"start it there: trainbeacon agent --port {urllib.parse.urlsplit(url).port or PORT}"
    )


def _other_scheme(url: str, error: str) -> str:
    """The scheme that the exporter speaks, if it is the other one; empty else."""
    if any(each in error for each in ("HTTP response to HTTPS client", "does not look like a TLS")):
        return "http"
    if not any(each in error for each in ("malformed HTTP", "to an HTTPS", "EOF", "reset by peer", "400")):
        return ""
    scheme, _, rest = url.partition("://")
    other = "http" if scheme == "https" else "https"
    try:
        return other if fetch(f"{other}://{rest}").status in (200, 401) else ""
    except OSError:
        return ""


def _longest_timeout(target: Mapping[str, Any]) -> str:
    return f"{min(10.0, seconds_of(target.get('scrapeInterval', '15s')) or 10.0):g}s"


def _timing(scraping: _Scraping, target: Mapping[str, Any]) -> Iterator[Result]:
    every = seconds_of(target.get("scrapeInterval", ""))
    if every > LONGEST_INTERVAL:
        yield warn(
            "TB413",
            f"the job {target['scrapePool']} scrapes every {every:g} s: the rules' windows are made for 15 s",
            scraping.set(target, "scrape_interval", "15s"),
        )


def _twice(scraping: _Scraping) -> Iterator[Result]:
    up = [each for each in scraping.targets if each["health"] != "down"]
    counts = Counter(each["scrapeUrl"] for each in up)
    for url, count in counts.items():
        if count > 1:
            jobs = sorted({each["scrapePool"] for each in up if each["scrapeUrl"] == url})
            yield warn(
                "TB414",
                f"{url} is scraped {count} times, by {', '.join(jobs)}: its series are there {count} times",
                f"take it out of all jobs but {jobs[0]}",
            )


def _labels(context: Context, scraping: _Scraping) -> Iterator[Result]:
    """What relabelling does to series: renamed, or dropped."""
    for labels, _ in context.query('count by (job) ({__name__="training_state",exported_run!=""})'):
        job = labels.get("job", "")
        place = mend.job_place(scraping.here, job) or ["scrape_configs", job]
        yield fail(
            "TB415",
            f"the job {job} sets a label that ranks have: theirs is called exported_run now",
            scraping.reloaded(mend.set_value(scraping.file, [*place, "honor_labels"], "true")),
        )
    up = {each["labels"].get("job", "") for each in scraping.targets if each["health"] == "up"}
    shown = {
        labels.get("job", "")
        for labels, _ in context.query(
            "count by (job) (last_over_time(trainbeacon_clock_timestamp_seconds[5m]))"
        )
    }
    for job in sorted(up - shown):
        target = next(each for each in scraping.targets if each["labels"].get("job", "") == job)
        yield fail(
            "TB416",
            f"the job {job} is up, but none of its series is kept",
            scraping.remove(target, "metric_relabel_configs"),
        )
    for labels, off in context.query(_CLOCK):
        if off > _CLOCK_SECONDS:
            yield warn(
                "TB417",
                f"the clock of {labels.get('instance')} is {off:.0f} s off Prometheus' own",
                "timedatectl set-ntp true on that node",
            )


def _rules(context: Context) -> Iterator[Result]:
    try:
        groups = context.ask("rules")["groups"]
    except OSError as error:
        raise SkippedError("Prometheus does not answer: TB401") from error
    file = ""
    if (process := listener(context.prometheus_url)) is not None:
        file = process.path("config.file")
    shipped = shipped_rules()
    loaded = {rule["name"] for group in groups for rule in group["rules"]}
    missing = sorted(set(shipped) - loaded)
    after = mend.reload(context.prometheus_url)
    if len(missing) == len(shipped):
        patterns = [
            f"  - {bundle_dir() / 'prometheus' / 'rules' / kind}/*.yml" for kind in ("recording", "alerts")
        ]
        yield fail(
            "TB420",
            "none of the shipped rules is loaded",
            mend.then(mend.add_section(file, "rule_files", patterns), after),
        )
    elif missing:
        files = sorted({str(shipped[name]) for name in missing})
        text = (
            f"{len(missing)} of {len(shipped)} shipped rules are missing, among them {', '.join(missing[:3])}"
        )
        yield fail(
            "TB421",
            text,
            mend.then(mend.add_section(file, "rule_files", [f"  - {each}" for each in files]), after),
        )
    ours = [group for group in groups if any(rule["name"] in shipped for rule in group["rules"])]
    now, own = context.clock(), _own_intervals()
    for group in ours:
        every = float(group["interval"])
        if every > max(LONGEST_INTERVAL, own.get(group["name"], 0.0)):
            yield warn(
                "TB423",
                f"the group {group['name']} is evaluated every {every:g} s: made for 15 s",
                mend.then(mend.set_value(file, ["global", "evaluation_interval"], "15s"), after),
            )
        if float(group.get("evaluationTime", 0.0)) > every:
            yield warn(
                "TB424",
                f"the group {group['name']} takes {group['evaluationTime']:.1f} s of {every:g} s",
                "see docs/scale-out.md: shard, or give Prometheus more processors",
            )
        at = _unix(str(group.get("lastEvaluation", "")))
        if at is not None and at > 0 and now - at > 3 * every + 60:
            yield warn(
                "TB424",
                f"the group {group['name']} was last evaluated {now - at:.0f} s ago",
                "see docs/scale-out.md",
            )
        for rule in group["rules"]:
            if rule.get("health") == "err":
                origin = shipped.get(rule["name"])
                fix = "open Prometheus' page of rules; the usual cause is a label that the scrape adds"
                if (
                    origin is not None
                    and Path(group["file"]).is_file()
                    and not Path(group["file"]).samefile(origin)
                ):
                    fix = mend.then(f"cp {origin} {group['file']}", after)
                yield fail("TB422", f"{rule['name']}: {rule.get('lastError', '')}", fix)


def shipped_rules() -> dict[str, Path]:
    """Names of the shipped rules with their files."""
    return {rule.get("alert") or rule["record"]: path for path, group in _groups() for rule in group["rules"]}


def _own_intervals() -> dict[str, float]:
    """Intervals of the shipped groups that have one of their own."""
    return {group["name"]: seconds_of(group.get("interval", "")) for _, group in _groups()}


@cache
def _groups() -> list[tuple[Path, Any]]:
    files = sorted((bundle_dir() / "prometheus" / "rules").rglob("*.yml"))
    return [(path, group) for path in files for group in yaml.load(path.read_text(), _LOADER)["groups"]]  # noqa: S506 - a safe one


#: The parser in C where PyYAML has it: the rules are long.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _unix(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text[:19] + "+00:00").timestamp()
    except ValueError:
        return None


CHECKS = (
    Check("prometheus", {"TB401": "Prometheus does not answer", "TB402": "Prometheus is too old"}, _answers),
    Check(
        "scrape",
        {
            "TB403": "No exporter is scraped",
            "TB404": "Prometheus does not reach an exporter",
            "TB405": "Prometheus uses the wrong scheme",
            "TB406": "Prometheus has no password",
            "TB407": "The limit of samples is too low",
            "TB408": "The limit of the page's size is too low",
            "TB409": "A limit of labels is too low",
            "TB410": "The scrape's time-out is too short",
            "TB411": "Prometheus does not trust the certificate",
            "TB412": "Prometheus asks for the wrong path",
            "TB413": "The scrape interval is too long",
            "TB414": "An exporter is scraped twice",
            "TB415": "The scrape renames labels of the ranks",
            "TB416": "Relabelling drops the series",
            "TB417": "The clock of a node is off Prometheus' own",
        },
        _scrapes,
    ),
    Check(
        "rules",
        {
            "TB420": "The rules are not loaded",
            "TB421": "Some rules are not loaded",
            "TB422": "A rule cannot be evaluated",
            "TB423": "The evaluation interval is too long",
            "TB424": "Rules are evaluated late",
        },
        _rules,
    ),
)
