"""Files in folders that others may write into too.

They are opened by name relative to a descriptor of their folder, never through a link, and looked at before
they are believed: a name may lead to a FIFO, to somebody else's file, or by a hard link to one of our own
elsewhere. New ones get a name that nobody can guess, and take their place whole.

Threads: every function may be called from any.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator

TEMPORARY_PREFIX = ".new-"

_OPEN = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO must not hold us up
_NEW = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class UntrustedError(OSError):
    """What lies there is not what it should be: a link, no file, or another user's."""

    def __init__(self, problem: str, name: str) -> None:
        super().__init__(errno.EPERM, problem, name)


def replace(path: str, content: bytes, *, mode: int | None = 0o640, durable: bool = False) -> None:
    """Write a file whole, so that a reader sees the old content or the new one. Raises OSError.

    Args:
        path: links on the way to its folder are followed; a link in its own place is replaced.
        content: all of it.
        mode: of the file, whatever the umask; None for what the umask leaves of 0666.
        durable: whether it shall also outlive a crash of the machine, which costs a wait for the disk.
    """
    folder = os.open(os.path.dirname(path) or os.curdir, _FOLDER)
    try:
        replace_in(folder, os.path.basename(path), content, mode=mode, durable=durable)
    finally:
        os.close(folder)


def replace_in(
    folder: int, name: str, content: bytes, *, mode: int | None = 0o640, durable: bool = False
) -> None:
    """The same in the folder with that descriptor."""
    temporary = f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
    descriptor = os.open(temporary, os.O_WRONLY | _NEW, 0o666 if mode is None else 0o600, dir_fd=folder)
    try:
        with open(descriptor, "wb", buffering=0) as file:
            if mode is not None:
                os.fchmod(descriptor, mode)
            left = memoryview(content)
            while left:
                left = left[file.write(left) :]
            if durable:
                os.fsync(descriptor)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        remove(folder, temporary)
        raise
    if durable:
        with contextlib.suppress(OSError):  # some network file systems cannot
            os.fsync(folder)


def create(folder: int, name: str, *, append: bool = False) -> int:
    """A new private file (0600) for writing, and its descriptor. Raises OSError where the name is taken."""
    return os.open(name, os.O_RDWR | _NEW | (os.O_APPEND if append else 0), 0o600, dir_fd=folder)


def open_regular(folder: int, name: str, *, owner: int | None = None) -> int:
    """Open a file for reading, if it is a regular one and, where `owner` is given, that user's.

    Raises:
        OSError: it is not there, or may not be read; UntrustedError for anything else.
    """
    # Before it is opened too: to open a FIFO or a device can do something by itself.
    _trust(os.stat(name, dir_fd=folder, follow_symlinks=False), name, owner)
    descriptor = os.open(name, os.O_RDONLY | _OPEN, dir_fd=folder)
    with _closing_on_error(descriptor):
        _trust(os.fstat(descriptor), name, owner)
    return descriptor


def _trust(status: os.stat_result, name: str, owner: int | None) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UntrustedError("it is not a regular file", name)
    if owner is not None and status.st_uid != owner:
        raise UntrustedError(f"it belongs to uid {status.st_uid}", name)


def open_for_appending(folder: int, name: str) -> int:
    """Open a file of ours to append to, made (0640) if absent. Raises OSError, UntrustedError."""
    descriptor = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | _OPEN, 0o640, dir_fd=folder)
    with _closing_on_error(descriptor):
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise UntrustedError("it is not a regular file with one name", name)
        if status.st_uid != os.geteuid():
            raise UntrustedError(f"it belongs to uid {status.st_uid}", name)
    return descriptor


def open_folder(folder: int, name: str) -> int:
    """Open a folder of ours in another one, made (0700) if absent; a link is refused.

    Raises:
        OSError: it cannot be had; UntrustedError if it is another user's, or others may write into it.
    """
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=folder)
    descriptor = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
    with _closing_on_error(descriptor):
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid() or status.st_mode & _WRITABLE_BY_OTHERS:
            mode = stat.S_IMODE(status.st_mode)
            raise UntrustedError(f"it belongs to uid {status.st_uid} with mode {mode:04o}", name)
    return descriptor


def entries(folder: int) -> list[tuple[str, int]]:
    """Names and inodes of all that lies there, whoever else lists the folder at the same time."""
    # By a descriptor of its own: those that share one share the place in the listing too.
    own = os.open(os.curdir, _FOLDER, dir_fd=folder)
    try:
        with os.scandir(own) as found:
            return [(entry.name, entry.inode()) for entry in found]
    finally:
        os.close(own)


def names(folder: int) -> list[str]:
    """The names alone."""
    return [name for name, _ in entries(folder)]


def status(folder: int, name: str) -> os.stat_result | None:
    """What lies there, no link followed; None if nothing does."""
    with contextlib.suppress(OSError):
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    return None


def remove(folder: int, name: str) -> None:
    """Remove a file, if it is there and may be removed."""
    with contextlib.suppress(OSError):
        os.unlink(name, dir_fd=folder)


@contextlib.contextmanager
def _closing_on_error(descriptor: int) -> Iterator[None]:
    try:
        yield
    except BaseException:
        os.close(descriptor)
        raise
