"""The exporter's side of the black boxes: read, never map, and believe nothing.

A box may be truncated, foreign, damaged, or written this very moment by a process that dies in the
middle. What cannot be right is skipped and counted; nothing in a file can make a read raise.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import math
import os
import stat
import threading
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from trainbeacon import catalogue

from . import files
from . import format as layout
from .box import Box, BoxIdentity, Name
from .directory import BOX_SUFFIX, file_prefix
from .machine import boot_id
from .own import OwnBox, own_boxes
from .releases import Key, Releases

__all__ = ["Box", "BoxDirectory", "BoxFile", "BoxIdentity", "InvalidBoxError", "Name", "Source"]

#: A process that lost its lock by accident takes it again within a second or two. Only a box with a
#: free lock *and* an older heartbeat is dead.
HEARTBEAT_GRACE_SECONDS = 3.0

_READ_TRIES = 8
#: Of files that were not there in the last scan, those that are looked at, and those among them that are
#: read, as they have the size of a box; the others have their turn in the next.
_MOST_NEW_LOOKED_AT = 20_000
_MOST_NEW = 2000
#: Files that are no boxes and are looked at again in one scan: their mode may have been changed.
_MOST_LOOKED_AT_AGAIN = 100
#: A label may be longer than what is served of it; whoever serves it cuts.
_TEXT_LIMIT = 8192
_STATES = {code: name for name, code in layout.STATE_CODES.items()}


class InvalidBoxError(ValueError):
    """A file in the directory that is not a black box, or not a whole one."""


class Source(Protocol):
    """Where the bytes of a box come from."""

    def read(self, offset: int, length: int) -> bytes:
        """That many bytes, or fewer where the file ends."""

    def lock_held(self) -> bool:
        """Whether the process that wrote the box still holds its lock."""


class _File:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._descriptor, length, offset)

    def lock_held(self) -> bool:
        return not layout.lock_is_free(fcntl.fcntl(self._descriptor, fcntl.F_GETLK, layout.lock_query()))


class _Own:
    """A box of this very process, which must not be opened: see `own`."""

    def __init__(self, box: OwnBox) -> None:
        self._box = box

    def read(self, offset: int, length: int) -> bytes:
        return self._box.read(offset, length)

    def lock_held(self) -> bool:
        return True


@dataclass(frozen=True)
class _Journal:
    """What the journal says: the owner, the name of each slot, and the texts."""

    used: int
    identity: BoxIdentity
    slots: tuple[tuple[Name, int], ...]
    steps: tuple[tuple[Name, int], ...]
    infos: tuple[Name, ...]


class BoxFile:
    """One box, read again and again; its journal is parsed anew only when it has grown."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._journal: _Journal | None = None

    def read(self, source: Source, *, ring: bool = False) -> Box:
        """Look at the box now. Raises InvalidBoxError."""
        try:
            return self._read(source, ring)
        except InvalidBoxError:
            raise
        except (LookupError, TypeError, ValueError, RecursionError, ArithmeticError) as error:
            raise InvalidBoxError(f"damaged: {error!r}") from error

    def _read(self, source: Source, ring: bool) -> Box:
        held = source.lock_held()
        words, slots, step = _read_values(source)
        journal = self._read_journal(source, words[layout.JOURNAL_USED])
        values = dict((*_named(journal.slots, slots), *_named(journal.steps, step)))
        identity = journal.identity
        state = _STATES.get(words[layout.STATE])
        if state is None:
            raise InvalidBoxError(f"unknown state {words[layout.STATE]}")
        recent = _ring(source, words) if ring else ()
        box = Box(self.name, identity, state, held, values, journal.infos, recent, held)
        box = replace(box, silent=_silent(box))
        if state != "running" or held:
            return box
        if box.silence(time.time()) < HEARTBEAT_GRACE_SECONDS:
            return replace(box, alive=True)
        return replace(box, state="crashed")

    def _read_journal(self, source: Source, used: int) -> _Journal:
        journal = self._journal
        if journal is None or journal.used != used:
            if used > layout.JOURNAL_BYTES:
                raise InvalidBoxError(f"journal of {used} bytes")
            journal = _parse(source.read(layout.JOURNAL_AT, used), used)
            self._journal = journal
        return journal


