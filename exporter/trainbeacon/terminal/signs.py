"""Signs and texts that a terminal can show: shapes before colours, ASCII where that is all there is."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Signs:
    """The shapes of one kind of terminal."""

    ascii: bool
    severity: dict[str, str]
    state: dict[str, str]
    bars: str
    dots: str
    """What stands for text that was cut off."""
    down: str
    up: str

    def clean(self, text: str) -> str:
        """A text of somebody else's, without what could steer the terminal or cannot be shown."""
        if text.isascii() and text.isprintable():
            return text
        shown = "".join(each if each.isprintable() else "?" for each in text)
        return shown.encode("ascii", "replace").decode() if self.ascii else shown

    def fit(self, text: str, width: int, *, right: bool = False) -> str:
        """The text in exactly so many cells."""
        text = self.clean(text)
        cells = width_of(text)
        if cells <= width:
            return " " * (width - cells) + text if right else text + " " * (width - cells)
        return self.cut(text, width)

    def cut(self, text: str, width: int) -> str:
        """The text in at most so many cells, padded if a wide character had to go."""
        text = self.clean(text)
        if width_of(text) <= width:
            return text
        kept, cells = "", 0
        for character in text:
            cells += _cells(character)
            if cells > width - len(self.dots):
                break
            kept += character
        shown = (kept + self.dots)[:width]
        return shown + " " * (width - width_of(shown))

    def sparkline(self, values: Sequence[float], width: int) -> str:
        """A curve of at most so many cells; each is the mean of its share of the values."""
        known = [value for value in values if math.isfinite(value)]
        if len(known) < 2 or width < 2:
            return ""
        count = min(width, len(known))
        means = [
            _mean(known[place * len(known) // count : (place + 1) * len(known) // count])
            for place in range(count)
        ]
        low, high = min(means), max(means)
        most = len(self.bars) - 1
        return "".join(
            self.bars[round((value - low) / (high - low) * most) if high > low else most // 2]
            for value in means
        )


UNICODE = Signs(
    ascii=False,
    severity={"critical": "✖", "warning": "▲", "info": "●", "none": "○", "ok": "✔"},
    state={"running": "●", "finished": "✔", "failed": "✖", "crashed": "✖", "exited": "○", "unseen": "?"},
    bars="▁▂▃▄▅▆▇█",
    dots="…",
    down="▼",
    up="▲",
)
ASCII = Signs(
    ascii=True,
    severity={"critical": "X", "warning": "!", "info": "i", "none": "-", "ok": "+"},
    state={"running": "*", "finished": "+", "failed": "X", "crashed": "X", "exited": "o", "unseen": "?"},
    bars="_.-=+*#",
    dots="~",
    down="v",
    up="^",
)


def signs_for(encoding: str | None, *, only_ascii: bool) -> Signs:
    """The signs for an output of that encoding."""
    takes_unicode = (encoding or "").lower().replace("-", "").startswith("utf")
    return UNICODE if takes_unicode and not only_ascii else ASCII


def width_of(text: str) -> int:
    """The cells that a text takes up."""
    return len(text) if text.isascii() else sum(_cells(character) for character in text)


def _cells(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
