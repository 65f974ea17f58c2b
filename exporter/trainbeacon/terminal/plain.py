"""One look as plain text or as JSON: no library, no colours, for pipes, logs and `watch`."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from trainbeacon.terminal import view
from trainbeacon.terminal.signs import Signs
from trainbeacon.terminal.watch import Sight
from trainbeacon.verdict.facts import Run
from trainbeacon.verdict.judge import Finding

_MOST_RUNS = 20
_MOST_FINDINGS = 6
_MOST_GPUS = 16
_SPARKLINE = 24


def text_of(sight: Sight, signs: Signs, width: int, rows: int) -> str:
    """The look in lines of at most `width` cells, with at most so many rows of ranks."""
    return "\n".join(line.rstrip() for line in _lines(sight, signs, width, rows)) + "\n"


def _lines(sight: Sight, signs: Signs, width: int, rows: int) -> Iterator[str]:
    first = view.verdict(sight)
    yield from finding_lines(first, signs, width)
    others = [each for each in sight.findings if each is not first]
    for each in others[:_MOST_FINDINGS]:
        yield signs.cut(f"  {finding_line(each, signs)}", width)
    if len(others) > _MOST_FINDINGS:
        yield f"  and {len(others) - _MOST_FINDINGS} more"
    yield ""
    runs = view.runs_by_trouble(sight)
    for run in runs[:_MOST_RUNS]:
        yield from head_lines(run, sight.facts.now, signs, width)
    if len(runs) > _MOST_RUNS:
        yield f"and {len(runs) - _MOST_RUNS} more runs"
    yield from _rank_lines(sight, signs, width, rows)
    yield from _gpu_lines(sight, signs, width)
    yield ""
    yield signs.cut(view.age_line(sight, sight.facts.now, signs), width)


def finding_line(each: Finding, signs: Signs) -> str:
    """A finding on one line: shape, word, sentence."""
    sign = signs.severity.get(each.severity, "?")
    word = "" if each.severity in (view.OK, "none") else f" {each.severity.upper()}"
    return signs.clean(f"{sign}{word} {each.sentence}")


def finding_lines(each: Finding, signs: Signs, width: int) -> list[str]:
    """A finding as it leads a page: whole, with what to do first."""
    lines = textwrap.wrap(finding_line(each, signs), width, subsequent_indent="  ")
    if each.action:
        lines += textwrap.wrap(
            signs.clean(f"first: {each.action}"), width, initial_indent="  ", subsequent_indent="  "
        )
    return lines


def head_lines(run: Run, now: float, signs: Signs, width: int) -> list[str]:
    """The head of a run: its name and state, then its figures with the curve of the loss."""
    figures = [(name, text) for name, text in view.head_of(run, now) if text]
    first = f"{signs.state.get(view.state_of(run), '?')} {run.name}  {figures[0][1]}"
    parts = []
    for name, text in figures[1:]:
        part = f"{name} {text}".strip()
        if name == "loss" and (curve := signs.sparkline(run.losses, _SPARKLINE)):
            part += f" {curve}"
        parts.append(part)
    lines = [signs.cut(first, width)]
    line = " "
    for part in parts:
        if len(line) + len(part) + 2 > width and line.strip():
            lines.append(line)
            line = " "
        line += f" {part} "
    return [*lines, signs.cut(line, width)] if line.strip() else lines


def _rank_lines(sight: Sight, signs: Signs, width: int, rows: int) -> Iterator[str]:
    found = view.members(sight)
    now = sight.facts.now
    shown = view.worst_first(found, now, rows)
    if not shown:
        return
    chosen = view.fitting(view.columns(many_runs=len(sight.facts.runs) > 1), width)
    yield ""
    yield "  " + " ".join(signs.fit(column.title, column.width, right=column.right) for column in chosen)
    for member in shown:
        cells = (signs.fit(column.text(member, now), column.width, right=column.right) for column in chosen)
        yield f"{signs.state.get(member.rank.state, '?')} {' '.join(cells)}"
    if len(found) > len(shown):
        yield f"  and {len(found) - len(shown)} more ranks; the worst are shown"


def _gpu_lines(sight: Sight, signs: Signs, width: int) -> Iterator[str]:
    shown = view.gpus_worst_first(sight.facts, _MOST_GPUS)
    if not shown:
        return
    yield ""
    for number, gpu in enumerate(shown):
        cells = view.gpu_cells(gpu)
        if number == 0:
            yield signs.cut(
                "  " + " ".join(signs.fit(title, size, right=title != "NOTE") for title, size, _ in cells),
                width,
            )
        sign = signs.state["running" if gpu.up else "crashed"]
        texts = " ".join(signs.fit(text, size, right=title != "NOTE") for title, size, text in cells)
        yield signs.cut(f"{sign} {texts}".rstrip(), width)
    if len(sight.facts.gpus) > len(shown):
        yield f"  and {len(sight.facts.gpus) - len(shown)} more GPUs; the worst are shown"


def document(sight: Sight, rows: int) -> dict[str, Any]:
    """The look as JSON: null for what is not known and for what is no number."""
    now = sight.facts.now
    ranks = view.worst_first(view.members(sight), now, rows)
    shown: dict[str, Any] = _finite(
        {
            "time": now,
            "verdict": _finding(view.verdict(sight)),
            "findings": [_finding(each) for each in sight.findings],
            "runs": [
                {
                    "run": run.name,
                    "cluster": run.key[0],
                    "namespace": run.key[1],
                    "state": view.state_of(run),
                    "ranks": len(run.ranks),
                    "world_size": run.world_size,
                    "loss": view.loss_of(run),
                    "steps_planned": run.steps_planned,
                    "goodput": run.goodput,
                    "owner": run.owner,
                }
                for run in view.runs_by_trouble(sight)
            ],
            "ranks": [{"run": each.run.name, **asdict(each.rank)} for each in ranks],
            "gpus": [asdict(gpu) for gpu in sight.facts.gpus],
            "nodes": [asdict(node) for node in sight.facts.nodes],
            "sources": [asdict(source) for source in sight.facts.sources],
        }
    )
    return shown


def _finding(each: Finding) -> dict[str, Any]:
    return {**asdict(each), "sentence": each.sentence}


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): _finite(each) for name, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(each) for each in value]
    return value
