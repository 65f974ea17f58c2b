"""What the runbooks ask for: queries of Prometheus, and commands for a shell."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import promql_parser as promql

from tools.promql import selectors as selected

FOLDER = Path(__file__).resolve().parents[1] / "prometheus/runbooks"
#: How the names of series begin that Prometheus has of us, and of itself.
_OURS = re.compile(r"(training|trainbeacon)_\w+|\w+:(training|trainbeacon)_\w+:\w+|trainbeacon:\w+:\w+")
_OWN = re.compile(r"up|ALERTS|(prometheus|alertmanager|scrape_sample)\w+")
#: What a runbook calls that the message names.
PLACEHOLDERS = ("RUN", "RANK", "INSTANCE", "GPU")
#: How commands begin.
PROGRAMS = re.compile(
    r"(trainbeacon|py-spy|nvidia-smi|dmesg|kubectl|amtool|promtool|curl|df|du|ps|ls|ip|squeue|sacct|quota|lfs|kill"
    r"|ethtool|time|beegfs-ctl)(?= |$)"
)


@dataclass(frozen=True)
class Asked:
    """A query or a command of a runbook."""

    runbook: str
    text: str


def books() -> dict[str, str]:
    """The texts by name of the alert."""
    return {path.stem: path.read_text("utf-8") for path in sorted(FOLDER.glob("*.md"))}


def _code(text: str) -> Iterator[str]:
    """What is set as code: spans, and each line of blocks."""
    for line in text.splitlines():
        if re.match(r" {4,}\S", line):
            yield line.strip()
        else:
            yield from re.findall(r"`([^`]+)`", line)


def selectors(query: str) -> list[Any]:
    """The selectors of series in a query; none where it is not one."""
    try:
        return selected(promql.parse(query))
    except ValueError:
        return []


def is_query(text: str) -> bool:
    """Whether it asks for series: by their names, or for all with a label."""
    found = selectors(text)
    named = any(_OURS.fullmatch(each.name or "") or _OWN.fullmatch(each.name or "") for each in found)
    return named or (bool(found) and "{" in text and " " not in text.partition("{")[0])


@cache
def queries() -> tuple[Asked, ...]:
    """Every query of every runbook."""
    return tuple(
        Asked(name, text)
        for name, book in books().items()
        for text in dict.fromkeys(_code(book))
        if is_query(text)
    )


@cache
def commands() -> tuple[Asked, ...]:
    """Every command of every runbook, those between `;` and `|` each for itself."""
    return tuple(
        Asked(name, part.strip())
        for name, book in books().items()
        for text in dict.fromkeys(_code(book))
        if not is_query(text) and PROGRAMS.match(text) and text != "trainbeacon"  # the name of a thread
        for part in re.split(r"(?:;|\|)(?=(?:[^']*'[^']*')*[^']*$)", text)
    )
