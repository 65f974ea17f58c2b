"""Numbering attempts that no launcher counts: by the clock, and past those that left a black box here."""

from __future__ import annotations

import math
import os
from dataclasses import replace

from trainbeacon.blackbox.directory import open_directory
from trainbeacon.blackbox.reader import BoxDirectory
from trainbeacon.identity import Identity

#: Launchers' counts of restarts are below it, and starts in Unix seconds above.
_LEAST_BY_CLOCK = 10**9
#: What a clock that is far ahead can have given; a larger number is nobody's attempt.
_MOST = 2**40


def numbered(identity: Identity, directory: str | None, run: str) -> Identity:
    """The identity with an attempt after all those of its run and rank whose process is gone.

    A clock that was set back, or was ahead when an earlier attempt began, gives no smaller number so. Touches
    files; an unreadable directory changes nothing.

    Args:
        identity: as the launcher gives it.
        directory: of the black boxes, None for the default.
        run: the name that the run is recorded under.
    """
    if identity.attempt < _LEAST_BY_CLOCK:
        return identity
    latest = _latest(directory, run, identity.rank)
    return identity if latest < identity.attempt else replace(identity, attempt=latest + 1)


def _latest(directory: str | None, run: str, rank: int) -> int:
    try:
        descriptor = open_directory(directory)
    except OSError:
        return 0
    try:
        boxes = BoxDirectory(descriptor).scan_of(run, rank)
    except OSError:
        return 0
    finally:
        os.close(descriptor)
    numbers = [box.number("training_attempt") or 0.0 for box in boxes if not box.held]
    return max((int(number) for number in numbers if math.isfinite(number) and number < _MOST), default=0)
