"""The directory that the black boxes of a node lie in."""

from __future__ import annotations

import os
import stat
import tempfile

BOX_SUFFIX = ".box"
EXPORTER_LOCK = "exporter.lock"


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
