"""The order of a block's marks: every interleaving of one commit with one read, without timing.

The writer's stores are recorded from a real commit, and a real reader's loads are put between them in every
order. A reader may find no whole block and look again; it must never take the values of two steps for one.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from tests.unit.blackbox.boxes import identity
from trainbeacon.blackbox import format as layout
from trainbeacon.blackbox.reader import BoxFile
from trainbeacon.blackbox.writer import Writer

BLOCK_BYTES = layout.BLOCK_SLOTS * layout.WORD
#: The parts of the read of one block, in order: a mark, the values in two halves, the other mark.
PARTS = 4


@dataclass(frozen=True)
class Store:
    """One aligned store of the writer."""

    at: int
    data: bytes


class Recording:
    """Stands before a part of the box's memory: does each store, and keeps it."""

    def __init__(self, memory: memoryview, base: int, form: str, kept: list[Store]) -> None:
        self._memory, self._base, self._form, self._kept = memory, base, form, kept

    def __setitem__(self, where: int | slice, value: object) -> None:
        self._memory[where] = value  # type: ignore[assignment]
        for index in range(len(self._memory))[where] if isinstance(where, slice) else [where]:
            data = struct.pack(f"={self._form}", self._memory[index])
            self._kept.append(Store(self._base + index % len(self._memory) * layout.WORD, data))


def stores_of_a_commit(writer: Writer) -> list[Store]:
    """What one commit stores, in its order."""
    before, kept = writer.read(0, layout.SIZE), list[Store]()
    words, blocks = writer._words, writer._blocks
    writer._words = Recording(words, 0, "Q", kept)  # type: ignore[assignment]
    writer._blocks = [  # type: ignore[assignment]
        (Recording(whole, at, "d", kept), Recording(values, at + layout.WORD, "d", kept))
        for at, (whole, values) in zip(itertools.count(layout.BLOCKS_AT, BLOCK_BYTES), blocks, strict=False)
    ]
    writer.commit()
    writer._words, writer._blocks = words, blocks
    memory = bytearray(before)
    apply(memory, kept)
    assert bytes(memory) == writer.read(0, layout.SIZE), "a store escaped the recording"
    return [store for store in kept if before[store.at : store.at + layout.WORD] != store.data]


def apply(memory: bytearray, stores: Sequence[Store]) -> None:
    for store in stores:
        memory[store.at : store.at + len(store.data)] = store.data


class Interleaved:
    """What a reader sees whose loads fall between the stores as a schedule says.

    Its first look at the header was long ago: since then the writer has come round to the same block.
    """

    def __init__(
        self, long_ago: bytes, before: bytes, stores: Sequence[Store], schedule: Sequence[int]
    ) -> None:
        self._long_ago, self._before, self._stores = long_ago, before, stores
        self._schedule = [*schedule]
        self._looks = 0

    def read(self, offset: int, length: int) -> bytes:
        self._looks += 1
        if self._looks == 1:
            return self._long_ago[offset : offset + length]
        if length == BLOCK_BYTES:
            middle = offset + 2 * layout.WORD  # between the two values
            return self._see()[offset:middle] + self._see()[middle : offset + length]
        return self._see()[offset : offset + length]

    def _see(self) -> bytes:
        memory = bytearray(self._before)
        apply(memory, self._stores[: self._schedule.pop(0)] if self._schedule else self._stores)
        return bytes(memory)

    def lock_held(self) -> bool:
        return True


def torn(stores: Sequence[Store], long_ago: bytes, before: bytes) -> tuple[int, int]:
    """Of all interleavings of these stores with one read: how many show two steps as one; how many are."""
    found = count = 0
    for schedule in itertools.combinations_with_replacement(range(len(stores) + 1), PARTS):
        box = BoxFile("box").read(Interleaved(long_ago, before, stores, schedule))
        values = {box.number("training_loss", split) for split in ("train", "validation")}
        found, count = found + (len(values) != 1), count + 1
    return found, count


@pytest.fixture(scope="module")
def commit() -> Iterator[tuple[list[Store], bytes, bytes]]:
    """A commit that overwrites a block which a reader is about to read: its stores, and the box before."""
    writer = Writer.private(identity())
    slots = [writer.declare("training_loss", [split]) for split in ("train", "validation")]
    assert [1, 2] == slots

    def set_values(step: float) -> None:
        for slot in slots:
            writer.step[slot] = step

    set_values(1.0)
    writer.commit()
    long_ago = writer.read(0, layout.SIZE)
    for step in range(2, layout.BLOCK_COPIES + 1):
        set_values(float(step))
        writer.commit()
    set_values(100.0)
    before = writer.read(0, layout.SIZE)
    stores = stores_of_a_commit(writer)
    yield stores, long_ago, before
    writer.close()


def test_no_interleaving_shows_two_steps_as_one(commit: tuple[list[Store], bytes, bytes]) -> None:
    """In whatever order the values are copied, between the two marks."""
    stores, long_ago, before = commit
    begun, *values, done, sequence = stores
    assert 2 == len(values)
    for order in itertools.permutations(values):
        assert (0, 126) == torn([begun, *order, done, sequence], long_ago, before)


@pytest.mark.parametrize(
    "order",
    [(3, 1, 2, 0, 4), (0, 3, 1, 2, 4), (1, 2, 0, 3, 4), (1, 0, 3, 2, 4)],
    ids=["marks swapped", "both before", "both after", "both between"],
)
def test_another_order_of_the_marks_would_be_seen(
    order: Sequence[int], commit: tuple[list[Store], bytes, bytes]
) -> None:
    """The same check finds torn values where the writer stores its marks in another order."""
    stores, long_ago, before = commit
    assert torn([stores[index] for index in order], long_ago, before)[0] > 0
