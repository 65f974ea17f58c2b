"""What one refresh of `trainbeacon top` costs: processor time of its own process, by the size of the fleet.

    python -m benchmarks.top_refresh [--ranks 4096] [--nodes 512] [--refreshes 20] [OUT.json]

A simulated fleet serves on loopback from another process. The screen is the real one, of 80 x 24 cells,
without a terminal behind it: each refresh reads the exporters that are due, judges, and draws. Counted is
the processor time of all threads of this process from one look to the next, after the first three, which
learn the names of the series; what the fleet takes on the same processors is not in it, but slows it down.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from textual import on

from benchmarks.measure import load
from trainbeacon.terminal.choose import discovered
from trainbeacon.terminal.screen.app import Seen, TopApp
from trainbeacon.terminal.signs import UNICODE
from trainbeacon.terminal.sources.exporters import ExporterSource
from trainbeacon.terminal.watch import Watch

_LEARNING = 3


class Measured(TopApp):
    """The screen, with the processor time at each look that is to be drawn."""

    def __init__(self, watch: Watch, refreshes: int) -> None:
        super().__init__(watch, UNICODE)
        self._wanted = refreshes + _LEARNING + 1
        self.marks: list[float] = []
        self.walls: list[float] = []

    @on(Seen)
    def mark(self) -> None:
        self.marks.append(time.process_time())
        self.walls.append(time.monotonic())
        if len(self.marks) >= self._wanted:
            self.exit(0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=4096)
    parser.add_argument("--nodes", type=int, default=512)
    parser.add_argument("--refreshes", type=int, default=20)
    parser.add_argument("--interval", type=float, default=2.0)
    parser.add_argument("out", nargs="?", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, "-m", "trainbeacon", "simulate", f"--ranks={arguments.ranks}"]
        line += [f"--nodes={arguments.nodes}", "--runs=4", f"--sd-dir={folder}", "--duration=1800"]
        fleet = subprocess.Popen(line, stdout=subprocess.DEVNULL)
        try:
            while not (addresses := discovered(folder)):
                time.sleep(0.5)
            result = measure([ExporterSource(each) for each in addresses], arguments)
        finally:
            fleet.terminate()
            fleet.wait()
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n")
    return 0


def measure(sources: list[ExporterSource], arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of processor a refresh, and between two."""
    begun = load()
    watch = Watch(sources, arguments.interval)
    watch.look(600.0)  # every exporter once: from here on only those that are due
    app = Measured(watch, arguments.refreshes)
    asyncio.run(app.run_async(headless=True, size=(80, 24)))
    watch.close()
    spent = [later - earlier for earlier, later in zip(app.marks, app.marks[1:], strict=False)][_LEARNING:]
    walls = [later - earlier for earlier, later in zip(app.walls, app.walls[1:], strict=False)][_LEARNING:]
    return {
        "ranks": arguments.ranks,
        "nodes": arguments.nodes,
        "ranks_seen": sum(len(run.ranks) for run in watch.sight.facts.runs),
        "load_average": [begun, load()],
        "processor_seconds_a_refresh": {
            "median": round(statistics.median(spent), 4),
            "worst": round(max(spent), 4),
            "all": [round(each, 4) for each in spent],
        },
        "seconds_between_refreshes": round(statistics.median(walls), 2),
    }


if __name__ == "__main__":
    sys.exit(main())
