"""The exporter's own health: what it is, what it could not read, what it refused."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence

from trainbeacon._version import __version__
from trainbeacon.blackbox.box import latest_started
from trainbeacon.blackbox.format import PROFILING
from trainbeacon.blackbox.reader import Box, BoxDirectory
from trainbeacon.exporter.health import Health

from .base import Families

#: For how long two processes must both have lived to count as two jobs.
OVERLAP_SECONDS = 10.0


class HealthCollector:
    """Turns `Health` and the state of the directory into metrics.

    Args:
        health: what the parts of the exporter have counted.
        directory: the boxes of the node.
        mode: how the exporter is run: process, thread or agent.
        clock: the Unix time that is served as the node's.
    """

    name = "health"

    def __init__(
        self, health: Health, directory: BoxDirectory, mode: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._health = health
        self._directory = directory
        self._mode = mode
        self._clock = clock

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
        profiled = sum(box.alive and box.number(PROFILING) == 1.0 for box in boxes)
        families.add("trainbeacon_profiles_running", profiled)
        for run, extra in collisions(boxes).items():
            families.add("trainbeacon_run_name_collisions", extra, run)
        families.add("trainbeacon_clock_timestamp_seconds", self._clock())


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
        now = time.time()
        (last,) = latest_started(claimants, now).values()
        overlap_from = last.identity.start + OVERLAP_SECONDS
        extra = sum(box is not last and now - box.silence(now) > overlap_from for box in claimants)
        found[run] = found.get(run, 0) + extra
    return found
