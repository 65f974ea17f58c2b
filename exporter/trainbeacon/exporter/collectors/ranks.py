"""The ranks of this node, from their black boxes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from trainbeacon import catalogue
from trainbeacon.blackbox import format as layout
from trainbeacon.blackbox.box import newest
from trainbeacon.blackbox.machine import pid_namespace
from trainbeacon.blackbox.reader import Box, BoxDirectory, Name

from .base import Families, RankProcess

_HISTOGRAM = "training_step_duration_seconds"
_PHASE_TOTALS = "training_phase_seconds_total"
_END = "training_end_timestamp_seconds"
#: The helper thread of the rank renews these every second. Of a process that is stopped they would stay
#: as they were, and a sum over the ranks would never fall to zero.
_RATES = ("training_samples_per_second", "training_tokens_per_second")
RATES_LAST_SECONDS = 15.0


class RanksCollector:
    """Serves one box for each run and rank: the newest attempt.

    Args:
        directory: the boxes of the node.
        linger_seconds: how long a dead rank is served once no rank of its run is alive on this node.
        clock: the Unix time by which ranks are judged.
    """

    name = "ranks"

    def __init__(
        self, directory: BoxDirectory, linger_seconds: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._directory = directory
        self._linger = linger_seconds
        self._clock = clock
        self._namespace = pid_namespace()

    def collect(self, families: Families) -> None:
        """Read every box now."""
        for box in self.served():
            _add_box(families, box, self._clock())

    def served(self) -> list[Box]:
        """The boxes that are served now."""
        return select(self._directory.scan(), self._clock(), self._linger)

    def processes(self) -> Sequence[RankProcess]:
        """The live ranks whose process ids mean something to this process."""
        return [
            RankProcess(box.identity.run, str(box.identity.rank), box.identity.pid)
            for box in self.served()
            if box.alive and box.identity.pid and box.identity.pid_namespace == self._namespace
        ]


def select(boxes: Sequence[Box], now: float, linger_seconds: float) -> list[Box]:
    """The newest box of each run and rank, but no dead one of a run that is long over.

    A dead rank stays as long as its run has a live rank here, since it may be what the others wait
    for, and for the linger after that.
    """
    chosen = newest(boxes, now)
    live_runs = {box.identity.run for box in chosen.values() if box.alive}
    return [
        chosen[key]
        for key in sorted(chosen)
        if chosen[key].alive
        or chosen[key].identity.run in live_runs
        or chosen[key].silence(now) < linger_seconds
    ]


def _add_box(families: Families, box: Box, now: float) -> None:
    run, rank = box.identity.run, str(box.identity.rank)
    buckets = [0.0] * (len(catalogue.STEP_BUCKETS) + 1)
    total = 0.0
    silent = box.silence(now) > RATES_LAST_SECONDS
    for (name, labels), number in _values(box).items():
        metric = catalogue.BY_NAME.get(name)
        if metric is None or name == _END or not (box.alive or metric.survives):
            continue
        if name in _RATES and silent:
            continue
        if metric.type == "histogram":
            if labels[0] == layout.HISTOGRAM_SUM:
                total = number
            else:
                buckets[int(labels[0])] = number
        elif metric.level == "run":
            families.add(name, number, run, *labels)
        else:
            families.add(name, number, run, rank, *labels)
    if box.end is not None:
        families.add(_END, box.end, run, rank)
    families.add_histogram(_HISTOGRAM, buckets, total, run, rank)
    for state in catalogue.STATES:
        families.add("training_state", float(state == box.state), run, rank, state)
    for name, labels in box.infos:
        identity = (run,) if catalogue.BY_NAME[name].level == "run" else (run, rank)
        families.add_info(name, *identity, *labels)
    if box.alive:
        _add_phase(families, box)


def _values(box: Box) -> Mapping[Name, float]:
    """The values of a box, with the open phase counted up to the last heartbeat.

    The training process adds a phase to its total when it leaves it. Without this a phase of minutes
    would show as nothing and then as a leap.
    """
    total = (_PHASE_TOTALS, (box.phase or "",))
    if total not in box.values:
        return box.values
    return {**box.values, total: box.values[total] + _open_phase_seconds(box)}


def _open_phase_seconds(box: Box) -> float:
    start, heartbeat = box.number(layout.PHASE_START), box.number(layout.HEARTBEAT)
    if start is None or heartbeat is None or box.state not in ("running", "crashed"):
        return 0.0
    return max(0.0, heartbeat - start)


def _add_phase(families: Families, box: Box) -> None:
    for phase in catalogue.PHASES:
        families.add(
            "training_phase", float(phase == box.phase), box.identity.run, str(box.identity.rank), phase
        )
