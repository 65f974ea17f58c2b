"""The table of docs/scale.md, from the raw data of `benchmarks.scale`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- begin: python -m benchmarks.scale --table -->", "<!-- end -->"
#: Of DESIGN: rules in a quarter of an interval, panels within a second.
PANEL_LIMIT_SECONDS = 1.0


def write(results: Path, page: Path) -> None:
    """Put the tables into the page, between its two marks."""
    measured = [json.loads(path.read_text()) for path in results.glob("scale-*.json")]
    measured.sort(key=lambda one: (version_of(one), one["ranks"], -one["interval"]))
    text = page.read_text()
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    page.write_text(f"{head}{BEGIN}\n{tables(measured)}\n{END}{tail}")


def version_of(one: dict[str, Any]) -> str:
    """As much of the version of the Prometheus measured as tells its features."""
    return ".".join(one["version"].split(".")[:2])


def tables(measured: list[dict[str, Any]]) -> str:
    """All tables, one after the other."""
    if not measured:
        return "Nothing is measured yet."
    return "\n\n".join((_costs(measured), _groups(measured), _expensive(measured[-1]), _panels(measured)))


def _costs(measured: list[dict[str, Any]]) -> str:
    columns = (
        "Prometheus", "ranks", "every", "series", "samples/s", "memory", "its cores",
        "rules an interval, median (most)",
        "a quarter of it", "missed", "scrape, median (most)", "slowest panel", "load average",
    )  # fmt: skip
    rows = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return "\n".join([*rows, *(f"| {' | '.join(_cost(one))} |" for one in measured)])


def _cost(one: dict[str, Any]) -> tuple[str, ...]:
    rules, scrape = one["rule_groups"]["all"], one["scrape_seconds"]
    return (
        version_of(one),
        f"{one['ranks']:,}",
        f"{one['interval']} s",
        f"{one['series']:,.0f}",
        f"{one['samples_a_second']:,.0f}",
        f"{one['resident_bytes'] / 1e9:.2f} GB",
        f"{one['prometheus_cores']:.2f}",
        f"{rules['median']:.2f} s ({rules['most']:.2f} s)",
        f"{one['interval'] / 4:.2f} s",
        f"{one['missed_evaluations']:.0f}" if "missed_evaluations" in one else "",
        f"{1000 * scrape['median']:.0f} ms ({1000 * scrape['most']:.0f} ms)",
        f"{1000 * one['panels'][0]['seconds']:.0f} ms",
        f"{one['load_before'][0]} to {one['load_after'][0]}",
    )


def _groups(measured: list[dict[str, Any]]) -> str:
    names = [name for name in measured[-1]["rule_groups"] if name != "all"]
    columns = [f"{version_of(one)}: {one['ranks']:,} at {one['interval']} s" for one in measured]
    rows = [f"| rule group, median ms | every | {' | '.join(columns)} |", "|---" * (2 + len(columns)) + "|"]
    for name in names:
        found = [one["rule_groups"].get(name) for one in measured]
        cells = [f"{1000 * one['median']:.0f}" if one else "" for one in found]
        slow = measured[-1]["rule_groups"][name].get("every", 0) > measured[-1]["interval"]
        rows.append(f"| {name} | {'1m' if slow else ''} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _expensive(largest: dict[str, Any]) -> str:
    where = f"{version_of(largest)}: {largest['ranks']:,} ranks at {largest['interval']} s"
    rows = [f"| most expensive rules, {where} | every | ms |", "|---|---|---|"]
    for rule in largest["rules"][:10]:
        every = rule.get("every", largest["interval"])
        rows.append(f"| `{rule['rule']}` | {every:.0f} s | {1000 * rule['seconds']:.0f} |")
    return "\n".join(rows)


def _panels(measured: list[dict[str, Any]]) -> str:
    rows = [
        "| Prometheus | ranks | every | queries | median | above 1 s | the slowest three |",
        "|---" * 7 + "|",
    ]
    for one in measured:
        times = [panel["seconds"] for panel in one["panels"]]
        above = sum(seconds > PANEL_LIMIT_SECONDS for seconds in times)
        worst = [f"{p['dashboard']}: {p['panel']} {1000 * p['seconds']:.0f} ms" for p in one["panels"][:3]]
        cells = f"{version_of(one)} | {one['ranks']:,} | {one['interval']} s | {len(times)}"
        middle = 1000 * sorted(times)[len(times) // 2]
        rows.append(f"| {cells} | {middle:.0f} ms | {above} | {'; '.join(worst)} |")
    return "\n".join(rows)
