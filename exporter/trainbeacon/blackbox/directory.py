"""The directory that the black boxes of a node lie in."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Collection

BOX_SUFFIX = ".box"
EXPORTER_LOCK = "exporter.lock"
_AGAIN_SECONDS = 30.0


class DirectoryError(OSError):
    """The directory cannot be used; the text says which, why and what to do."""


def default_directory() -> str:
    """`/dev/shm/trainbeacon-<uid>`, or its like under the temporary folder where there is no /dev/shm."""
    base = "/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir()  # noqa: S108
    return os.path.join(base, f"trainbeacon-{os.geteuid()}")


def open_directory(path: str | None) -> int:
    """Open the directory, made if absent, and return its descriptor.

    The default directory lies where every user can write, so it must be ours, closed to others
    (0700) and no link. A directory that the user names keeps its own mode: who shares it is theirs
    to say. Raises DirectoryError.
    """
    where = default_directory() if path is None else path
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        if path is None:
            _make(where)
            flags |= os.O_NOFOLLOW
        else:
            os.makedirs(where, mode=0o770, exist_ok=True)
        descriptor = os.open(where, flags)
    except OSError as error:
        reason = "it is a link" if path is None and os.path.islink(where) else error.strerror or error
        raise DirectoryError(
            f"directory {where!r} cannot be used: {reason}; name another with directory="
        ) from error
    if path is None:
        _refuse_foreign(descriptor, where)
    return descriptor


def remove_directory(path: str, ranks: Collection[int] = ()) -> None:
    """Remove the directory of a job that is over, with all that is in it.

    `ranks` are processes that may live on, and make their boxes anew: it is removed again and again until
    they are gone, for half a minute at most. What is not ours, or a link, is let be.
    """
    deadline = time.monotonic() + _AGAIN_SECONDS
    while True:
        living = [pid for pid in ranks if os.path.exists(f"/proc/{pid}")]
        if _is_own(path):
            shutil.rmtree(path, ignore_errors=True)
        if not living or time.monotonic() >= deadline:
            return
        time.sleep(0.1)


def _is_own(path: str) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def _make(where: str) -> None:
    try:
        os.mkdir(where, mode=0o700)
    except FileExistsError:
        return


def _refuse_foreign(descriptor: int, where: str) -> None:
    status = os.fstat(descriptor)
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid == os.geteuid() and mode & 0o077 == 0:
        return
    os.close(descriptor)
    raise DirectoryError(
        f"directory {where!r} is owned by uid {status.st_uid} with mode {mode:04o}; it must be ours "
        "with mode 0700: remove it, or name another with directory="
    )


def file_prefix(run: str, rank: object) -> str:
    """What the names of a rank's boxes begin with. Another run's may begin with it too."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in run[:40])
    return f"{plain or 'run'}.{rank}."
