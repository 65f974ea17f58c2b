"""The queries of the dashboards, asked as Grafana asks them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trainbeacon.simulate.history import seconds_of

#: What a panel of a usual screen shows at most, in points.
POINTS = 1000
#: The stretch that is asked for: what the fleet was scraped for is not longer.
RANGE_SECONDS = 1800


@dataclass(frozen=True)
class Query:
    """One query of one panel. Panels of one number ask for one moment only; `step` is a line's least."""

    dashboard: str
    panel: str
    expr: str
    instant: bool
    step: int = 0
    points: int = POINTS

    def request(
        self, run: str, now: float, interval: int, seconds: int = RANGE_SECONDS
    ) -> tuple[str, dict[str, str]]:
        """Path and parameters, for the last `seconds`, with one run chosen and all else at "All"."""
        step = max(interval, self.step, seconds // self.points)
        chosen = {
            "run": run,
            "__rate_interval": f"{max(4 * interval, step + interval)}s",
            "__interval": f"{step}s",
            "__interval_ms": f"{1000 * step}",
            "__range": f"{seconds}s",
            "__range_s": f"{seconds}",
            "price": "2",
        }
        expr = re.sub(r"\$\{?(\w+)(?::\w+)?\}?", lambda found: chosen.get(found[1], ".*"), self.expr)
        if self.instant:
            return "/api/v1/query", {"query": expr, "time": f"{now:.3f}"}
        begin = {"start": f"{now - seconds:.3f}", "end": f"{now:.3f}", "step": str(step)}
        return "/api/v1/query_range", {"query": expr, **begin}


def queries(folder: Path, *, collapsed: bool = False) -> Iterator[Query]:
    """Every query of the dashboards in a folder; of rows that are `collapsed` at first too, if asked for."""
    for path in sorted(folder.glob("*.json")):
        shown = json.loads(path.read_text())["panels"]
        hidden = [panel for row in shown for panel in row.get("panels", ())] if collapsed else []
        for panel in (*shown, *hidden):
            for target in panel.get("targets", ()):
                step = seconds_of(target["interval"]) if "interval" in target else 0.0
                yield Query(
                    path.stem,
                    panel["title"],
                    target["expr"],
                    bool(target.get("instant")),
                    int(step),
                    panel.get("maxDataPoints", POINTS),
                )
