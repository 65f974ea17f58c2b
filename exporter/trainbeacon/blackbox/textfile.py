"""A text beside a black box, replaced whole: the user's own metrics on their way to the exporter.

`<name of the box>.prom`, in the classic text format of Prometheus. Like a box, it may hold anything.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat

from .directory import BOX_SUFFIX, TEMPORARY_PREFIX

SUFFIX = f"{BOX_SUFFIX}.prom"
MOST_BYTES = 64 * 1024
#: Series of one rank's file.
MOST_SERIES = 200


def beside(box: str) -> str:
    """Name or path of the text that belongs to a box."""
    return f"{box.removesuffix(BOX_SUFFIX)}{SUFFIX}"


def replace(path: str, text: bytes) -> None:
    """Write the text at once, so that a reader sees the old one or the new one. Raises OSError."""
    temporary = os.path.join(os.path.dirname(path), f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o640)
    try:
        os.fchmod(descriptor, 0o640)
        with open(descriptor, "wb", buffering=0) as file:
            file.write(text)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def look(folder: int, name: str) -> os.stat_result | None:
    """What lies there, in the directory with that descriptor; None if nothing does."""
    with contextlib.suppress(OSError):
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    return None


def read(folder: int, name: str) -> bytes:
    """The text. Raises OSError, and ValueError for what is no file, or too long to be one of ours."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=folder)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("not a file")
        text = os.pread(descriptor, MOST_BYTES + 1, 0)
        if len(text) > MOST_BYTES:
            raise ValueError(f"longer than {MOST_BYTES} bytes")
        return text
    finally:
        os.close(descriptor)
