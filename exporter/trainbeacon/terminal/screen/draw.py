"""Lines of the screen as styled text. Styles are of the sixteen colours that the terminal itself defines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from trainbeacon.terminal import plain, view
from trainbeacon.terminal.signs import Signs
from trainbeacon.terminal.watch import Sight

#: Never the only sign: each goes with a word and a shape.
SEVERITY = {"critical": "bold red", "warning": "bold yellow", "info": "bold blue", "ok": "bold green"}
STATE = {
    "running": "green",
    "finished": "blue",
    "failed": "bold red",
    "crashed": "bold red",
    "unseen": "yellow",
}


@dataclass(frozen=True)
class Choice:
    """What the keys have chosen.

    Attributes:
        sort: title of the column that the ranks are sorted by; empty for the worst first.
        run: the only run that is shown; empty for all.
        words: the filter.
        selected: row of the ranks.
    """

    sort: str = ""
    reverse: bool = False
    run: str = ""
    words: str = ""
    selected: int = 0


def verdict_lines(sight: Sight, signs: Signs, width: int, most: int) -> list[Text]:
    """The verdict with what to do first, and as many of the other findings as there is room for."""
    first = view.verdict(sight)
    lines = [
        Text(line, style="" if line.startswith("  first:") else SEVERITY.get(first.severity, "bold"))
        for line in plain.finding_lines(first, signs, width)
    ]
    if len(lines) > most:
        lines = (
            [*lines[: most - 1], Text(signs.cut(f"  first: {first.action}", width))]
            if most > 1
            else lines[:1]
        )
    for each in sight.findings:
        if each is not first and len(lines) < most:
            text = signs.cut(f"  {plain.finding_line(each, signs)}", width)
            lines.append(Text(text, style=SEVERITY.get(each.severity, "").replace("bold ", "")))
    return lines


def head_lines(sight: Sight, signs: Signs, width: int, most: int, only: str) -> list[Text]:
    """The heads of the runs, those in trouble first, as many as fit whole."""
    lines: list[Text] = []
    runs = [run for run in view.runs_by_trouble(sight) if not only or run.name == only]
    for number, run in enumerate(runs):
        head = plain.head_lines(run, sight.facts.now, signs, width)
        if lines and len(lines) + len(head) > most - (number + 1 < len(runs)):
            lines.append(Text(f"  and {len(runs) - number} more runs (n: next run)"))
            break
        style = STATE.get(view.state_of(run), "")
        lines.append(Text(head[0], style=f"bold {style.replace('bold ', '')}"))
        lines += [Text(line) for line in head[1:]]
    return lines


def rank_lines(
    sight: Sight, signs: Signs, width: int, rows: int, choice: Choice
) -> tuple[list[Text], list[view.Member]]:
    """Title and rows of the ranks, and the ranks that are shown."""
    now = sight.facts.now
    found = view.members(sight, run=choice.run, words=choice.words)
    many = len({each.run.key for each in found}) > 1
    columns = view.fitting(view.columns(many_runs=many), width)
    sorted_by = next((column for column in view.columns(many_runs=many) if column.title == choice.sort), None)
    if sorted_by is None:
        shown = view.worst_first(found, now, rows)
    else:
        shown = view.sort_by(found, sorted_by, now, rows, reverse=choice.reverse)
    arrow = signs.down if choice.reverse else signs.up
    titles = (
        signs.fit(
            column.title + (arrow if column is sorted_by or column.title == choice.sort else ""),
            column.width,
            right=column.right,
        )
        for column in columns
    )
    lines = [Text("  " + " ".join(titles), style="bold underline")]
    for number, member in enumerate(shown):
        cells = " ".join(
            signs.fit(column.text(member, now), column.width, right=column.right) for column in columns
        )
        style = SEVERITY.get(member.severity, "").replace("bold ", "") or (
            "" if member.rank.running else STATE.get(member.rank.state, "")
        )
        line = Text(signs.cut(f"{signs.state.get(member.rank.state, '?')} {cells}", width), style=style)
        if number == choice.selected:
            line.stylize("reverse")
        lines.append(line)
    if not found:
        lines.append(Text("  no rank fits the filter" if choice.words else "  no rank in sight"))
    elif len(found) > len(shown):
        lines.append(Text(f"  and {len(found) - len(shown)} more ranks"))
    return lines, shown


def gpu_lines(sight: Sight, signs: Signs, width: int, most: int) -> list[Text]:
    """GPUs, the worst first."""
    if most < 2 or not sight.facts.gpus:
        return []
    shown = view.gpus_worst_first(sight.facts, most - 1)
    lines = []
    for number, gpu in enumerate(shown):
        cells = view.gpu_cells(gpu)
        if number == 0:
            titles = " ".join(signs.fit(title, size, right=title != "NOTE") for title, size, _ in cells)
            lines.append(Text(signs.cut(f"  {titles}".rstrip(), width), style="bold underline"))
        texts = " ".join(signs.fit(text, size, right=title != "NOTE") for title, size, text in cells)
        sign = signs.state["running" if gpu.up else "crashed"]
        lines.append(
            Text(signs.cut(f"{sign} {texts}".rstrip(), width), style="" if gpu.up else STATE["crashed"])
        )
    return lines


def status_line(sight: Sight, signs: Signs, width: int, now: float, notes: Sequence[str]) -> Text:
    """Age of the data, silent sources, and what the keys have changed."""
    parts = [*notes, view.age_line(sight, now, signs)]
    return Text(signs.cut("  ".join(parts), width), style="bold" if notes else "")


def rank_page(sight: Sight, member: view.Member, signs: Signs, width: int) -> list[str]:
    """All that is known of one rank, and what is said about it."""
    rank, now = member.rank, sight.facts.now
    about = [
        each for each in sight.findings if each.run == member.run.name and each.rank in (None, rank.number)
    ]
    lines = [f"run {member.run.name}, rank {rank.number}: {rank.state}", ""]
    for each in about:
        lines += [*plain.finding_lines(each, signs, width), ""]
    for column in view.columns(many_runs=False):
        text = column.text(member, now)
        if text:
            lines.append(f"{column.title:<10} {text}")
    lines += [
        f"{'own ' + cause:<20} {seconds * 1000:.1f} ms a step" for cause, seconds in rank.causes.items()
    ]
    if rank.failure:
        lines.append(f"{'ended by':<10} {rank.failure} {rank.failure_kind}")
    return [signs.cut(line, width) for line in lines]
