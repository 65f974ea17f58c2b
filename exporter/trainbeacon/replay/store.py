"""All numbers of a replay, sorted on disk, so that memory does not grow with them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from .series import Series

_CACHE_KIB = 16384
_BATCH = 1_000

Sample = tuple[Series, int, float]  # the series, milliseconds of Unix time, the value


class Store:
    """One value a series and millisecond: of several the one that was added last.

    Args:
        path: a file that does not exist; whoever made its folder removes it.
    """

    def __init__(self, path: str) -> None:
        self._ids: dict[Series, int] = {}
        self._pending: list[tuple[int, int, float]] = []
        self.added = 0
        self._base = sqlite3.connect(path, isolation_level=None)
        for line in (
            "PRAGMA journal_mode = OFF",  # the file is of no use after a crash
            "PRAGMA synchronous = OFF",
            f"PRAGMA cache_size = -{_CACHE_KIB}",
            "PRAGMA temp_store = FILE",
            "CREATE TABLE sample (series INTEGER, at INTEGER, value REAL, PRIMARY KEY (series, at))"
            " WITHOUT ROWID",
            "BEGIN",
        ):
            self._base.execute(line)

    def add(self, series: Series, milliseconds: int, value: float) -> None:
        """Take one sample. Raises sqlite3.Error where the disk is full."""
        number = self._ids.setdefault(series, len(self._ids))
        self._pending.append((number, milliseconds, value))
        self.added += 1
        if len(self._pending) == _BATCH:
            self._write()

    def by_series(self) -> Iterator[Sample]:
        """All samples, the series of a metric together, each in the order of time."""
        self._write()
        for series in sorted(self._ids):
            line = "SELECT at, value FROM sample WHERE series = ? ORDER BY at"
            for at, value in self._base.execute(line, (self._ids[series],)):
                yield series, at, _number(value)

    def by_time(self) -> Iterator[Sample]:
        """All samples in the order of time."""
        self._write()
        series = {number: each for each, number in self._ids.items()}
        for number, at, value in self._base.execute("SELECT series, at, value FROM sample ORDER BY at"):
            yield series[number], at, _number(value)

    def close(self) -> None:
        """Let go of the file."""
        self._base.close()

    def _write(self) -> None:
        self._base.executemany("INSERT OR REPLACE INTO sample VALUES (?, ?, ?)", self._pending)
        self._pending.clear()


def _number(value: float | None) -> float:
    """SQLite keeps NaN as NULL."""
    return float("nan") if value is None else value
