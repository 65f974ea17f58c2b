"""From a folder of event files to history: as text for promtool, or as blocks of Prometheus' data folder."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TextIO

from trainbeacon import catalogue
from trainbeacon.simulate.blocks import BlockMaker

from .events import EventFile, Number, Reading, find, numbers
from .series import Naming
from .store import Store

#: Seconds between two samples of an info series at least: an instant query looks back for five minutes.
_INFO_SECONDS = 240.0
#: A clock may run ahead by that many seconds; what is later still has no place in a history.
_AHEAD = 86_400.0
_NOT_FINITE = {"nan": "NaN", "inf": "+Inf", "-inf": "-Inf"}
_REPORT_NUMBERS = 100_000


@dataclass
class Outcome:
    """What a replay came to.

    Attributes:
        files: event files that were read.
        runs: names of the runs in them.
        numbers: scalars in them.
        samples: samples written.
        oldest: Unix time of the first one, NaN without any.
        newest: of the last one.
        complaints: one sentence for each file or run of which something is missing.
    """

    files: int = 0
    runs: set[str] = field(default_factory=set)
    numbers: int = 0
    samples: int = 0
    oldest: float = math.nan
    newest: float = math.nan
    complaints: list[str] = field(default_factory=list)


class Replay:
    """Reads a folder once; then writes what was found. Use it as a context manager.

    Args:
        folder: with event files in it or below it.
        run: the name of the run, where all files are of one.
        labels: added to each series, as a scrape would add them.
        scratch: where the temporary file is made: about 40 bytes a sample.
        progress: called now and then with a line about how far the reading is.
        clock: Unix time.
    """

    def __init__(
        self,
        folder: str,
        *,
        run: str | None = None,
        labels: Mapping[str, str] | None = None,
        scratch: str | None = None,
        progress: Callable[[str], None] = lambda line: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        whole = os.path.basename(os.path.abspath(folder)) or "replay"
        self._naming = Naming(whole, run, labels or {})
        self._progress = progress
        self._clock = clock
        self._scratch = tempfile.TemporaryDirectory(prefix="trainbeacon-replay-", dir=scratch)
        self._store = Store(os.path.join(self._scratch.name, "samples"))
        self._info_at: dict[str, float] = {}
        self.outcome = Outcome()

    def __enter__(self) -> Replay:
        return self

    def __exit__(self, *_: object) -> None:
        self._store.close()
        self._scratch.cleanup()

    def read(self) -> None:
        """Read all event files.

        Raises:
            FileNotFoundError: no such folder, or no event file in it.
            MissingPackageError: the extra is not installed.
            sqlite3.Error: the disk of the temporary file is full.
        """
        files = find(self._folder)
        if not files:
            raise FileNotFoundError(f"no event files (*tfevents*) in {self._folder} or below it")
        for place, file in enumerate(files, 1):
            self._progress(f"{place} of {len(files)} files, {self.outcome.numbers:,} numbers: {file.path}")
            self._read(file)
        for run, tags in self._naming.left_out.items():
            self._complain(
                f"run {run}: {len(tags)} tags beyond the names that a run has room for were left out: "
                f"{', '.join(sorted(tags)[:3])}{', ...' if len(tags) > 3 else ''}"
            )

    def write_text(self, out: TextIO) -> None:
        """Write all samples as OpenMetrics."""
        metric = ""
        for (name, labels), at, value in self._store.by_series():
            if name != metric:
                metric = name
                out.write(f"# TYPE {name.removesuffix('_info')} {catalogue.BY_NAME[name].type}\n")
            out.write(_line(name, labels, at, value))
            self.outcome.samples += 1
        out.write("# EOF\n")

    def write_blocks(self, folder: str, promtool: str) -> None:
        """Make blocks in a Prometheus data folder.

        Raises:
            subprocess.CalledProcessError: promtool refused it.
        """
        made = BlockMaker(Path(self._scratch.name), folder, promtool)
        for at, samples in groupby(self._store.by_time(), lambda sample: sample[1]):
            lines = [_line(name, labels, at, value) for (name, labels), _, value in samples]
            self.outcome.samples += len(lines)
            made.add(at / 1000, lines)
        made.finish()

    def _read(self, file: EventFile) -> None:
        reading, impossible = Reading(), 0
        run = self._naming.run_of(file.run)[0]
        latest = self._clock() + _AHEAD
        try:
            for number in numbers(file, reading):
                if 0.0 < number.time < latest:
                    self._take(file.run, run, number)
                else:
                    impossible += 1
        except OSError as error:
            self._complain(f"{file.path}: {error.strerror or error}")
            return
        self.outcome.files += 1
        if reading.cut_at is not None:
            self._complain(
                f"{file.path}: read up to byte {reading.cut_at} of {file.size}; "
                "what follows is damaged or cut off"
            )
        if reading.damaged:
            self._complain(f"{file.path}: {reading.damaged} damaged events were left out")
        if impossible:
            self._complain(f"{file.path}: {impossible} numbers of 1970 or of the future were left out")

    def _take(self, folder: str, run: str, number: Number) -> None:
        outcome, milliseconds = self.outcome, round(number.time * 1000)
        if not outcome.numbers % _REPORT_NUMBERS and outcome.numbers:
            self._progress(f"{outcome.numbers:,} numbers")
        outcome.numbers += 1
        taken = False
        for place, series in enumerate(self._naming.series(folder, number.tag, number.value)):
            self._store.add(series, milliseconds, float(number.step) if place else number.value)
            taken = True
        if not taken:
            return
        outcome.runs.add(run)
        if not outcome.oldest <= number.time:
            outcome.oldest = number.time
        if not outcome.newest >= number.time:
            outcome.newest = number.time
        if not 0.0 <= number.time - self._info_at.get(run, -math.inf) < _INFO_SECONDS:
            self._info_at[run] = number.time
            self._store.add(self._naming.info(folder), milliseconds, 1.0)

    def _complain(self, sentence: str) -> None:
        self.outcome.complaints.append(sentence)


def _line(name: str, labels: str, at: int, value: float) -> str:
    text = repr(value) if math.isfinite(value) else _NOT_FINITE[str(value)]
    return f"{name}{labels} {text} {at / 1000:.3f}\n"
