"""How many boxes of processes that ended are kept: a number, and a share of the file system.

Both sides keep to it: the exporter as it looks after the folder, and a rank as it makes its own box, since
there may be no exporter.
"""

from __future__ import annotations

import fcntl
import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from . import files
from . import format as layout
from .directory import BOX_SUFFIX
from .own import own_boxes
from .textfile import beside

#: Boxes of ended processes: with 188 KiB each, 6 MiB.
MOST_ENDED = 32
#: Of the file system that they lie in, which may be a container's 64 MiB of shared memory.
MOST_SHARE = 1 / 8
#: Boxes that one new rank looks at.
_MOST_LOOKED_AT = 512


@dataclass(frozen=True)
class Ended:
    """The box of a process that is gone: its file, its run, and when it ended or at least began."""

    name: str
    run: str
    time: float


def surplus(ended: Iterable[Ended], most: int) -> list[str]:
    """The files to remove: whole runs, the oldest first. The ranks of the run that ended last all stay."""
    runs: dict[str, list[Ended]] = {}
    for box in ended:
        runs.setdefault(box.run, []).append(box)
    removed: list[str] = []
    kept = 0
    for boxes in sorted(runs.values(), key=lambda boxes: max(box.time for box in boxes), reverse=True):
        if kept and kept + len(boxes) > most:
            removed += [box.name for box in boxes]
        else:
            kept += len(boxes)
    return removed


def most_ended(folder: int) -> int:
    """How many boxes of ended processes the folder may hold."""
    system = os.fstatvfs(folder)
    return max(1, min(MOST_ENDED, int(system.f_blocks * system.f_frsize * MOST_SHARE / layout.SIZE)))


def make_room(folder: int) -> None:
    """Remove what is too much in a folder, by the files alone: for a rank that adds its box. Raises OSError.

    Takes 20 microseconds a box of ours that is there.
    """
    boxes = [box for box in files.names(folder) if box.endswith(BOX_SUFFIX)]
    most = most_ended(folder)
    if len(boxes) <= most:
        return
    for name in surplus(_ended(folder, boxes), most):
        files.remove(folder, name)
        files.remove(folder, beside(name))


def _ended(folder: int, names: Iterable[str]) -> Iterator[Ended]:
    """The boxes of this user's whose life lock is free."""
    for name in itertools.islice(names, _MOST_LOOKED_AT):
        status = files.status(folder, name)
        # To open a box of this very process would free its lock.
        if status is None or status.st_uid != os.geteuid() or (status.st_dev, status.st_ino) in own_boxes:
            continue
        try:
            descriptor = files.open_regular(folder, name)
        except OSError:
            continue
        try:
            free = layout.lock_is_free(fcntl.fcntl(descriptor, fcntl.F_GETLK, layout.lock_query()))
        finally:
            os.close(descriptor)
        if free:
            yield Ended(name, name.partition(".")[0], status.st_mtime)
