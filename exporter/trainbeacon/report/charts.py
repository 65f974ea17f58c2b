"""Curves as SVG without a script: they print, and are read offline."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from html import escape

from trainbeacon.report.record import Mark, Point

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 720, 170, 64, 10, 22
#: Kind of mark: its dashes, so that colour is not needed.
_DASHES = {"restart": "6 3", "checkpoint": "1 4", "alert": ""}


def chart(
    name: str, lines: Sequence[tuple[str, Sequence[Point]]], marks: Sequence[Mark], *, by_step: bool = False
) -> str:
    """One curve, or two of one scale, with what happened drawn in."""
    placed = [
        (label, [(_x(each, by_step), each.value) for each in points if _x(each, by_step) is not None])
        for label, points in lines
    ]
    xs = [x for _, points in placed for x, _ in points if x is not None]
    ys = [y for _, points in placed for _, y in points if math.isfinite(y)]
    if len(xs) < 2 or not ys:
        return ""
    low, high = min(ys), max(ys)
    first, last = min(xs), max(xs)
    spread = (high - low) or abs(high) or 1.0

    def place(x: float, y: float) -> str:
        across = _LEFT + (x - first) / ((last - first) or 1.0) * (_WIDTH - _LEFT - 8)
        down = _TOP + (high - y) / spread * (_HEIGHT - _TOP - _BOTTOM)
        return f"{across:.1f},{down:.1f}"

    parts = [
        f"<figure><figcaption>{escape(name)}</figcaption>",
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(name)}">',
    ]
    for y in (high, (low + high) / 2, low):
        down = place(first, y).partition(",")[2]
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - 8}" y1="{down}" y2="{down}"/>')
        parts.append(f'<text x="{_LEFT - 5}" y="{float(down) + 4:.1f}" text-anchor="end">{_number(y)}</text>')
    if not by_step:
        for mark in marks:
            if first <= mark.at <= last:
                across = place(mark.at, high).partition(",")[0]
                dashes = f' stroke-dasharray="{_DASHES[mark.kind]}"' if _DASHES.get(mark.kind) else ""
                upright = f'x1="{across}" x2="{across}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"'
                title = f"<title>{escape(mark.text)} {clock(mark.at)}</title>"
                parts.append(f'<line class="{mark.kind}" {upright}{dashes}>{title}</line>')
    for number, (label, points) in enumerate(placed):
        drawn = " ".join(place(x, y) for x, y in points if x is not None and math.isfinite(y))
        parts.append(
            f'<polyline class="line{number}" points="{drawn}"><title>{escape(label)}</title></polyline>'
        )
    left, right = (f"step {x:.0f}" if by_step else clock(x) for x in (first, last))
    parts.append(f'<text x="{_LEFT}" y="{_HEIGHT - 6}">{left}</text>')
    parts.append(f'<text x="{_WIDTH - 8}" y="{_HEIGHT - 6}" text-anchor="end">{right}</text>')
    parts.append("</svg></figure>")
    return "".join(parts)


def _x(point: Point, by_step: bool) -> float | None:
    return point.step if by_step else point.at


def _number(value: float) -> str:
    return f"{value:.4g}"


def clock(at: float | None) -> str:
    """A Unix time as people read it, empty for None."""
    return "" if at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at))
