"""The evidence directory: private, written at once, bounded in size and number.

By default it lies in the folder of the black boxes, which other users may share: it is opened relative to
that folder and without following links, and a user whose `evidence` is another user's has `evidence-<uid>`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from trainbeacon.blackbox import files
from trainbeacon.blackbox.directory import file_prefix
from trainbeacon.config.redaction import redacted

#: A slot with this name has the evidence directory as its label, so that `trainbeacon stacks` can name it.
DIRECTORY_SLOT = "_evidence"
SUFFIX = ".evidence.json"
#: Stacks of a rank whose interpreter was held, as the timer writes them; and those that were asked for.
HELD_SUFFIX, ASKED_SUFFIX = ".held.txt", ".asked.txt"
MOST_BYTES = 256 * 1024
#: Files of one rank of a run, and of all runs in a directory.
MOST_FILES_A_RANK = 5
MOST_FILES = 200
#: Evidence that is read of one directory: the newest, as far as both bounds go.
MOST_READ, MOST_BYTES_READ = 50_000, 64 * 1024 * 1024

_DEFAULT = "evidence"
_DEFAULTS = re.compile(rf"{_DEFAULT}(-\d{{1,10}})?")


@dataclass(frozen=True)
class Store:
    """The evidence of one rank of a run. `prefix` begins the names of its files.

    Threads: may be used from any.
    """

    directory: str
    prefix: str
    is_beside_boxes: bool = False

    @classmethod
    def make(cls, directory: str, run: str, rank: int) -> Store:
        """In a directory that the user names, made if absent (0700). Raises OSError."""
        return cls(os.path.abspath(directory), file_prefix(run, rank))._swept()

    @classmethod
    def beside(cls, box_directory: str, run: str, rank: int) -> Store:
        """In the folder of the black boxes. Raises OSError."""
        path = os.path.join(os.path.abspath(box_directory), _DEFAULT)
        try:
            return cls(path, file_prefix(run, rank), True)._swept()
        except OSError:  # another user's, or a trap
            return cls(f"{path}-{os.geteuid()}", file_prefix(run, rank), True)._swept()

    def of(self, run: str, rank: int) -> Store:
        """The same directory for a rank whose number turned out to be another."""
        return replace(self, prefix=file_prefix(run, rank))

    def create(self, suffix: str) -> tuple[int, str]:
        """A new empty file to append to: its descriptor and its path. Raises OSError.

        It counts as in use, and is kept while it is empty, until every copy of the descriptor is closed.
        """
        name = self._name(suffix)
        with self._opened() as folder:
            descriptor = files.create(folder, name, append=True)
        with contextlib.suppress(OSError):  # a file system without locks keeps it a little longer
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return descriptor, os.path.join(self.directory, name)

    def write(self, document: Mapping[str, Any]) -> str:
        """Write evidence, so that a reader sees all of it or nothing. Returns the path. Raises OSError."""
        name = self._name(SUFFIX)
        with self._opened() as folder:
            files.replace_in(folder, name, bounded(_without_secrets(document)), mode=0o600)
            self._prune(folder, SUFFIX)
        return os.path.join(self.directory, name)

    def _name(self, suffix: str) -> str:
        """A new name for a file of this rank; a later one sorts after an earlier one."""
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        return f"{self.prefix}{moment}-{secrets.token_hex(3)}{suffix}"

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        if self.is_beside_boxes:
            boxes = os.open(os.path.dirname(self.directory), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                folder = files.open_folder(boxes, os.path.basename(self.directory))
            finally:
                os.close(boxes)
        else:
            os.makedirs(self.directory, mode=0o700, exist_ok=True)
            folder = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield folder
        finally:
            os.close(folder)

    def _swept(self) -> Store:
        """The same, once the directory is there and what killed ranks have left empty is gone."""
        with self._opened() as folder:
            for suffix in (HELD_SUFFIX, ASKED_SUFFIX):
                for name in _names(folder, suffix):
                    status = files.status(folder, name)
                    if status is not None and status.st_size == 0 and not _is_in_use(folder, name):
                        files.remove(folder, name)
                self._prune(folder, suffix)
        return self

    def _prune(self, folder: int, suffix: str) -> None:
        """Remove the oldest files of a kind beyond the bounds."""
        names = _names(folder, suffix)
        own = sorted(name for name in names if name.startswith(self.prefix))
        others = sorted(set(names) - set(own), key=lambda name: name.rpartition(suffix)[0][-22:])
        surplus = own[:-MOST_FILES_A_RANK] + others[: max(0, len(names) - MOST_FILES)]
        for name in surplus:
            if suffix == SUFFIX or not _is_in_use(folder, name):
                files.remove(folder, name)


def _names(folder: int, suffix: str) -> list[str]:
    return [name for name in files.names(folder) if name.endswith(suffix)]


def _is_in_use(folder: int, name: str) -> bool:
    """Whether a live process has the file open, as `Store.create` does."""
    try:
        descriptor = files.open_regular(folder, name, owner=os.geteuid())
    except OSError:
        return True  # not ours to judge
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _without_secrets(found: Any) -> Any:
    """The same with what looks like a secret blanked in every text."""
    if isinstance(found, str):
        return redacted(found)
    if isinstance(found, Mapping):
        return {key: _without_secrets(value) for key, value in found.items()}
    return [_without_secrets(item) for item in found] if isinstance(found, list | tuple) else found


def bounded(document: Mapping[str, Any]) -> bytes:
    """The document as JSON of at most `MOST_BYTES`: the list of collectives goes first, then stacks."""
    shortened = dict(document)
    for fewer in (None, "flight_recorder", "workers", "stacks"):
        if fewer == "stacks":
            shortened[fewer] = [*shortened.get(fewer, ())][:400]
        elif fewer is not None:
            shortened[fewer] = []
        text = json.dumps(shortened, indent=1).encode()
        if len(text) <= MOST_BYTES:
            return text
    return json.dumps({key: shortened[key] for key in ("version", "run", "rank", "class", "reason")}).encode()


def read(directory: str) -> list[dict[str, Any]]:
    """All evidence of a directory, oldest first, each with its `path`; what is damaged is left out."""
    try:
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        return _in_order(_read_folder(folder, directory))
    finally:
        os.close(folder)


def read_beside(boxes: int, path: str) -> list[dict[str, Any]]:
    """The same of every default evidence directory in a folder of boxes.

    Args:
        boxes: descriptor of the folder.
        path: what it is called, for the paths of the documents.
    """
    found: list[dict[str, Any]] = []
    for name in sorted(filter(_DEFAULTS.fullmatch, files.names(boxes))):
        with contextlib.suppress(OSError):
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            folder = os.open(name, flags, dir_fd=boxes)
            try:
                found += _read_folder(folder, os.path.join(path, name))
            finally:
                os.close(folder)
    return _in_order(found)


def _in_order(documents: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(documents, key=lambda document: float(document["time"]))


def _read_folder(folder: int, path: str) -> Iterator[dict[str, Any]]:
    """What is evidence among the newest files; whatever else lies there is passed over."""
    found = []
    for name in _names(folder, SUFFIX):
        status = files.status(folder, name)
        if status is not None and stat.S_ISREG(status.st_mode) and status.st_size <= MOST_BYTES:
            found.append((status.st_mtime_ns, name, status.st_size))
    left = MOST_BYTES_READ
    for _, name, size in sorted(found, reverse=True)[:MOST_READ]:
        left -= size
        if left < 0:
            return
        with contextlib.suppress(OSError, ValueError, RecursionError, OverflowError):
            yield {**_document(folder, name), "path": os.path.join(path, name)}


def _document(folder: int, name: str) -> dict[str, Any]:
    # Of the folder's owner: in a directory that many share, another user may put a file beside it.
    descriptor = files.open_regular(folder, name, owner=os.fstat(folder).st_uid)
    with open(descriptor, "rb") as file:
        document = json.loads(file.read(MOST_BYTES + 1))
    if not isinstance(document, dict) or not _is_moment(document.get("time")):
        raise ValueError("no evidence")
    return document


def _is_moment(value: object) -> bool:
    """Whether it is a Unix time that a calendar has."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= float(value) < 1e11
