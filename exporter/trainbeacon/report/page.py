"""The report as one HTML file and as Markdown: the same parts in the same order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from trainbeacon.report.charts import chart, clock
from trainbeacon.report.gate import Verdict, level
from trainbeacon.report.record import Record
from trainbeacon.verdict.durations import duration

_MOST_RANKS = 20
_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;max-width:760px;margin:2em auto;padding:0 1em;
color:#1a1a1a;background:#fff}
h1{font-size:1.3em;margin-bottom:.2em}h2{font-size:1.05em;margin-top:1.6em;border-bottom:1px solid #ccc}
.verdict{border-left:6px solid #2e7d32;padding:.4em .8em;background:#f4f6f4}
.verdict.warning{border-color:#b26a00}
.verdict.critical{border-color:#b00020}table{border-collapse:collapse;width:100%;font-size:.9em}
td,th{text-align:left;padding:.15em .8em .15em 0;border-bottom:1px solid #eee;vertical-align:top}
figure{margin:.8em 0;break-inside:avoid}figcaption{font-size:.9em}svg{width:100%;height:auto}
svg text{font-size:11px;fill:#555}.grid{stroke:#ddd}polyline{fill:none;stroke-width:1.6}.line0{stroke:#1f5fa8}
.line1{stroke:#c25b00;stroke-dasharray:5 3}
.restart{stroke:#555}.checkpoint{stroke:#2e7d32}.alert{stroke:#b00020}
@media print{body{margin:0;max-width:none}a{color:inherit}}
"""


