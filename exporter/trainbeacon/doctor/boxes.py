"""Processes and their black boxes."""

from __future__ import annotations

import os
import shlex
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from trainbeacon.blackbox.box import Box
from trainbeacon.blackbox.directory import BOX_SUFFIX, default_directory
from trainbeacon.blackbox.reader import BoxDirectory
from trainbeacon.doctor.context import Context
from trainbeacon.doctor.results import Check, Result, SkippedError, fail, warn

SILENT_SECONDS = 30.0
_ROOM_BYTES = 8 << 20


@dataclass(frozen=True)
class _Folder:
    path: str
    boxes: list[Box]
    invalid: list[str]


def _folders(context: Context) -> Iterator[_Folder]:
    for each in context.served:
        try:
            descriptor = os.open(each.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            boxes = BoxDirectory(descriptor).scan()
            known = {box.name for box in boxes}
            names = [name for name in os.listdir(descriptor) if name.endswith(BOX_SUFFIX)]
            yield _Folder(each.directory, boxes, sorted(name for name in names if name not in known))
        finally:
            os.close(descriptor)


def _directory(context: Context) -> Iterator[Result]:
    where = context.directory or default_directory()
    shown = shlex.quote(where)
    if os.path.islink(where) and not context.directory:
        yield fail("TB201", f"{where} is a link to {os.readlink(where)}", f"rm {shown}")
        return
    if os.path.exists(where) and not os.path.isdir(where):
        yield fail("TB201", f"{where} is no folder", f"rm {shown}")
        return
    if context.directory and not os.path.isdir(where):
        yield fail(
            "TB202",
            f"{where} is not there: no run writes to it",
            f"export TRAINBEACON_DIRECTORY={shown} for the run",
        )
        return
    if not os.path.isdir(where):
        raise SkippedError(f"nobody has trained here yet: {where} is not there")
    found = os.stat(where)
    mode = found.st_mode & 0o7777
    if not context.directory and found.st_uid != os.geteuid():
        yield fail(
            "TB201",
            f"{where} belongs to uid {found.st_uid}",
            f"ask its owner to remove {where}, or set TRAINBEACON_DIRECTORY",
        )
    elif not context.directory and mode & 0o077:
        yield fail("TB203", f"{where} has mode {mode:04o}; ranks refuse it", f"chmod 700 {shown}")
    elif mode & 0o002 and not mode & 0o1000:
        yield warn("TB203", f"{where} has mode {mode:04o}: everybody may remove boxes", f"chmod o-w {shown}")
    elif found.st_uid == os.geteuid() and mode & 0o700 != 0o700:
        yield fail(
            "TB203", f"{where} has mode {mode:04o}: its owner cannot write there", f"chmod u+rwx {shown}"
        )
    room = os.statvfs(where)
    if room.f_bavail * room.f_frsize < _ROOM_BYTES:
        yield fail(
            "TB204",
            f"{room.f_bavail * room.f_frsize >> 10} KiB are free in {where}",
            f"df -h {shown}, and make room or name another folder with TRAINBEACON_DIRECTORY",
        )


def _boxes(context: Context) -> Iterator[Result]:
    folders = list(_folders(context))
    for folder in folders:
        for name in folder.invalid:
            path = os.path.join(folder.path, name)
            yield warn("TB205", f"{path} is no black box that can be read", f"rm {shlex.quote(path)}")
    live = [box for folder in folders for box in folder.boxes if box.held]
    if not live:
        raise SkippedError("no run is at work on this machine")
    now = context.clock()
    for box in live:
        if box.silence(now) > SILENT_SECONDS:
            who = f"rank {box.identity.rank} of {box.identity.run}"
            yield warn(
                "TB206",
                f"{who} (process {box.identity.pid}) is silent for {box.silence(now):.0f} s: stopped",
                f"kill -CONT {box.identity.pid}",
            )
    yield from _collisions(live)


def _collisions(live: list[Box]) -> Iterator[Result]:
    same: dict[tuple[str, int], set[int]] = defaultdict(set)
    for box in live:
        same[box.identity.run, box.identity.rank].add(box.identity.pid)
    for (run, rank), pids in same.items():
        if len(pids) > 1:
            others = sorted(pids)[1:]
            shown = ", ".join(map(str, sorted(pids)))
            yield fail(
                "TB207",
                f"processes {shown} are all rank {rank} of {run}: two jobs of one name, or a leftover",
                f"kill {' '.join(map(str, others))}  # or give each its own TRAINBEACON_RUN",
            )


CHECKS = (
    Check(
        "directory",
        {
            "TB201": "The folder of the black boxes cannot be used",
            "TB202": "The named folder is not there",
            "TB203": "The folder has the wrong mode",
            "TB204": "The folder has no room",
        },
        _directory,
    ),
    Check(
        "black boxes",
        {
            "TB205": "A file is no black box",
            "TB206": "A rank's process is stopped",
            "TB207": "Two processes are the same rank",
        },
        _boxes,
    ),
)
