"""The words of each condition: those of the alert of its name, read from the shipped rules.

So what `top` says of a lost rank is what the message on the phone says, and both are changed in one place.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass

from trainbeacon.stack.bundle import bundle_dir

#: The worst first.
SEVERITIES = ("critical", "warning", "info", "none")

# The rule files hold one key a line, and these values whole on theirs: no YAML parser, which would take
# half a second, need look at them. A test compares with one.
_LINE = re.compile(r"^ +(?:- )?(alert|severity|reason|summary|action): *(.*?) *(?:#.*)?$", re.MULTILINE)


@dataclass(frozen=True)
class Words:
    """What an alert rule says, whatever fires it."""

    alert: str
    severity: str
    summary: str
    action: str
    reason: str = ""


@functools.cache
def rules() -> tuple[Words, ...]:
    """The words of every shipped alert rule, in the order of the files.

    Blocks for some milliseconds the first time. Raises FileNotFoundError where the rules are not shipped.
    """
    found: list[dict[str, str]] = []
    for path in sorted((bundle_dir() / "prometheus" / "rules" / "alerts").glob("*.yml")):
        for key, text in _LINE.findall(path.read_text("utf-8")):
            if key == "alert":
                found.append({"alert": text})
            elif found:
                found[-1].setdefault(key, text)
    return tuple(Words(**words) for words in found)


@functools.cache
def _by_alert() -> Mapping[tuple[str, str], Words]:
    first: dict[tuple[str, str], Words] = {}
    for words in rules():
        first.setdefault((words.alert, ""), words)
        first.setdefault((words.alert, words.reason), words)
    return first


def words_of(alert: str, reason: str = "") -> Words:
    """The words of an alert; `reason` tells rules of one alert apart. Raises KeyError."""
    return _by_alert()[alert, reason]


def severity_order(severity: str) -> int:
    """Where a severity stands; unknown ones stand last."""
    return SEVERITIES.index(severity) if severity in SEVERITIES else len(SEVERITIES)
