"""The training process's side of a black box: numbers go into memory, one store each.

To store a number takes no lock and no system call, and nothing grows with steps. One thread
records (the one that trains); the heartbeat slots belong to the helper thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import secrets
import threading
import weakref
from array import array
from collections.abc import Mapping, Sequence

from . import files
from . import format as layout
from .directory import BOX_SUFFIX, default_directory, file_prefix, open_directory
from .own import own_boxes
from .retention import make_room

_ALL = slice(None)
_BEGUN, _SEQUENCE, _LAST_COPY = layout.BEGUN, layout.SEQUENCE, layout.BLOCK_COPIES - 1
_UNSET_BLOCK = layout.UNSET_BYTES * layout.BLOCK_SLOTS

_writers: weakref.WeakSet[Writer] = weakref.WeakSet()
#: Mappings whose descriptors other code closed. An mmap has a descriptor of its own, and its number may
#: be a file of that code by now, which taking the mapping down would close: so it never is.
_abandoned: list[mmap.mmap] = []


class Writer:
    """One rank's black box, or, where none can be had, private memory of the same form.

    Attributes:
        slots: single values, by the index that `declare` gave; one aligned store each.
        step: values that must agree of one step; seen by readers after `commit`.
        path: where the box lies, None for private memory.
    """

    slots: memoryview[float]
    step: array[float]

    def __init__(self, memory: mmap.mmap, path: str | None = None, descriptor: int = -1) -> None:
        self.path = path
        self._descriptor = descriptor
        self._key: tuple[int, int] | None = None
        self._slot_count = 0
        self._step_count = 1  # a block begins and ends with a mark
        self._journal_used = 0
        self._sequence = 0
        self._ring_count = 0
        self._life = threading.Lock()  # of `hold_lock` and `close`
        self._directory: str | None = None
        self._naming = threading.Lock()  # new names may come from any thread; numbers need no lock
        self.dropped = 0
        self._map(memory)
        self.step = array("d", _UNSET_BLOCK)
        self._step_values = memoryview(self.step)[1:-1]
        self.slots.cast("B")[:] = layout.UNSET_BYTES * layout.SLOT_COUNT
        _writers.add(self)

    @classmethod
    def create(cls, directory: str | None, identity: Mapping[str, object]) -> Writer:
        """Make a box in `directory` (see `open_directory`). Raises OSError where it cannot be had.

        The file gets all its blocks at once under a temporary name, is locked and described, and
        only then renamed into place, so that no reader sees half a box and a full file system
        shows here and not as a SIGBUS in training.
        """
        folder = open_directory(directory)
        try:
            with contextlib.suppress(OSError):  # what cannot be tidied up is no reason to go without a box
                make_room(folder)
            return cls._create_in(folder, directory, identity)
        finally:
            os.close(folder)

    @classmethod
    def private(cls, identity: Mapping[str, object]) -> Writer:
        """The same in memory that no other process sees: what training goes on with without a box."""
        writer = cls(mmap.mmap(-1, layout.SIZE))
        writer._describe(identity)
        return writer

    @classmethod
    def _create_in(cls, folder: int, directory: str | None, identity: Mapping[str, object]) -> Writer:
        temporary, descriptor, memory = _new_file(folder)
        try:
            writer = cls(memory, descriptor=descriptor)
            writer._describe(identity)
            writer._key = _key(descriptor)
            writer._directory = directory and os.path.abspath(directory)
            own_boxes[writer._key] = writer  # before a reader in this process can see the file
            prefix = file_prefix(str(identity.get("run", "")), identity.get("rank", 0))
            name = f"{prefix}{secrets.token_hex(6)}{BOX_SUFFIX}"
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            own_boxes.pop(_key(descriptor), None)
            os.close(descriptor)
            files.remove(folder, temporary)
            raise
        writer.path = os.path.join(writer._directory or os.path.abspath(default_directory()), name)
        return writer

    # Names

    def declare(self, metric: str, labels: Sequence[str] = ()) -> int:
        """Name the next slot and return its index; `format.SINK`, counted in `dropped`, without room.

        A metric of `format.STEP_METRICS` gets an index of `step`, any other one of `slots`.
        """
        coherent = metric in layout.STEP_METRICS
        with self._naming:
            index = self._step_count if coherent else self._slot_count
            room = index < (layout.BLOCK_SLOTS - 1 if coherent else layout.SINK)
            if not room or not self._append(["step" if coherent else "slot", metric, list(labels)]):
                self.dropped += 1
                return 0 if coherent else layout.SINK
            if coherent:
                self._step_count += 1
            else:
                self._slot_count += 1
            return index

    def info(self, metric: str, labels: Sequence[str], key: str = "") -> None:
        """Set the text of an info series; a later one with the same metric and key replaces it.

        One without any label takes it away.
        """
        with self._naming:
            if not self._append(["info", metric, key, list(labels)]):
                self.dropped += 1

    def identify(self, fields: Mapping[str, object]) -> None:
        """Say anew whose box it is: what was described before is forgotten, slots keep their numbers."""
        with self._naming:
            if not self._append(["box", dict(fields)]):
                raise OSError("the journal of the black box is full")

    # Values

    def commit(self) -> None:
        """Publish `step`: written to the oldest copy, at which no reader looks, then named by one store."""
        sequence = self._sequence = self._sequence + 1
        copy, values = self._blocks[sequence & _LAST_COPY]
        copy[_BEGUN] = sequence
        values[_ALL] = self._step_values
        copy[0] = sequence
        self._words[_SEQUENCE] = sequence

    def add_to_ring(self, step: float, timestamp: float, duration: float, loss: float, norm: float) -> None:
        """Append one step to the ring of the last 1,024; `format.UNSET` where nothing was logged."""
        count = self._ring_count
        at = count % layout.RING_STEPS * layout.RING_FIELDS
        ring = self._ring
        ring[at] = step
        ring[at + 1] = timestamp
        ring[at + 2] = duration
        ring[at + 3] = loss
        ring[at + 4] = norm
        self._ring_count = self._words[layout.RING_COUNT] = count + 1

    def give_last_its_loss(self, loss: float) -> None:
        """Give the step that was appended last a loss that was not known when it ended."""
        self._ring[(self._ring_count - 1) % layout.RING_STEPS * layout.RING_FIELDS + layout.RING_LOSS] = loss

    @property
    def ring_count(self) -> int:
        """Entries ever added to the ring: the number of the next one."""
        return self._ring_count

    def amend_ring(self, entry: int, field: int, value: float) -> bool:
        """Give an entry of the ring a number that was not known when its step ended; from any thread.

        Args:
            entry: what `ring_count` was before it was added.
            field: `format.RING_LOSS` or `format.RING_NORM`.
            value: the number.

        Returns:
            False if there is no such entry yet. An old one stays as it is, long before its place is
            used again: whoever is held up in here must not hit another step.
        """
        age = self._ring_count - entry
        if entry >= 0 and 0 < age <= layout.RING_STEPS // 2:
            self._ring[entry % layout.RING_STEPS * layout.RING_FIELDS + field] = value
        return age > 0

    def unset(self, slot: int) -> None:
        """Make a slot read as never written."""
        self.slots[slot] = layout.UNSET

    # Life

    def end(self, state: str) -> None:
        """Report how the process ends: `finished`, `failed` or `exited`. The first report counts."""
        if self._words[layout.STATE] == layout.STATE_CODES["running"]:
            self._words[layout.STATE] = layout.STATE_CODES[state]

    def go_on(self) -> None:
        """Take back what `end` reported: the process is still at work."""
        self._words[layout.STATE] = layout.STATE_CODES["running"]

    def hold_lock(self) -> None:
        """Keep the box where readers find it, and its life lock; for the background thread, once a second.

        Other code of the process may have opened and closed the file (which frees the lock) or closed our
        descriptor; and file or folder may have been removed, as at the logout of a user. The box is then made
        again, with all that it held. Takes some microseconds, or a millisecond where it is made again.

        Threads: beside the one that records; what that one adds to a counter in the very moment in which
        the box is made again may be lost.

        Raises:
            OSError: the box cannot be held any more, or made again now; the next call tries it again.
        """
        with self._life:
            if self._descriptor < 0 or self.path is None:
                return
            if not self._is_where_it_was():
                self._make_again(self.path)
            if not self._is_ours():
                _abandoned.append(self._memory)
                self._descriptor = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _is_where_it_was(self) -> bool:
        with contextlib.suppress(OSError):
            status = os.lstat(str(self.path))
            return (status.st_dev, status.st_ino) == self._key
        return False

    def _make_again(self, path: str) -> None:
        """A new file with all that the old one held, in its place."""
        folder = open_directory(self._directory)
        try:
            temporary, descriptor, memory = _new_file(folder)
            key = _key(descriptor)
            own_boxes[key] = self
            try:
                memory[:] = self._memory[:]
                os.rename(temporary, os.path.basename(path), src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                own_boxes.pop(key, None)
                os.close(descriptor)
                files.remove(folder, temporary)
                raise
        finally:
            os.close(folder)
        old = self._memory
        self._map(memory)
        self._let_go(old)
        self._descriptor, self._key = descriptor, key

    def _let_go(self, memory: mmap.mmap) -> None:
        """Close the file that was mapped so, which frees its lock."""
        if self._is_ours():
            os.close(self._descriptor)
        elif self._key is not None:
            _abandoned.append(memory)
        if self._key is not None:
            own_boxes.pop(self._key, None)

    def close(self) -> None:
        """Give up the lock. The box stays for the exporter; what is recorded later is lost.

        Threads: any; waits for a `hold_lock` that is going on.
        """
        with self._life:
            self._close()

    def _close(self) -> None:
        memory = self._memory
        self._detach()
        self._let_go(memory)
        self._descriptor, self._key, self.path = -1, None, None

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the box, through the mapping: for a reader in the same process."""
        return self._memory[offset : offset + length]

    # The rest is the box's own business.

    def _map(self, memory: mmap.mmap) -> None:
        self._memory = memory
        whole = memoryview(memory)
        self._words: memoryview[int] = whole[: layout.HEADER_BYTES].cast("Q")
        self.slots = whole[layout.SLOTS_AT : layout.BLOCKS_AT].cast("d")
        blocks = whole[layout.BLOCKS_AT : layout.RING_AT].cast("d")
        copies = [blocks[at : at + layout.BLOCK_SLOTS] for at in range(0, len(blocks), layout.BLOCK_SLOTS)]
        self._blocks = [(copy, copy[1:-1]) for copy in copies]
        self._ring = whole[layout.RING_AT : layout.JOURNAL_AT].cast("d")
        self._journal = whole[layout.JOURNAL_AT : layout.SIZE]

    def _describe(self, identity: Mapping[str, object]) -> None:
        self._append(["box", dict(identity)])
        self.commit()
        self._words[layout.SIZE_WORD] = layout.SIZE
        self._words.cast("B")[: layout.WORD] = layout.MAGIC

    def _append(self, record: list[object]) -> bool:
        line = json.dumps(record, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
        end = self._journal_used + len(line)
        if end > layout.JOURNAL_BYTES:
            return False
        self._journal[self._journal_used : end] = line
        self._journal_used = end
        self._words[layout.JOURNAL_USED] = end
        return True

    def _is_ours(self) -> bool:
        try:
            return _key(self._descriptor) == self._key
        except OSError:
            return False

    def _detach(self) -> None:
        """Go on in private memory: the stores of a stray caller must not reach a box that is over."""
        self._map(mmap.mmap(-1, layout.SIZE))
        self.slots.cast("B")[:] = layout.UNSET_BYTES * layout.SLOT_COUNT


def _key(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _new_file(folder: int) -> tuple[str, int, mmap.mmap]:
    """A file of the right size under a temporary name, locked and mapped: its name, descriptor and memory."""
    temporary = f"{files.TEMPORARY_PREFIX}{secrets.token_hex(6)}"
    descriptor = files.create(folder, temporary)
    try:
        os.fchmod(descriptor, 0o640)
        _allocate(descriptor)
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return temporary, descriptor, mmap.mmap(descriptor, layout.SIZE)
    except BaseException:
        os.close(descriptor)
        files.remove(folder, temporary)
        raise


def _allocate(descriptor: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, layout.SIZE)
    else:  # macOS
        os.write(descriptor, bytes(layout.SIZE))


def _leave_to_the_parent() -> None:
    """In a forked child: the boxes, and the lock, stay the parent's."""
    for writer in list(_writers):
        writer._close()  # without its lock, which a thread of the parent's may hold


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_the_parent)
