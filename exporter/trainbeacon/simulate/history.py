"""A day at once: the same fleet on a clock of its own, as text that promtool makes blocks of.

What is written is what the collectors give, with the labels that a scrape adds. A text cannot say that a
series has ended, so one that did is seen for five minutes more; and it is in the order of time, which
promtool takes and a strict parser of OpenMetrics does not.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from trainbeacon import catalogue
from trainbeacon.collectors.base import Collector, Families

from .fleet import CLUSTER, NAMESPACE, Fleet, Size
from .node import Node
from .scenarios import Injection, Plan

JOB = "trainbeacon"
FIRST_PORT = 9900
#: Prometheus cuts its blocks at whole multiples of this.
BLOCK_SECONDS = 7200
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class VirtualClock:
    """Unix time that passes when it is told to."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        """The time in seconds."""
        return self.now


class Lines(Families):
    """Takes the samples of collectors as lines of text, at a fraction of the cost of families."""

    def __init__(self, target: str) -> None:
        super().__init__()
        self._target = target
        self._prefixes: dict[tuple[str, tuple[str, ...]], str] = {}
        self._stamp = ""
        self.lines: list[str] = []

    def begin(self, timestamp: float) -> None:
        """What comes now is of this time."""
        self.lines = []
        self._stamp = f" {timestamp:.3f}\n"

    def add(self, name: str, value: float, *labels: str) -> None:
        """Take one sample of a counter or a gauge."""
        prefix = self._prefixes.get((name, labels))
        if prefix is None:
            names = catalogue.BY_NAME[name].label_names
            prefix = self._prefixes[name, labels] = self._new_prefix(name, names, labels)
        self.lines.append(f"{prefix}{float(value)!r}{self._stamp}")

    def add_info(self, name: str, *labels: str) -> None:
        """Take one series of an info metric."""
        self.add(name, 1.0, *labels)

    def add_histogram(self, name: str, counts: Sequence[float], total: float, *labels: str) -> None:
        """Take a histogram from its uncumulated bucket counts."""
        cumulated = 0.0
        for bound, count in zip((*catalogue.BY_NAME[name].buckets, float("inf")), counts, strict=True):
            cumulated += count
            self._add_part(
                f"{name}_bucket", cumulated, labels, "+Inf" if bound == float("inf") else str(bound)
            )
        self._add_part(f"{name}_sum", total, labels)
        self._add_part(f"{name}_count", cumulated, labels)

    def add_of_scrape(self, name: str, value: float) -> None:
        """Take one of the samples that Prometheus itself makes of every scrape."""
        self.lines.append(f"{name}{{{self._target}}} {value!r}{self._stamp}")

    def _add_part(self, name: str, value: float, labels: tuple[str, ...], bound: str = "") -> None:
        key = (name, (*labels, bound))
        prefix = self._prefixes.get(key)
        if prefix is None:
            names = ("run", "rank", "le") if bound else ("run", "rank")
            values = (*labels, bound) if bound else labels
            prefix = self._prefixes[key] = self._new_prefix(name, names, values)
        self.lines.append(f"{prefix}{value!r}{self._stamp}")

    def _new_prefix(self, name: str, names: Sequence[str], values: Sequence[str]) -> str:
        pairs = zip(names, values, strict=True)
        own = "".join(f'{label}="{text}",' for label, text in pairs if text)
        return f"{name}{{{own}{self._target}}} "


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

    Scenarios are spread over the time, unless the plan says when; a node's exporter is its black box's
    only reader here, so nothing is opened and no file is made.
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
            made = _Blocks(Path(scratch), folder, promtool)
            for now, lines in self.moments():
                samples += len(lines)
                made.add(int(now // BLOCK_SECONDS), lines)
            made.finish()
        self.fleet.close()
        return Written(samples, time.perf_counter() - begun, self.injections)


class _Blocks:
    """Hands the text of each block to promtool, which works while the next one is written."""

    def __init__(self, scratch: Path, folder: str, promtool: str) -> None:
        self._scratch, self._folder, self._promtool = scratch, folder, promtool
        self._number = -1
        self._file: TextIO | None = None
        self._running: tuple[subprocess.Popen[str], Path] | None = None

    def add(self, block: int, lines: list[str]) -> None:
        if block != self._number:
            self._close()
            self._number = block
            self._file = (self._scratch / f"{block}.om").open("w")
        assert self._file is not None
        self._file.writelines(lines)

    def finish(self) -> None:
        self._close()
        self._wait()

    def _close(self) -> None:
        if self._file is None:
            return
        self._file.write("# EOF\n")
        self._file.close()
        path = Path(self._file.name)
        self._wait()
        line = [
            self._promtool,
            "tsdb",
            "create-blocks-from",
            "openmetrics",
            "--quiet",
            str(path),
            self._folder,
        ]
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        self._running = (subprocess.Popen(line, text=True, **pipes), path)
        self._file = None

    def _wait(self) -> None:
        if self._running is None:
            return
        process, path = self._running
        _, errors = process.communicate()
        path.unlink()
        self._running = None
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, process.args, stderr=errors)


def seconds_of(text: str) -> float:
    """The seconds in a text like 24h, 90m or 2d. Raises ValueError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if found is None or not float(found[1]) > 0:
        raise ValueError(f"{text!r} is no time like 24h, 90m or 2d")
    return float(found[1]) * _UNITS[found[2]]
