"""The exporters of this machine: whether they serve what the black boxes hold."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator

from trainbeacon.blackbox.election import holder_of
from trainbeacon.blackbox.reader import BoxDirectory
from trainbeacon.doctor.context import Answer, Context
from trainbeacon.doctor.results import Check, Result, SkippedError, fail, warn

_SLOW_SECONDS = 5.0
_CLOCK_SECONDS = 30.0


def samples(text: str, name: str) -> Iterator[tuple[dict[str, str], float]]:
    """The samples of one metric on a page in the text format."""
    pattern = rf"^{name}(?:\{{(.*)\}})? (\S+)(?: \S+)?$"
    for labels, value in re.findall(pattern, text, re.MULTILINE):
        yield dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels)), float(value)


def _served(context: Context) -> Iterator[Result]:
    live = [each for each in context.served if each.live]
    if not live and not any(each.url for each in context.served):
        raise SkippedError("no run is at work on this machine")
    for each in context.served:
        where = shlex.quote(each.directory)
        if not each.url:
            if each.live and not _is_simulated(each.directory):
                fix = f"trainbeacon agent --directory={where} --port 0 &"
                yield fail("TB301", f"ranks write to {each.directory} and nobody serves it", fix)
            continue
        page = context.page(each.url)
        if isinstance(page, OSError):
            yield fail("TB302", f"{each.url} does not answer: {page}", _wake(each.directory))
        elif page.status == 401:
            yield warn(
                "TB303",
                f"{each.url} asks for a password: what it serves cannot be looked at",
                "none needed here; Prometheus needs basic_auth for it (docs/security.md)",
            )
        elif page.status != 200:
            yield fail("TB302", f"{each.url} answers {page.status}", _wake(each.directory))
        else:
            yield from _page(context, each.url, each.live, page)


def _is_simulated(directory: str) -> bool:
    """`trainbeacon simulate` serves its boxes itself; no process of training has them open."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        boxes = BoxDirectory(descriptor).scan()
    finally:
        os.close(descriptor)
    return bool(boxes) and not any(box.identity.pid for box in boxes)


def _wake(directory: str) -> str:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        holder = holder_of(descriptor)
    finally:
        os.close(descriptor)
    if holder is not None and holder.pid:
        return f"kill -CONT {holder.pid} || kill -KILL {holder.pid}"
    return "read the exporter's log"


def _page(context: Context, url: str, live: bool, page: Answer) -> Iterator[Result]:
    if live and not any(True for _ in samples(page.text, "training_state")):
        yield fail(
            "TB304",
            f"ranks are at work, but {url} shows none",
            "see trainbeacon doctor --only TB2, which says what is wrong with their boxes",
        )
    for labels, value in samples(page.text, "trainbeacon_collector_success"):
        if value == 0:
            yield warn(
                "TB305",
                f"the collector {labels.get('collector')} of {url} fails",
                "read the exporter's log for the error of that collector",
            )
    dropped = [
        (labels, value) for labels, value in samples(page.text, "trainbeacon_series_dropped_total") if value
    ]
    for labels, value in dropped[:3]:
        of = f"run {labels['run']}, rank {labels['rank']}" if labels.get("run") else url
        yield warn(
            "TB306",
            f"{of}: {value:.0f} series are left out, their budget is spent",
            "log fewer names or fewer label values (docs/user-metrics.md)",
        )
    errors = [
        (labels, value)
        for labels, value in samples(page.text, "trainbeacon_errors_total")
        if value and labels.get("where") != "value"
    ]
    for labels, value in errors[:3]:
        of = f"run {labels['run']}, rank {labels['rank']}" if labels.get("run") else url
        yield warn(
            "TB307",
            f"{of}: {value:.0f} errors of TrainBeacon itself at {labels.get('where')}",
            "read that process' log for the warning of the logger trainbeacon",
        )
    if page.seconds > _SLOW_SECONDS:
        yield warn(
            "TB308",
            f"{url} took {page.seconds:.1f} s to answer",
            "look for a full machine; a scrape ends after 10 s",
        )
    for _, clock in samples(page.text, "trainbeacon_clock_timestamp_seconds"):
        if abs(clock - context.clock()) > _CLOCK_SECONDS + page.seconds:
            yield warn(
                "TB309",
                f"the clock of {url} is {clock - context.clock():+.0f} s off",
                "timedatectl set-ntp true on that node",
            )


CHECKS = (
    Check(
        "exporter",
        {
            "TB301": "Nobody serves the ranks at work",
            "TB302": "The exporter does not answer",
            "TB303": "The exporter asks for a password",
            "TB304": "The exporter does not show the ranks at work",
            "TB305": "A collector fails",
            "TB306": "Series are left out",
            "TB307": "TrainBeacon has errors of its own",
            "TB308": "The exporter answers slowly",
            "TB309": "The exporter's clock is off",
        },
        _served,
    ),
)
