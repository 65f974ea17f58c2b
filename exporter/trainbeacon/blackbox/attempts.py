"""Which of several boxes of one rank counts: an order of attempts that trusts no clock more than it must.

A machine's clock may be set back between two attempts, and a box may say anything. So a rank that lives goes
before one that does not; of the same boot, seconds since that boot decide; and a start in the future is not
late, it is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from .machine import boot_id
from .reader import Box

#: How far clocks of processes on one machine may be apart, and still be the same.
CLOCK_SLACK_SECONDS = 60.0


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