class BoxDirectory:
    """All boxes of a directory. Safe to use from several threads.

    Attributes:
        releases: notes when processes end without reporting a state, once it is started.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.releases = Releases(descriptor)
        self.invalid_total = 0
        self._files: dict[Key, BoxFile] = {}
        self._ended: dict[Key, Box] = {}
        self._own: set[Key] = set()
        self._invalid: dict[Key, None] = {}  # those that were looked at longest ago first
        self._guard = threading.Lock()
        self._looks = threading.local()

    @contextlib.contextmanager
    def one_look(self) -> Iterator[None]:
        """Within it every `scan` of this thread gives what one look has found: a scrape has many readers."""
        with contextlib.suppress(OSError):  # each reader then finds out by itself
            self._looks.boxes = self.scan()
        try:
            yield
        finally:
            self._looks.boxes = None

    def scan(self, *, ring: bool = False) -> list[Box]:
        """Look at every box now; a file that is not a box is left out and counted once."""
        seen = getattr(self._looks, "boxes", None)
        return self._scan(ring, "") if ring or seen is None else list(seen)

    def scan_of(self, run: str, rank: int) -> list[Box]:
        """Look only at the boxes of a rank, which are found by the names of their files."""
        boxes = self._scan(False, file_prefix(run, rank))
        return [box for box in boxes if (box.identity.run, box.identity.rank) == (run, rank)]

    def _scan(self, ring: bool, prefix: str) -> list[Box]:
        boxes = []
        with self._guard:
            found = [key for key in self._entries() if key[0].startswith(prefix)]
            seen, held = set(found), set()
            for key in self._worth_a_look(found):
                box = self._read_if_box(key, ring)
                if box is not None:
                    boxes.append(box)
                    if box.held and key not in self._own:
                        held.add(key)
            for known in (self._files, self._ended):
                for key in known.keys() - seen:
                    del known[key]
            self._invalid = {key: None for key in self._invalid if key in seen}
            self.releases.watch(held, seen)
        return boxes

    @property
    def invalid(self) -> int:
        """Files of the last scan that are no readable boxes."""
        return len(self._invalid)

    def _entries(self) -> list[Key]:
        return sorted(key for key in files.entries(self.descriptor) if key[0].endswith(BOX_SUFFIX))

    def _worth_a_look(self, found: Sequence[Key]) -> Iterator[Key]:
        """What may be a box. Of files that are not boxes, and of new ones, a bounded number each time."""
        old = set(itertools.islice(self._invalid, _MOST_LOOKED_AT_AGAIN))
        for key in old:  # to the end of the line
            del self._invalid[key]
            self._invalid[key] = None
        looked_at = new = 0
        for key in found:
            if key in self._invalid:
                if key in old:
                    yield key
            elif key in self._files or key in self._ended:
                yield key
            elif looked_at < _MOST_NEW_LOOKED_AT and new < _MOST_NEW:
                looked_at += 1
                if self._has_the_form(key):
                    new += 1
                    yield key
                else:
                    self._note_invalid(key)

    def _has_the_form(self, key: Key) -> bool:
        """Whether it may be a box, by what a look at the file from outside tells."""
        status = files.status(self.descriptor, key[0])
        return status is None or _has_the_form(status)

    def _read_if_box(self, key: Key, ring: bool) -> Box | None:
        box = self._ended.get(key) if not ring else None
        try:
            box = box or self._look(key, ring)
        except InvalidBoxError:
            self._note_invalid(key)
            return None
        except OSError:  # gone between listing and opening
            return None
        self._invalid.pop(key, None)
        if box.held:
            return box
        if box.state not in ("running", "crashed"):  # it closed its box, and writes no more
            self._ended[key] = box
        return replace(box, released=self.releases.time_of(key))

    def _look(self, key: Key, ring: bool) -> Box:
        name, inode = key
        status = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        if not _has_the_form(status) or status.st_ino != inode:
            raise InvalidBoxError("not a file of the right size")
        file = self._files.setdefault(key, BoxFile(name))
        own = own_boxes.get((status.st_dev, inode))
        if own is not None:
            self._own.add(key)
            return file.read(_Own(own), ring=ring)
        self._own.discard(key)
        try:
            descriptor = files.open_regular(self.descriptor, name)
        except PermissionError as error:
            raise InvalidBoxError(f"not readable: {error.strerror}") from error
        try:
            return file.read(_File(descriptor), ring=ring)
        finally:
            os.close(descriptor)

    def _note_invalid(self, key: Key) -> None:
        if key not in self._invalid:
            self._invalid[key] = None
            self.invalid_total += 1


def _has_the_form(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) and status.st_size == layout.SIZE


def _silent(box: Box) -> float | None:
    """Seconds since the heartbeat, where its monotonic clock is ours too."""
    heartbeat = box.number(layout.HEARTBEAT)
    if heartbeat is None or not box.identity.boot_id or box.identity.boot_id != boot_id():
        return None
    # Not of a time to come: of a box that lies, or of a container with a time namespace.
    return age if math.isfinite(age := time.monotonic() - heartbeat) and age >= 0 else None


def _read_values(source: Source) -> tuple[array[int], array[float], array[float]]:
    """Header words, slots, and a block that is whole: tried a bounded number of times."""
    for _ in range(_READ_TRIES):
        head = source.read(0, layout.BLOCKS_AT)
        if len(head) != layout.BLOCKS_AT or head[: layout.WORD] != layout.MAGIC:
            raise InvalidBoxError("no black box")
        words = array("Q", head[: 8 * layout.WORD])
        if words[layout.SIZE_WORD] != layout.SIZE:
            raise InvalidBoxError("another size than it says")
        step = _read_block(source, words[layout.SEQUENCE])
        if step is not None:
            return words, array("d", head[layout.SLOTS_AT : layout.BLOCKS_AT]), step
    raise InvalidBoxError("no whole block")


def _read_block(source: Source, sequence: int) -> array[float] | None:
    """The values of that sequence number or of a later one, None if they were being written."""
    at = layout.BLOCKS_AT + sequence % layout.BLOCK_COPIES * layout.BLOCK_SLOTS * layout.WORD
    done = source.read(at + layout.DONE * layout.WORD, layout.WORD)
    block = source.read(at, layout.BLOCK_SLOTS * layout.WORD)
    begun = source.read(at + layout.BEGUN * layout.WORD, layout.WORD)
    if len(block) != layout.BLOCK_SLOTS * layout.WORD:
        raise InvalidBoxError("truncated")
    mark = array("d", done)[0]
    return array("d", block) if done == begun and mark >= max(1, sequence) else None


def _named(names: Sequence[tuple[Name, int]], numbers: array[float]) -> Iterator[tuple[Name, float]]:
    bits = array("Q", numbers.tobytes())
    for name, index in names:
        if bits[index] != layout.UNSET_BITS:
            yield name, numbers[index]


def _parse(journal: bytes, used: int) -> _Journal:
    lines = journal.splitlines()
    if not lines or len(journal) != used:
        raise InvalidBoxError("no journal")
    identity: BoxIdentity | None = None
    slots: list[tuple[Name, int]] = []
    steps: list[tuple[Name, int]] = []
    infos: dict[tuple[str, str], Name] = {}
    slot_count, step_count = 0, 1
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError as error:
            raise InvalidBoxError("damaged journal") from error
        kind = record[0]
        if kind == "box":
            identity = _identity(record[1])
            infos.clear()
        elif kind == "slot" and slot_count < layout.SLOT_COUNT:
            _keep(slots, record[1], _texts(record[2]), slot_count)
            slot_count += 1
        elif kind == "step" and step_count < layout.BLOCK_SLOTS - 1:
            _keep(steps, record[1], _texts(record[2]), step_count)
            step_count += 1
        elif kind == "info" and record[3] == [] and isinstance(record[1], str):
            infos.pop((record[1], str(record[2])), None)
        elif kind == "info" and _is_known(record[1], _texts(record[3]), "info"):
            infos[record[1], str(record[2])] = (record[1], _texts(record[3]))
    if identity is None:
        raise InvalidBoxError("no identity")
    return _Journal(used, identity, tuple(slots), tuple(steps), tuple(infos.values()))


def _identity(fields: dict[str, object]) -> BoxIdentity:
    run, rank, start = fields["run"], fields["rank"], fields["start"]
    if not run:
        raise InvalidBoxError("run")
    if not isinstance(rank, int) or not 0 <= rank < 1 << 31:
        raise InvalidBoxError("rank")
    if not isinstance(start, (int, float)) or not math.isfinite(start):
        raise InvalidBoxError("start")
    pid, namespace = fields.get("pid", 0), fields.get("pid_namespace", 0)
    return BoxIdentity(
        run=_text(run),
        rank=rank,
        start=float(start),
        pid=pid if isinstance(pid, int) and 0 < pid < 1 << 31 else 0,
        pid_namespace=namespace if isinstance(namespace, int) else 0,
        boot_id=_text(fields.get("boot_id", "")),
        since_boot=_seconds(fields.get("since_boot", 0)),
    )


def _seconds(value: object) -> float:
    number = float(value) if isinstance(value, (int, float)) else 0.0
    return number if math.isfinite(number) and number > 0 else 0.0


def _keep(into: list[tuple[Name, int]], metric: object, labels: tuple[str, ...], index: int) -> None:
    """A slot that this version does not know still takes its place; it is only not shown."""
    if isinstance(metric, str) and (metric.startswith("_") or _is_known(metric, labels, "slot")):
        into.append(((metric, labels), index))


def _texts(labels: list[object]) -> tuple[str, ...]:
    return tuple(_text(label) for label in labels)


def _text(text: object) -> str:
    """A text that can be served: half a surrogate pair in it would break the whole scrape."""
    if not isinstance(text, str) or len(text) > _TEXT_LIMIT:
        raise InvalidBoxError("text")
    return text.encode(errors="replace").decode()


def _is_known(metric: str, labels: tuple[str, ...], kind: str) -> bool:
    """Whether a box may say this: of its rank or its run, and not what readers work out themselves."""
    known = catalogue.BY_NAME.get(metric)
    if known is None or known.level not in ("rank", "run") or known.source not in ("ranks", "health"):
        return False
    if metric in layout.DERIVED or (known.type == "info") != (kind == "info"):
        return False
    if known.type == "histogram":
        return len(labels) == 1 and labels in set(layout.slots_of(known))
    return len(labels) == len(known.labels) and all(
        not label.values or text in label.values for label, text in zip(known.labels, labels, strict=True)
    )


def _ring(source: Source, words: array[int]) -> tuple[layout.RingEntry, ...]:
    """The steps of the ring, oldest first, without those that were overwritten during the reading."""
    count = words[layout.RING_COUNT]
    data = source.read(layout.RING_AT, layout.JOURNAL_AT - layout.RING_AT)
    after = source.read(layout.RING_COUNT * layout.WORD, layout.WORD)
    if len(data) != layout.JOURNAL_AT - layout.RING_AT:
        raise InvalidBoxError("truncated")
    numbers = array("d", data)
    bits = array("Q", data)
    # Of the entry after the newest one, some words may have been written as well.
    first = max(0, array("Q", after)[0] - layout.RING_STEPS + 1)
    entries = []
    for position in range(first, count):
        at = position % layout.RING_STEPS * layout.RING_FIELDS
        step, timestamp, duration = numbers[at : at + 3]
        if not all(math.isfinite(number) for number in (step, timestamp, duration)):
            raise InvalidBoxError("ring")
        loss, norm = (
            None if bits[at + field] == layout.UNSET_BITS else numbers[at + field] for field in (3, 4)
        )
        entries.append(layout.RingEntry(int(step), timestamp, duration, loss, norm))
    return tuple(entries)
