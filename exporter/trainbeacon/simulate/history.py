"""A day at once: the same fleet on a clock of its own, as text that promtool makes blocks of.

What is written is what the collectors give, with the labels that a scrape adds. A text cannot say that a
series has ended, so one that did is seen for five minutes more; and it is in the order of time, which
promtool takes and a strict parser of OpenMetrics does not.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from trainbeacon.exporter.collectors.base import Collector

from .blocks import BlockMaker
from .fleet import CLUSTER, NAMESPACE, Fleet, Size
from .lines import Lines
from .node import Node
from .scenarios import Injection, Plan

JOB = "trainbeacon"
FIRST_PORT = 9900
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class VirtualClock:
    """Unix time that is set by hand."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        """The time in seconds."""
        return self.now


@dataclass(frozen=True)
class Written:
    """What a history came to."""

    samples: int
    seconds: float
    injections: list[Injection]


class _Scraper:
    """One node with its lines, scraped again and again."""

    def __init__(self, node: Node) -> None:
        self._node = node
        instance = f"127.0.0.1:{FIRST_PORT + node.number}"
        labels = {"job": JOB, "instance": instance, "cluster": CLUSTER, "namespace": NAMESPACE}
        self._lines = Lines(",".join(f'{name}="{text}"' for name, text in labels.items()))
        self._collectors: Sequence[Collector] = node.collectors()

    def scrape(self, timestamp: float) -> list[str]:
        """All lines of this moment."""
        lines, begun = self._lines, time.perf_counter()
        lines.begin(timestamp)
        if not self._node.is_down:
            for collector in self._collectors:
                start = time.perf_counter()
                collector.collect(lines)
                lines.add("trainbeacon_collector_success", 1.0, collector.name)
                lines.add(
                    "trainbeacon_collector_duration_seconds", time.perf_counter() - start, collector.name
                )
        found = float(len(lines.lines))
        lines.add_of_scrape("up", float(not self._node.is_down))
        lines.add_of_scrape("scrape_duration_seconds", time.perf_counter() - begun)
        lines.add_of_scrape("scrape_samples_scraped", found)
        return lines.lines


class History:
    """A fleet from `seconds` ago until `end`, scraped every `interval` seconds.

    Boxes lie in memory, and no port is opened.
    """

    def __init__(
        self,
        size: Size,
        plan: Plan,
        *,
        seconds: float,
        end: float,
        interval: float = 30.0,
        seed: int = 0,
        speed: float = 1.0,
    ) -> None:
        self._interval = interval
        self._end = end
        self._clock = VirtualClock(end - seconds)
        self.fleet = Fleet(
            size, seed=seed, speed=speed, clock=self._clock, in_memory=True, spares=plan.spares
        )
        self.injections = plan.arm(self.fleet)
        self._scrapers = [_Scraper(node) for node in self.fleet.nodes]

    def moments(self) -> Iterator[tuple[float, list[str]]]:
        """Each round of scrapes: its time, and the lines of all targets."""
        while self._clock.now <= self._end:
            now, lines = self._clock.now, []
            self.fleet.advance()
            for scraper in self._scrapers:
                lines += scraper.scrape(now)
            yield now, lines
            self._clock.now = now + self._interval

    def write(self, out: TextIO) -> Written:
        """Write all of it as one text."""
        begun, samples = time.perf_counter(), 0
        for _, lines in self.moments():
            samples += len(lines)
            out.writelines(lines)
        out.write("# EOF\n")
        self.fleet.close()
        return Written(samples, time.perf_counter() - begun, self.injections)

    def write_blocks(self, folder: str, promtool: str) -> Written:
        """Make blocks of it in a Prometheus data folder, one run of promtool for each.

        Raises:
            subprocess.CalledProcessError: promtool refused the text.
        """
        begun, samples = time.perf_counter(), 0
        with tempfile.TemporaryDirectory(prefix="trainbeacon-history-") as scratch:
            made = BlockMaker(Path(scratch), folder, promtool)
            for now, lines in self.moments():
                samples += len(lines)
                made.add(now, lines)
            made.finish()
        self.fleet.close()
        return Written(samples, time.perf_counter() - begun, self.injections)


def seconds_of(text: str) -> float:
    """The seconds in a text like 24h, 90m or 2d. Raises ValueError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if found is None or not float(found[1]) > 0:
        raise ValueError(f"{text!r} is no time like 24h, 90m or 2d")
    return float(found[1]) * _UNITS[found[2]]
