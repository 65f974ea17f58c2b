"""Readers never see a mixture: hammered from another process, as fast as both can."""

from __future__ import annotations

import os
import resource
import struct
import time
from array import array
from pathlib import Path

import pytest

from tests.unit.blackbox.boxes import Bytes, identity, process
from trainbeacon.blackbox import format as layout
from trainbeacon.blackbox.reader import BoxFile, InvalidBoxError, Source, _File, _read_values
from trainbeacon.blackbox.writer import Writer

HAMMER = """
from array import array
writer = create(sys.argv[1])
for number in range(layout.BLOCK_SLOTS):
    writer.declare("training_loss", ("train",))
patterns = [float.fromhex("0x1.1111111111111p+100"), float.fromhex("-0x1.eeeeeeeeeeeeep-900")]
room = layout.BLOCK_SLOTS - 2
blocks = [array("d", [float(number)]) * room for number in range(64)]
writer.step[1:-1] = blocks[0]
writer.commit()
ready()
number = 0
while True:
    number += 1
    writer.step[1:-1] = blocks[number & 63]
    writer.commit()
    writer.slots[100] = patterns[number & 1]
    if sys.argv[2] == "ring":
        writer.add_to_ring(number, number, number, number, number)
    if sys.argv[2] == "busy":
        until = time.perf_counter() + 20e-6
        while time.perf_counter() < until:
            pass
"""
PATTERNS = {float.fromhex("0x1.1111111111111p+100"), float.fromhex("-0x1.eeeeeeeeeeeeep-900")}


def open_box(folder: Path) -> Source:
    [name] = os.listdir(folder)
    return _File(os.open(folder / name, os.O_RDONLY))


def interruptions() -> int:
    """How often the kernel has taken the processor away from this thread."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw


def test_blocks_and_slots_are_never_torn(tmp_path: Path) -> None:
    """Of a writer that commits without a pause, every block read is of one commit and every slot is whole."""
    reads = mixed = torn = 0
    seen = set()
    with process(HAMMER, tmp_path, "blocks"):
        source = open_box(tmp_path)
        end = time.monotonic() + 3.0
        while time.monotonic() < end:
            reads += 1
            try:
                _, slots, step = _read_values(source)
            except InvalidBoxError:
                continue
            values = set(step[1:-1])
            seen |= values
            mixed += len(values) != 1
            torn += slots[100] not in PATTERNS and reads > 1000
    assert (mixed, torn) == (0, 0)
    assert len(seen) > 10  # the writer was at work


def test_readers_of_a_busy_writer_do_not_give_up(tmp_path: Path) -> None:
    """Of a writer that commits up to fifty thousand times a second, far more than any training, at most one
    read in a thousand gives up of those that keep their processor; one that loses it meets more commits
    than there are copies."""
    reads = given_up = 0
    with process(HAMMER, tmp_path, "busy"):
        source = open_box(tmp_path)
        end = time.monotonic() + 3.0
        while time.monotonic() < end:
            interrupted = interruptions()
            try:
                _read_values(source)
            except InvalidBoxError:
                given_up += interruptions() == interrupted
            reads += 1
    assert given_up <= max(1, reads / 1000)


def test_the_ring_is_never_torn(tmp_path: Path) -> None:
    """The ring of a writer that never rests is read as whole entries of steps in sequence."""
    looks = 0
    with process(HAMMER, tmp_path, "ring"):
        source = open_box(tmp_path)
        file = BoxFile("test.box")
        end = time.monotonic() + 2.0
        while time.monotonic() < end:
            try:
                ring = file.read(source, ring=True).ring
            except InvalidBoxError:
                continue
            for entry in ring:
                fields = {entry.step, entry.timestamp, entry.duration, entry.loss, entry.gradient_norm}
                assert len(fields) == 1
            steps = [entry.step for entry in ring]
            assert steps == list(range(steps[0], steps[0] + len(steps))) if steps else True
            looks += bool(steps)
    assert looks > 10


class Overtaken:
    """A box whose writer begins to overwrite a block between two reads of one look."""

    def __init__(self, writer: Writer, at_read: int, commits: int) -> None:
        self.writer = writer
        self.reads = 0
        self.at_read = at_read
        self.commits = commits

    def read(self, offset: int, length: int) -> bytes:
        self.reads += 1
        if self.reads == self.at_read:
            for _ in range(self.commits):
                self.writer.step[1:-1] = array("d", [self.writer.step[1] + 1.0]) * (layout.BLOCK_SLOTS - 2)
                self.writer.commit()
        return self.writer.read(offset, length)

    def lock_held(self) -> bool:
        return True


def test_a_block_overwritten_between_two_reads_is_read_again() -> None:
    """However many commits come between any two reads of a look, the block is of one commit."""
    for at_read in range(1, 6):
        for commits in (1, layout.BLOCK_COPIES - 1, layout.BLOCK_COPIES, layout.BLOCK_COPIES * 3 + 1):
            writer = Writer.private(identity())
            writer.step[1:-1] = array("d", [1.0]) * (layout.BLOCK_SLOTS - 2)
            writer.commit()
            _, _, step = _read_values(Overtaken(writer, at_read, commits))
            assert len(set(step[1:-1])) == 1


def test_a_half_written_block_is_not_taken_in_whatever_order_it_was_copied() -> None:
    """With the first mark of a new block stored and any part of its values, the old block is refused."""
    writer = Writer.private(identity())
    writer.commit()
    data = bytearray(writer.read(0, layout.SIZE))
    sequence = struct.unpack_from("Q", data, layout.SEQUENCE * 8)[0]
    at = layout.BLOCKS_AT + sequence % layout.BLOCK_COPIES * layout.BLOCK_SLOTS * 8
    struct.pack_into("d", data, at + layout.BEGUN * 8, float(sequence + layout.BLOCK_COPIES))

    with pytest.raises(InvalidBoxError, match="no whole block"):
        _read_values(Bytes(bytes(data)))
