"""What a dashboard would show of simulated runs: its queries, asked of a past that the shipped rules judged.

As in the campaign's history each fleet is the input of a unit test of promtool, which runs the rule engine
over any time at once; what it says that it got is what a panel would draw.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from grafana.build import generate
from tests.campaign.history import BEGIN, RULES, Columns, group_order, names_read
from trainbeacon.simulate.history import History

Json = dict[str, Any]
SCRAPE_SECONDS, EVALUATION_SECONDS = 15.0, 60.0
#: What Grafana puts in for its own variables and for All.
CHOICE = {"$__rate_interval": "1m", "$__range_s": "1800", "$__range": "30m", "$__interval": "15s"}
_ANSWER = re.compile(
    r'expr: ("(?:[^"\\]|\\.)*"), time: (\w+),\s*exp:.*?got:(.*?)(?=\n\s+expr: |\Z)', re.DOTALL
)
_SERIES = re.compile(r'([\w:]*)(?:\{((?:[^{}"]|"(?:[^"\\]|\\.)*")*)\})? ([-+.\deEInfNa]+)(?=,|"|\s|$)')
_DURATION = re.compile(r"(\d+)([hms])")
_UNITS = {"h": 3600, "m": 60, "s": 1}


@dataclass(frozen=True)
class Drawn:
    """One series that a panel got for one of its queries."""

    panel: str
    legend: str
    labels: dict[str, str]
    value: float
    colors: frozenset[str]


@cache
def models() -> dict[str, Json]:
    """The dashboards by their address."""
    found = (json.loads(text) for text in generate().values())
    return {model["uid"]: model for model in found}


def first_screen(uid: str) -> list[Json]:
    """The panels that are open when the page is."""
    return [panel for panel in models()[uid]["panels"] if panel["type"] != "row"]


def every_panel(uid: str) -> list[Json]:
    """All panels, those of collapsed rows too."""
    inside = [each for row in models()[uid]["panels"] for each in row.get("panels", [])]
    return first_screen(uid) + inside


def asked(expr: str, **chosen: str) -> str:
    """The expression with these variables, all of the others, as Grafana sends it."""
    for name, value in (chosen | CHOICE).items():
        expr = expr.replace(name if name.startswith("$") else f"${name}", value)
    return re.sub(r'"\$[a-z]+(\|?)"', r'".*\1"', expr)


def judge(
    history: History,
    questions: dict[float, list[str]],
    promtool: str,
    file: Path,
    evaluation: float = EVALUATION_SECONDS,
) -> dict[tuple[float, str], list[tuple[dict[str, str], float]]]:
    """What each expression returns at its moment, in seconds from the start of the history."""
    files = sorted(RULES.glob("*/*.yml"))
    wanted = names_read(files) | _names(questions)
    columns, moments = Columns(wanted), 0
    for _, lines in history.moments():
        columns.add(moments, lines)
        moments += 1
    history.fleet.close()
    tests = [
        {"expr": expr, "eval_time": f"{moment:.0f}s"}
        for moment, exprs in questions.items()
        for expr in dict.fromkeys(exprs)
    ]
    head = {
        "rule_files": [str(path) for path in files],
        "evaluation_interval": f"{evaluation:.0f}s",
        "group_eval_order": group_order(files),
    }
    with file.open("w") as out:
        yaml.safe_dump(head, out)
        out.write(f"tests:\n- interval: {SCRAPE_SECONDS:.0f}s\n  input_series:\n")
        for series, values in columns.texts(moments):
            out.write(f"  - series: '{series}'\n    values: '{values}'\n")
        out.write("  promql_expr_test: " + json.dumps(tests) + "\n")
    command = [promtool, "test", "rules", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    output = done.stdout + done.stderr
    assert "SUCCESS" in output or "got:" in output, output[-3000:]
    assert "err:" not in output, output[:3000]
    return dict(_answers(output))


def _answers(output: str) -> Iterator[tuple[tuple[float, str], list[tuple[dict[str, str], float]]]]:
    for quoted, when, got in _ANSWER.findall(output):
        moment = float(sum(int(count) * _UNITS[unit] for count, unit in _DURATION.findall(when)))
        series = [
            (dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels)), float(value))
            for _, labels, value in _SERIES.findall(got)
        ]
        yield (moment, json.loads(quoted)), series


def _names(questions: dict[float, list[str]]) -> set[str]:
    text = " ".join(expr for exprs in questions.values() for expr in exprs)
    return set(re.findall(r"\b(?:training_|trainbeacon_|scrape_)\w+|\bup\b", text))


def drawn(panel: Json, target: Json, series: Sequence[tuple[dict[str, str], float]]) -> Iterator[Drawn]:
    """What the panel makes of the answer to one of its queries."""
    for labels, value in series:
        legend = target["legendFormat"]
        for name in re.findall(r"{{(\w+)}}", legend):
            legend = legend.replace(f"{{{{{name}}}}}", labels.get(name, ""))
        colors = set(_cell_colors(panel, labels))
        if panel["type"] != "timeseries" and (legend or panel["type"] != "table"):
            colors.add(_color(panel, legend, value))
        yield Drawn(panel["title"], legend, labels, value, frozenset(colors))


def _properties(panel: Json, name: str) -> Json:
    return {
        each["id"]: each["value"]
        for override in panel["fieldConfig"]["overrides"]
        if override["matcher"]["options"] == name
        for each in override["properties"]
    }


def _color(panel: Json, legend: str, value: float) -> str:
    own, defaults = _properties(panel, legend), panel["fieldConfig"]["defaults"]
    for mapping in own.get("mappings", defaults.get("mappings", [])):
        if mapping["type"] == "value" and f"{value:g}" in mapping["options"]:
            return str(mapping["options"][f"{value:g}"]["color"])
    if own.get("color", {}).get("mode") == "fixed":
        return str(own["color"]["fixedColor"])
    steps = own.get("thresholds", defaults["thresholds"])["steps"]
    color = ""
    for step in steps:
        if step["value"] is None or value >= step["value"]:
            color = step["color"]
    return str(color)


def _cell_colors(panel: Json, labels: dict[str, str]) -> Iterator[str]:
    if panel["type"] == "table":
        for name, text in labels.items():
            for mapping in _properties(panel, name).get("mappings", []):
                if text in mapping["options"]:
                    yield str(mapping["options"][text]["color"])


def at_begin(seconds: float) -> float:
    """The end of a history of that many seconds, on the clock of the tests."""
    return BEGIN + seconds
