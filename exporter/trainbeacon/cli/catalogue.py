"""`trainbeacon catalogue`: every metric, as a table, as JSON or as the reference page."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from trainbeacon import catalogue
from trainbeacon._version import __version__

NAME = "catalogue"
HELP = "list every metric: name, type, unit, labels, level"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_const", const=as_json, dest="form", help="for programs")
    form.add_argument(
        "--markdown", action="store_const", const=as_markdown, dest="form", help="the text of METRICS.md"
    )
    parser.set_defaults(form=as_text)


def run(arguments: argparse.Namespace) -> int:
    """Print the catalogue."""
    print(arguments.form(), end="")
    return 0


def series_of(level: catalogue.Level) -> int:
    """The greatest number of series that one rank, GPU, node or run can have."""
    return sum(metric.series for metric in catalogue.ALL if metric.level == level)


def as_text() -> str:
    """An aligned table, one line a metric."""
    header = ("NAME", "TYPE", "UNIT", "LEVEL", "SERIES", "LABELS", "HELP")
    rows = [
        (m.name, m.type, m.unit or "-", m.level, str(m.series), ",".join(m.label_names) or "-", m.help)
        for m in catalogue.ALL
    ]
    return "".join(f"{line}\n" for line in _aligned([header, *rows]))


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def as_json() -> str:
    """The catalogue with what follows from it, for programs in any language."""
    document = {
        "version": __version__,
        "levels": {
            level: {"labels": catalogue.LEVEL_LABELS[level], "series": series_of(level), "budget": budget}
            for level, budget in catalogue.BUDGETS.items()
        },
        "metrics": [_plain(metric) for metric in catalogue.ALL],
    }
    return json.dumps(document, indent=2) + "\n"


def _plain(metric: catalogue.Metric) -> dict[str, Any]:
    labels = [
        {"name": label.name, "meaning": label.meaning, "values": label.values, "bound": label.bound}
        for label in metric.labels
    ]
    return {**asdict(metric), "labels": labels, "label_names": metric.label_names, "series": metric.series}


_INTRODUCTION = """\
# Metrics

Every metric that TrainBeacon serves. This page is generated from the catalogue by `make generate`;
`trainbeacon catalogue --json` prints the same for programs.

## How to read it

**Names.** `training_` says what a training job does and `trainbeacon_` how the exporter itself does.
A name ends with its unit, always a base unit (seconds, bytes, watts, celsius; a ratio is 0 to 1, a
timestamp is Unix time), and only counters end with `_total`. What is long or free text (host,
UUID, version) is a label of an info metric, whose value is always 1.

**Levels.** The level says for what one set of series exists, and so which identity labels each of them
carries before the metric's own. Metrics of the level run are written by rank 0 only. The series of a
level are at most those of its budget; what goes beyond is left out and counted in
`trainbeacon_series_dropped_total`.

**Labels.** The figure is the greatest number of values on one target; the names after it are all
values there are. Without names, the values are the user's or the machine's.
"""


def as_markdown() -> str:
    """The reference page."""
    return "\n".join([_INTRODUCTION, *_levels(), "", *_groups()]).rstrip() + "\n"


def _levels() -> Iterator[str]:
    yield from _table_head("Level", "Identity labels", "Metrics", "Series at most", "Budget")
    for level, budget in catalogue.BUDGETS.items():
        count = sum(metric.level == level for metric in catalogue.ALL)
        labels = ", ".join(f"`{name}`" for name in catalogue.LEVEL_LABELS[level])
        yield _table_row(level, labels or "none", str(count), str(series_of(level)), str(budget))


def _groups() -> Iterator[str]:
    # Sorted by first appearance: a group of the catalogue may be spread over several of its files.
    order = list(dict.fromkeys(metric.group for metric in catalogue.ALL))
    metrics = sorted(catalogue.ALL, key=lambda metric: order.index(metric.group))
    for group, members in groupby(metrics, key=lambda metric: metric.group):
        yield f"## {group[0].upper()}{group[1:]}\n"
        yield from _table_head("Name", "Type", "Unit", "Labels", "Level", "Stability", "Since", "Help")
        yield from map(_metric_row, members)
        yield ""


def _metric_row(metric: catalogue.Metric) -> str:
    labels = [_label_cell(label.name, label.bound, label.values) for label in metric.labels]
    if metric.buckets:
        bounds = (*(f"{bound:g}" for bound in metric.buckets), "+Inf")
        labels.append(_label_cell("le", len(bounds), bounds))
    return _table_row(
        f"`{metric.name}`",
        metric.type,
        metric.unit,
        "; ".join(labels),
        metric.level,
        metric.stability,
        metric.since,
        metric.help,
    )


def _label_cell(name: str, bound: int, values: Iterable[str]) -> str:
    listed = ", ".join(values)
    return f"`{name}` {bound}: {listed}" if listed else f"`{name}` {bound}"


def _table_head(*names: str) -> Iterator[str]:
    yield _table_row(*names)
    yield _table_row(*("---" for _ in names))


def _table_row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
