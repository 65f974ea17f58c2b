"""Which exporter serves a directory: the one that holds the lock on `exporter.lock` in it.

It is a POSIX record lock, like the life of a box: it is gone the moment its process is, however that
ended. The file's text, written by the holder, says where it serves.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
from dataclasses import asdict, dataclass

from . import files
from . import format as layout
from .directory import EXPORTER_LOCK

_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO in its place must not stop us
_NOTE_LIMIT = 4096


@dataclass(frozen=True)
class ExporterNote:
    """What the exporter of a directory says of itself."""

    pid: int
    url: str
    version: str


class ExporterLock:
    """The lock of one directory, as its holder has it.

    Hold at most one for a directory in a process: closing any descriptor of the file frees the lock,
    so nothing else there may open it.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, directory: int) -> ExporterLock | None:
        """Take the lock of the directory (an open descriptor of it); None if another process has it."""
        descriptor = os.open(EXPORTER_LOCK, os.O_RDWR | os.O_CREAT | _FLAGS, 0o640, dir_fd=directory)
        try:
            _share(descriptor, directory)
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
        return cls(descriptor)

    def publish(self, note: ExporterNote) -> None:
        """Write where this exporter serves, for people and tools. Raises OSError where there is no room."""
        text = json.dumps(asdict(note)).encode()
        os.pwrite(self._descriptor, text.ljust(_NOTE_LIMIT), 0)

    def beat(self) -> None:
        """Say that the holder is at work: `holder_of` sees it. Raises OSError."""
        os.utime(self._descriptor)

    def is_in(self, directory: int) -> bool:
        """Whether the lock is still the file of that name in the directory: it may have been removed."""
        own = os.fstat(self._descriptor)
        found = files.status(directory, EXPORTER_LOCK)
        return found is not None and (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino)

    def release(self) -> None:
        """Give the lock up, as the end of the process does by itself."""
        os.close(self._descriptor)


def _share(descriptor: int, directory: int) -> None:
    """Let the group lock the file too where it shares the directory: the next holder may be another user."""
    shared = os.fstat(directory).st_mode & stat.S_IWGRP
    if shared and os.fstat(descriptor).st_uid == os.geteuid():
        os.fchmod(descriptor, 0o660)  # whatever the umask


@dataclass(frozen=True)
class Holder:
    """Who holds the exporter's lock of a directory. `pid` is 0 in another pid namespace."""

    pid: int
    inode: int
    #: Changes with each `beat`; a time of the file system's clock.
    beat: int


def holder_of(directory: int) -> Holder | None:
    """The holder of the lock on the directory (an open descriptor); None if no other process has it."""
    try:
        descriptor = os.open(EXPORTER_LOCK, os.O_RDONLY | _FLAGS, dir_fd=directory)
    except FileNotFoundError:
        return None
    try:
        answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, layout.lock_query())
        if layout.lock_is_free(answer):
            return None
        status = os.fstat(descriptor)
        return Holder(layout.lock_holder(answer), status.st_ino, status.st_mtime_ns)
    finally:
        os.close(descriptor)


def exporter_is_there(directory: int) -> bool:
    """Whether some other process holds the exporter's lock on the directory (an open descriptor of it)."""
    return holder_of(directory) is not None


def depose(directory: int, holder: Holder) -> None:
    """Remove the lock that this holder has: the next one makes another, and this one sees that and ends."""
    found = files.status(directory, EXPORTER_LOCK)
    if found is not None and found.st_ino == holder.inode:
        files.remove(directory, EXPORTER_LOCK)


def read_note(directory: int) -> ExporterNote | None:
    """What the present or last exporter of the directory wrote, None if nothing or nonsense."""
    with contextlib.suppress(OSError, ValueError, TypeError, RecursionError):
        descriptor = files.open_regular(directory, EXPORTER_LOCK)
        try:
            note = ExporterNote(**json.loads(os.pread(descriptor, _NOTE_LIMIT, 0)))
            texts = isinstance(note.url, str) and isinstance(note.version, str)
            return note if texts and isinstance(note.pid, int) else None
        finally:
            os.close(descriptor)
    return None
