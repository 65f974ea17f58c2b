"""The git repository that a script comes from, read from its files: no process is started for it.

A child of the training process would be found by a script that waits for its own children, and `git` may be
missing, old, or wait for a lock. The form of the files is that of git's documents gitrepository-layout and
index-format (versions 2 to 4).
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: Files that are compared; of a larger repository it is not said whether any has changed.
MOST_FILES = 20_000
#: A file beyond that is taken to be changed where its time or size is.
LARGEST_FILE = 16 << 20
_HASHES = {40: "sha1", 64: "sha256"}


@dataclass(frozen=True)
class Repository:
    """What is checked out.

    Attributes:
        root: its folder.
        commit: that HEAD is at, in hexadecimal digits; empty before the first.
        branch: empty where none is checked out.
        changed: how many of the files that git follows differ from what was last added; None where that
            cannot be known. Changes that were added and not committed are not seen.
    """

    root: str
    commit: str
    branch: str
    changed: int | None


def repository_of(folder: str) -> Repository | None:
    """The repository that a folder lies in, None for none; takes some ms for a thousand files.

    Raises:
        OSError, ValueError: it is there and cannot be read.
    """
    root = next((each for each in (Path(folder), *Path(folder).parents) if (each / ".git").exists()), None)
    if root is None:
        return None
    own = root / ".git"
    if own.is_file():  # a worktree, or a submodule
        own = root / own.read_text().partition("gitdir:")[2].strip()
    common = own / (own / "commondir").read_text().strip() if (own / "commondir").exists() else own
    head = (own / "HEAD").read_text().strip()
    reference = head.partition("ref:")[2].strip()
    commit = _commit_of(common, reference) if reference else head
    branch = reference.removeprefix("refs/heads/")
    return Repository(str(root), commit, branch, _changed(root, own / "index", len(commit)))


def _commit_of(common: Path, reference: str) -> str:
    loose = common / reference
    if loose.is_file():
        return loose.read_text().strip()
    packed = common / "packed-refs"
    lines = packed.read_text().splitlines() if packed.is_file() else []
    return next((line.split()[0] for line in lines if line.endswith(f" {reference}")), "")


@dataclass(frozen=True)
class _Entry:
    """A file of the index: what it was when it was added."""

    path: bytes
    seconds: int
    mode: int
    size: int
    digest: str


def _changed(root: Path, index: Path, digits: int) -> int | None:
    if digits not in _HASHES or not index.is_file():
        return None
    data = index.read_bytes()
    signature, version, count = struct.unpack_from(">4sII", data)
    if signature != b"DIRC" or version not in (2, 3, 4) or count > MOST_FILES:
        return None
    return sum(
        _differs(root, entry, _HASHES[digits]) for entry in _entries(data, version, count, digits // 2)
    )


def _entries(data: bytes, version: int, count: int, length: int) -> Iterator[_Entry]:
    at, path = 12, b""
    for _ in range(count):
        seconds, mode, size = (struct.unpack_from(">I", data, at + offset)[0] for offset in (8, 24, 36))
        digest = data[at + 40 : at + 40 + length].hex()
        (flags,) = struct.unpack_from(">H", data, at + 40 + length)
        name = at + 42 + length + (2 if flags & 0x4000 else 0)
        if version == 4:  # each path as what differs from the one before
            drop, name = _varint(data, name)
            end = data.index(0, name)
            path, following = path[: len(path) - drop] + data[name:end], end + 1
        else:
            end = data.index(0, name)
            path, following = data[name:end], at + (end - at) // 8 * 8 + 8
        yield _Entry(path, seconds, mode, size, digest)
        at = following


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = data[at] & 0x7F
    while data[at] & 0x80:
        at += 1
        value = ((value + 1) << 7) | (data[at] & 0x7F)
    return value, at + 1


def _differs(root: Path, entry: _Entry, algorithm: str) -> bool:
    if stat.S_IFMT(entry.mode) == 0o160000:  # a submodule, which is a repository of its own
        return False
    path = os.path.join(os.fsencode(root), entry.path)
    try:
        found = os.lstat(path)
    except OSError:
        return True
    if stat.S_IFMT(found.st_mode) != stat.S_IFMT(entry.mode):
        return True
    if found.st_size == entry.size and int(found.st_mtime) & 0xFFFFFFFF == entry.seconds:
        return False
    if found.st_size != entry.size or found.st_size > LARGEST_FILE:
        return True
    content = (
        os.fsencode(os.readlink(path))
        if stat.S_ISLNK(found.st_mode)
        else Path(os.fsdecode(path)).read_bytes()
    )
    return hashlib.new(algorithm, b"blob %d\0" % len(content) + content).hexdigest() != entry.digest
