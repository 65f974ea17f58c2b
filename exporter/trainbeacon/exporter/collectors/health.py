"""The exporter's own health: what it is, what it could not read, what it refused."""

from __future__ import annotations

import platform
import threading
from collections import Counter
from collections.abc import Sequence

from trainbeacon import catalogue
from trainbeacon._version import __version__
from trainbeacon.blackbox.reader import Box, BoxDirectory

from .base import Families

#: For how long two processes must both have lived to count as two jobs.
OVERLAP_SECONDS = 10.0


class Health:
    """Counts what goes wrong in the exporter. Safe to use from several threads."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._errors: Counter[str] = Counter(dict.fromkeys(catalogue.EXPORTER_PLACES, 0))
        self._refused: Counter[str] = Counter(dict.fromkeys(_REASONS, 0))
        self.series_dropped = 0

    def error(self, where: str) -> None:
        """One error in that part of the exporter."""
        with self._guard:
            self._errors[where] += 1

    def refused(self, reason: str) -> None:
        """One HTTP request that was not answered as asked."""
        with self._guard:
            self._refused[reason] += 1

    def dropped(self, series: int) -> None:
        """So many series were left out of a scrape."""
        with self._guard:
            self.series_dropped += series

    def counts(self) -> tuple[dict[str, int], dict[str, int], int]:
        """Errors by place, refusals by reason, series dropped."""
        with self._guard:
            return dict(self._errors), dict(self._refused), self.series_dropped


_REASONS = catalogue.BY_NAME["trainbeacon_requests_refused_total"].labels[0].values


class HealthCollector:
    """Turns `Health` and the state of the directory into metrics."""

    name = "health"

    def __init__(self, health: Health, directory: BoxDirectory, mode: str) -> None:
        self._health = health
        self._directory = directory
        self._mode = mode

    def collect(self, families: Families) -> None:
        """Add the exporter's own metrics; run and rank are empty in them."""
        families.add_info("trainbeacon_build_info", __version__, platform.python_version(), self._mode)
        errors, refused, dropped = self._health.counts()
        for where, count in errors.items():
            families.add("trainbeacon_errors_total", count, "", "", where)
        for reason, count in refused.items():
            families.add("trainbeacon_requests_refused_total", count, reason)
        families.add("trainbeacon_series_dropped_total", dropped, "", "")
        boxes = self._directory.scan()
        alive = sum(box.alive for box in boxes)
        families.add("trainbeacon_blackboxes", alive, "live")
        families.add("trainbeacon_blackboxes", len(boxes) - alive, "dead")
        families.add("trainbeacon_blackboxes", self._directory.invalid, "invalid")
        families.add("trainbeacon_blackboxes_invalid_total", self._directory.invalid_total)
        for run, extra in collisions(boxes).items():
            families.add("trainbeacon_run_name_collisions", extra, run)


def collisions(boxes: Sequence[Box]) -> dict[str, int]:
    """For each run with a live rank: its live processes whose rank a process that started later has too.

    Lives must overlap by some seconds: in a restart the one may still end while the other begins.
    """
    ranks: dict[tuple[str, int], list[Box]] = {}
    for box in boxes:
        if box.alive and box.state == "running":
            ranks.setdefault((box.identity.run, box.identity.rank), []).append(box)
    found: dict[str, int] = {}
    for (run, _), claimants in ranks.items():
        newest = max(claimants, key=lambda box: box.identity.start)
        overlap_from = newest.identity.start + OVERLAP_SECONDS
        extra = sum(box is not newest and box.last_sign > overlap_from for box in claimants)
        found[run] = found.get(run, 0) + extra
    return found