@dataclass(frozen=True)
class Table:
    """A part of the report."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def _facts(record: Record) -> list[Sequence[str]]:
    lasted = (record.ends or record.taken_at) - record.begins if record.begins else None
    rows = [
        ("Outcome", record.outcome or "not known"),
        ("Began", clock(record.begins) + " UTC" if record.begins else ""),
        ("Ended", clock(record.ends) + " UTC" if record.ends else ""),
        ("Lasted", duration(lasted) if lasted else ""),
        ("Step", f"{record.step:.0f}" if record.step is not None else ""),
        ("Ranks", str(record.world_size or len(record.ranks) or "")),
        ("Hardware", ", ".join(record.hardware)),
        ("Seen through", record.source),
    ]
    return [row for row in rows if row[1]]


def tables(record: Record, other: Record | None, verdicts: Sequence[Verdict]) -> Iterator[Table]:
    """The parts with rows, in their order."""
    if other is not None:
        rows = [(each.outcome, each.sentence) for each in verdicts]
        yield Table(f"Against {other.run}", ("Outcome", "Why"), rows)
        yield Table(
            "Differences of configuration",
            ("Name", record.run, other.run),
            differences(record, other),
            "none is known" if not differences(record, other) else "",
        )
        yield Table(
            "At the same step", ("Metric", "Step", record.run, other.run), at_same_step(record, other)
        )
        yield Table(
            "At the same time into the run",
            ("Metric", "After", record.run, other.run),
            at_same_time(record, other),
        )
    elif verdicts:
        yield Table("Gate", ("Outcome", "Why"), [(each.outcome, each.sentence) for each in verdicts])
    yield Table("The run", ("", ""), _facts(record))
    yield Table(
        "What is wrong",
        ("Severity", "What", "What to do"),
        [(each["severity"], each["sentence"], each["action"]) for each in record.findings],
    )
    yield Table(
        "Incidents",
        ("Alert", "Severity", "From (UTC)", "Until", "Who"),
        [
            (each.alert, each.severity, clock(each.begins), clock(each.ends) or "still fires", each.who)
            for each in record.incidents
        ],
    )
    total = sum(record.seconds.values())
    if total:
        yield Table(
            "Where the time went",
            ("Kind", "Time", "Share", "GPU-hours lost"),
            [
                (
                    kind,
                    duration(seconds),
                    f"{100 * seconds / total:.1f} %",
                    f"{record.gpu_hours_lost[kind]:.2f}" if kind in record.gpu_hours_lost else "",
                )
                for kind, seconds in sorted(record.seconds.items(), key=lambda each: -each[1])
            ],
        )
    yield Table(
        "Ranks, the slowest first",
        ("Rank", "Host", "State", "Step", "Slower than its peers by", "At", "Waits for data"),
        list(_ranks(record)),
        f"{len(record.ranks) - _MOST_RANKS} more" if len(record.ranks) > _MOST_RANKS else "",
    )
    yield Table("Hyperparameters", ("Name", "Value"), sorted(record.hyperparameters.items()))
    yield Table(
        "Environment", ("Name", "Value"), [each for each in sorted(record.environment.items()) if each[1]]
    )
    yield Table("Not known", ("",), [(each,) for each in record.gaps])


def _ranks(record: Record) -> Iterator[Sequence[str]]:
    for each in record.ranks[:_MOST_RANKS]:
        excess, wait, step = each.get("excess"), each.get("data_wait"), each.get("step")
        yield (
            str(each["rank"]),
            str(each.get("host") or ""),
            str(each.get("state") or "") + (f", {each['failure']}" if each.get("failure") else ""),
            f"{step:.0f}" if step is not None else "",
            f"{100 * excess:.1f} % of a step" if excess is not None else "",
            str(each.get("cause") or ""),
            f"{100 * wait:.0f} %" if wait is not None else "",
        )


def differences(one: Record, other: Record) -> list[Sequence[str]]:
    """Hyperparameters and the like that differ."""
    found: list[Sequence[str]] = []
    pairs = [(one.hyperparameters, other.hyperparameters), (one.environment, other.environment)]
    pairs.append(
        (
            {"ranks": str(one.world_size), "hardware": ", ".join(one.hardware)},
            {"ranks": str(other.world_size), "hardware": ", ".join(other.hardware)},
        )
    )
    for mine, theirs in pairs:
        found += [
            (name, mine.get(name, "absent"), theirs.get(name, "absent"))
            for name in sorted({*mine, *theirs} - {"run_id"})
            if mine.get(name) != theirs.get(name)
        ]
    return found


def at_same_step(one: Record, other: Record) -> list[Sequence[str]]:
    """Values of both runs at steps that both have reached."""
    found: list[Sequence[str]] = []
    for name, mine in one.curves.items():
        theirs = [each for each in other.curves.get(name, ()) if each.step is not None]
        known = [each for each in mine if each.step is not None]
        if not known or not theirs:
            continue
        last = min(known[-1].step or 0, theirs[-1].step or 0)
        first = max(known[0].step or 0, theirs[0].step or 0)
        for part in (0.5, 1.0):
            step = first + part * (last - first)
            if last >= first:
                near = [
                    min(points, key=lambda each: abs((each.step or 0) - step)).value
                    for points in (known, theirs)
                ]
                found.append((name, f"{step:.0f}", f"{near[0]:.4g}", f"{near[1]:.4g}"))
    return found


def at_same_time(one: Record, other: Record) -> list[Sequence[str]]:
    """Values of both runs so long after their begin."""
    found: list[Sequence[str]] = []
    for name, mine in one.curves.items():
        theirs = other.curves.get(name, [])
        if not mine or not theirs or not one.begins or not other.begins:
            continue
        ages = [
            [(each.at - begins, each.value) for each in points]
            for points, begins in ((mine, one.begins), (theirs, other.begins))
        ]
        age = min(ages[0][-1][0], ages[1][-1][0])
        if age >= max(ages[0][0][0], ages[1][0][0]):
            near = [min(points, key=lambda each: abs(each[0] - age))[1] for points in ages]
            found.append((name, duration(age), f"{near[0]:.4g}", f"{near[1]:.4g}"))
    return found


def html(record: Record, other: Record | None = None, verdicts: Sequence[Verdict] = ()) -> str:
    """The whole page: no script, nothing that is fetched."""
    title = f"Run {record.run}"
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        f"<h1>{escape(title)}</h1>",
        f'<p class="verdict {escape(record.severity)}"><strong>{escape(record.verdict)}</strong>',
        f"<br>Next: {escape(record.action)}" if record.action else "",
        "</p>",
        f"<p>As of {clock(record.taken_at)} UTC.</p>",
    ]
    charts = list(_charts(record, other))
    for table in tables(record, other, verdicts):
        if table.title == "What is wrong" and charts:
            parts += ["<h2>Curves</h2>", *charts]
            parts.append("<p>Upright lines: alerts (whole), restarts (dashed), checkpoints (dotted).</p>")
        if table.rows or table.note:
            parts.append(_html_table(table))
    return "\n".join(each for each in parts if each) + "\n</html>\n"


def _charts(record: Record, other: Record | None) -> Iterator[str]:
    together = [name for name in ("training loss", "validation loss") if name in record.curves]
    for name, points in record.curves.items():
        if other is not None and other.curves.get(name):
            yield chart(
                f"{name} by step: {record.run}, {other.run} (dashed)",
                [(record.run, points), (other.run, other.curves[name])],
                (),
                by_step=True,
            )
        elif name == "training loss" and len(together) == 2:
            yield chart(
                "training loss, validation loss (dashed)",
                [(each, record.curves[each]) for each in together],
                record.marks,
            )
        elif name != "validation loss" or len(together) < 2:
            yield chart(name, [(name, points)], record.marks)


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{escape(each)}</th>" for each in table.head) if any(table.head) else ""
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows
    )
    note = f"<p>{escape(table.note)}</p>" if table.note else ""
    return f"<h2>{escape(table.title)}</h2><table><tr>{head}</tr>{rows}</table>{note}"


def markdown(record: Record, other: Record | None = None, verdicts: Sequence[Verdict] = ()) -> str:
    """The same for a merge request or a chat."""
    lines = [f"# Run {_cell(record.run)}", "", f"**{_cell(record.verdict)}**"]
    lines += ["", f"Next: {_cell(record.action)}"] if record.action else []
    for table in tables(record, other, verdicts):
        if not table.rows and not table.note:
            continue
        lines += ["", f"## {table.title}", ""]
        if table.rows:
            lines += [
                "| " + " | ".join(map(_cell, row)) + " |"
                for row in (table.head, ["---"] * len(table.head), *table.rows)
            ]
        lines += ["", table.note] if table.note else []
    for name, windows in record.windows.items():
        try:
            found = level(windows)
        except ValueError:
            continue
        lines += ["", f"{name}: {found.value:.4g} ± {found.error:.2g}"]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")
