"""A box as one look found it, and which of several boxes of one rank counts.

The order of attempts trusts no clock more than it must: a machine's clock may be set back between two of
them, and a box may say anything. So a rank that lives goes before one that does not; of the same boot,
seconds since that boot decide; and a start in the future is not late, it is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from trainbeacon import catalogue

from . import format as layout
from .machine import boot_id

#: How far clocks of processes on one machine may be apart, and still be the same.
CLOCK_SLACK_SECONDS = 60.0


@dataclass(frozen=True)
class BoxIdentity:
    """Who wrote a box. `pid` means something only in `pid_namespace` of `boot_id`."""

    run: str
    rank: int
    start: float
    pid: int = 0
    pid_namespace: int = 0
    boot_id: str = ""
    #: Seconds between the boot and the start, 0 where the box does not say.
    since_boot: float = 0.0


#: A slot's name: a metric of the catalogue, or a name of ours, and its label values.
Name = tuple[str, tuple[str, ...]]


@dataclass(frozen=True)
class Box:
    """One look at a black box. `alive` is true of a process that holds its lock, or did very lately."""

    name: str
    identity: BoxIdentity
    state: str
    alive: bool
    values: Mapping[Name, float]
    infos: tuple[Name, ...]
    #: Steps of the ring, oldest first.
    ring: tuple[layout.RingEntry, ...] = ()
    #: Whether its lock is held, without the grace of `alive`.
    held: bool = False
    #: Unix time at which its lock was seen to come free.
    released: float | None = None
    #: Seconds since its last sign of life by the clock that nobody sets; None of another boot or machine.
    silent: float | None = None

    def number(self, metric: str, *labels: str) -> float | None:
        """The value of one slot, None if it was never written."""
        return self.values.get((metric, labels))

    @property
    def last_sign(self) -> float:
        """Unix time of the last sign of life, by the clock of the process then."""
        heartbeat = self.number("training_heartbeat_timestamp_seconds")
        return heartbeat if heartbeat is not None and math.isfinite(heartbeat) else self.identity.start

    def silence(self, now: float) -> float:
        """Seconds since the last sign of life.

        Args:
            now: the Unix time; what counts where the two clocks cannot be compared otherwise. A sign of
                life that lies in the future then is as far away as one in the past: a clock was set.
        """
        return abs(now - self.last_sign) if self.silent is None else self.silent

    @property
    def phase(self) -> str | None:
        """The phase that the rank was in when it last said so, None if that makes no sense."""
        number = self.number(layout.PHASE_INDEX)
        known = number is not None and 0 <= number < len(catalogue.PHASES)
        return catalogue.PHASES[int(number)] if known and number is not None else None

    @property
    def step(self) -> float | None:
        """Number of the last completed step, None before the first."""
        return self.number("training_step") or None

    def seconds_without_step(self, now: float) -> float:
        """Seconds since the last completed step, or since the start."""
        since = self.number("training_last_step_timestamp_seconds") or self.identity.start
        return max(0.0, now - since) if math.isfinite(since) else 0.0

    @property
    def end(self) -> float | None:
        """Unix time at which the process ended: by its own word, as was seen, or its last sign of life."""
        if self.state == "crashed":
            return self.released or self.last_sign
        return None if self.state == "running" else self.number("training_end_timestamp_seconds")


def newest(boxes: Iterable[Box], now: float) -> dict[tuple[str, int], Box]:
    """The box that counts of each run and rank: of a live one, else of the one that started last."""
    boot = boot_id()
    return _last(boxes, lambda box: (box.alive, *_started(box, now, boot)))


def latest_started(boxes: Iterable[Box], now: float) -> dict[tuple[str, int], Box]:
    """Of each run and rank the box of the process that started last, whether it lives or not."""
    boot = boot_id()
    return _last(boxes, lambda box: _started(box, now, boot))


def last_run(boxes: Iterable[Box], now: float) -> str | None:
    """The run that started last among those with a live rank, else among all; None without a box."""
    boot = boot_id()
    last = max(boxes, key=lambda box: (box.alive, *_started(box, now, boot)), default=None)
    return last.identity.run if last is not None else None


def _last(boxes: Iterable[Box], order: Callable[[Box], tuple[object, ...]]) -> dict[tuple[str, int], Box]:
    found: dict[tuple[str, int], tuple[Any, Box]] = {}
    for box in boxes:
        key, place = (box.identity.run, box.identity.rank), order(box)
        if key not in found or place > found[key][0]:
            found[key] = (place, box)
    return {key: box for key, (_, box) in found.items()}


def _started(box: Box, now: float, boot: str) -> tuple[bool, float, bool, float, str]:
    """The place of a process among those of its rank, by its start."""
    identity = box.identity
    of_this_boot = bool(boot) and identity.boot_id == boot and identity.since_boot > 0
    credible = identity.start <= now + CLOCK_SLACK_SECONDS
    return of_this_boot, identity.since_boot if of_this_boot else 0.0, credible, identity.start, box.name
