"""The layout of a box, and that what is written is what is read."""

from __future__ import annotations

import math
import struct
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.blackbox.boxes import Bytes, bytes_of, identity, look
from trainbeacon import catalogue
from trainbeacon.blackbox import format as layout
from trainbeacon.blackbox.reader import BoxFile
from trainbeacon.blackbox.writer import Writer

GAUGE = "training_world_size"


@pytest.fixture
def writer() -> Writer:
    return Writer.private(identity())


def test_regions_follow_each_other_without_a_gap_and_fit_in_256_kib() -> None:
    """No region of a box overlaps another, and a rank takes at most 256 KiB."""
    lengths = (
        layout.HEADER_BYTES,
        layout.SLOT_COUNT * layout.WORD,
        layout.BLOCK_COPIES * layout.BLOCK_SLOTS * layout.WORD,
        layout.RING_STEPS * layout.RING_FIELDS * layout.WORD,
        layout.JOURNAL_BYTES,
    )
    starts = (0, layout.SLOTS_AT, layout.BLOCKS_AT, layout.RING_AT, layout.JOURNAL_AT, layout.SIZE)
    assert [sum(lengths[:count]) for count in range(6)] == list(starts)
    assert layout.SIZE <= 256 * 1024


def test_every_word_is_aligned_to_eight_bytes() -> None:
    """All that is stored as a number is aligned, so that one store writes it whole."""
    starts = (layout.SLOTS_AT, layout.BLOCKS_AT, layout.RING_AT)
    assert [start % layout.WORD for start in starts] == [0, 0, 0]
    words = (layout.MAGIC_WORD, layout.SIZE_WORD, layout.JOURNAL_USED, layout.SEQUENCE, layout.RING_COUNT)
    assert len({*words, layout.STATE}) == 6
    assert layout.STATE * layout.WORD < layout.HEADER_BYTES


def test_all_that_a_rank_and_a_run_may_serve_has_a_slot(writer: Writer) -> None:
    """The catalogue's fixed slots and a full run-level budget fit in one box with nothing dropped."""
    for metric in filter(layout.is_fixed, catalogue.ALL):
        for labels in layout.slots_of(metric):
            writer.declare(metric.name, labels)
    for number in range(catalogue.BUDGETS["run"]):
        writer.declare("training_metric", (f"a user's metric of some length, number {number}", "validation"))
    assert writer.dropped == 0


@given(st.floats(allow_nan=False) | st.integers(-(2**53), 2**53).map(float))
def test_a_number_is_read_back_to_the_bit(number: float) -> None:
    """Floats, infinities, minus zero, and integers up to 2^53 come back exactly, from slots and blocks."""
    slot, step = _WRITER_SLOT, _WRITER_STEP
    _WRITER.slots[slot] = number
    _WRITER.step[step] = number
    _WRITER.commit()
    box = look(_WRITER)
    expected = struct.pack("d", number)
    assert struct.pack("d", box.values[GAUGE, ()]) == expected
    assert struct.pack("d", box.values["training_loss", ("train",)]) == expected


_WRITER = Writer.private(identity())
_WRITER_SLOT = _WRITER.declare(GAUGE)
_WRITER_STEP = _WRITER.declare("training_loss", ("train",))


def test_unset_is_told_from_nan(writer: Writer) -> None:
    """A value never written has no entry; a NaN that a script logged is a value; unset takes it back."""
    slot = writer.declare(GAUGE)
    loss = writer.declare("training_loss", ("train",))
    writer.commit()
    assert look(writer).values == {}
    writer.slots[slot] = math.nan
    writer.step[loss] = -math.nan
    writer.commit()
    box = look(writer)
    assert math.isnan(box.values[GAUGE, ()])
    assert math.isnan(box.values["training_loss", ("train",)])
    writer.unset(slot)
    assert look(writer).number(GAUGE) is None


def test_the_values_of_a_step_are_seen_together_after_commit(writer: Writer) -> None:
    """What is written into `step` shows only once it is committed, all at once."""
    loss, step = writer.declare("training_loss", ("train",)), writer.declare("training_step")
    writer.step[loss], writer.step[step] = 0.5, 1.0
    writer.commit()
    writer.step[loss], writer.step[step] = 0.25, 2.0
    box = look(writer)
    assert (box.number("training_loss", "train"), box.number("training_step")) == (0.5, 1.0)
    writer.commit()
    box = look(writer)
    assert (box.number("training_loss", "train"), box.number("training_step")) == (0.25, 2.0)


def test_a_newer_writer_is_read_as_far_as_it_is_known(writer: Writer) -> None:
    """Metrics, labels and records that this version does not know are left out; the rest keeps its place."""
    slots = writer.slots
    slots[writer.declare("training_quantum_entropy", ("up",))] = 1.0
    slots[writer.declare("training_accuracy_ratio", ("holdout",))] = 2.0
    slots[writer.declare("training_accuracy_ratio", ("train", "extra"))] = 3.0
    writer._append(["poem", {"of": ["a", "newer", "version"]}])
    slots[writer.declare("training_accuracy_ratio", ("test",))] = 4.0
    writer.step[writer.declare("training_loss", ("holdout",))] = 5.0
    writer.step[writer.declare("training_loss", ("train",))] = 6.0
    writer.info("training_flavour_info", ["sweet"])
    writer.info("training_failure_info", ["ValueError", "other"])
    writer.commit()
    box = look(writer)
    assert box.values == {("training_accuracy_ratio", ("test",)): 4.0, ("training_loss", ("train",)): 6.0}
    assert box.infos == (("training_failure_info", ("ValueError", "other")),)


@pytest.mark.parametrize("metric", ["training_metric", "training_loss"])
def test_a_full_table_of_names_drops_and_counts(writer: Writer, metric: str) -> None:
    """Names beyond the room are counted as dropped, and storing to the index they got does no harm."""
    kept = 0
    while writer.dropped < 5:
        at = writer.declare(metric, (f"name {kept}", "train") if metric == "training_metric" else ("train",))
        if writer.dropped == 0:
            kept += 1
        (writer.slots if metric == "training_metric" else writer.step)[at] = float(kept)
    writer.commit()
    box = look(writer)
    expected = layout.SLOT_COUNT - 1 if metric == "training_metric" else 1  # all have the same name there
    assert len(box.values) == min(expected, kept)
    assert box.state == "running"


def test_a_full_journal_drops_and_counts(writer: Writer) -> None:
    """Texts beyond the journal's room are counted as dropped; the box stays readable with the others."""
    for number in range(2000):
        writer.info("training_run_tag_info", [f"tag {number}", "x" * 200], key=str(number))
    box = look(writer)
    assert 0 < len(box.infos) == 2000 - writer.dropped


def test_an_info_is_replaced_by_its_key(writer: Writer) -> None:
    """A later text with the same metric and key takes the earlier one's place; other keys stay."""
    writer.info("training_run_tag_info", ["team", "nlp"], key="team")
    writer.info("training_run_tag_info", ["stage", "one"], key="stage")
    writer.info("training_run_tag_info", ["team", "vision"], key="team")
    assert look(writer).infos == (
        ("training_run_tag_info", ("team", "vision")),
        ("training_run_tag_info", ("stage", "one")),
    )


def test_a_reader_sees_names_that_come_later() -> None:
    """A reader that keeps a box shows names declared after its first look."""
    writer = Writer.private(identity())
    file = BoxFile("test.box")
    file.read(Bytes(bytes_of(writer)))
    writer.slots[writer.declare(GAUGE)] = 8.0
    assert file.read(Bytes(bytes_of(writer))).number(GAUGE) == 8.0


def test_the_ring_keeps_the_last_steps_in_order(writer: Writer) -> None:
    """The ring gives the last 1,023 steps, oldest first, and None where nothing was logged."""
    for step in range(1, 3001):
        unset = layout.UNSET
        writer.add_to_ring(step, step * 2.0, 0.5, unset if step % 2 else step / 4, unset if step % 3 else 9.0)
    ring = look(writer, ring=True).ring
    assert [entry.step for entry in ring] == list(range(1978, 3001))
    assert ring[-1] == layout.RingEntry(3000, 6000.0, 0.5, 750.0, 9.0)
    assert ring[-2] == layout.RingEntry(2999, 5998.0, 0.5, None, None)


def test_the_newest_ring_entry_gets_a_loss_that_came_late(writer: Writer) -> None:
    """A loss logged after its step has ended is in the ring with that step."""
    assert not writer.amend_ring(0, layout.RING_LOSS, 1.0)  # there is no such step yet
    writer.add_to_ring(1, 10.0, 0.5, layout.UNSET, layout.UNSET)
    assert writer.amend_ring(0, layout.RING_LOSS, 0.75)
    assert look(writer, ring=True).ring == (layout.RingEntry(1, 10.0, 0.5, 0.75, None),)


def test_a_number_that_comes_far_too_late_hits_no_other_step(writer: Writer) -> None:
    """Once half the ring has been written since, a step stays without its number."""
    for step in range(layout.RING_STEPS):
        writer.add_to_ring(step, step, 0.5, 1.0, 2.0)
    assert writer.amend_ring(-1, layout.RING_LOSS, 9.0)  # of no step at all
    assert writer.amend_ring(layout.RING_STEPS // 2 - 1, layout.RING_NORM, 9.0)
    assert writer.amend_ring(layout.RING_STEPS // 2, layout.RING_NORM, 8.0)
    norms = [entry.gradient_norm for entry in look(writer, ring=True).ring]
    assert [number for number in norms if number != 2.0] == [8.0]


def test_the_first_last_word_counts(writer: Writer) -> None:
    """A run that failed is not made finished by what runs afterwards."""
    writer.end("failed")
    writer.end("finished")
    assert look(writer, held=False).state == "failed"


@pytest.mark.parametrize("state", ["finished", "failed", "exited"])
def test_a_last_word_is_read_whether_the_lock_is_held_or_not(writer: Writer, state: str) -> None:
    """The state at the end is what the process reported; without that and without a lock it is a crash."""
    assert look(writer, held=False).state == "crashed"
    assert look(writer, held=True).state == "running"
    writer.end(state)
    assert {look(writer, held=held).state for held in (False, True)} == {state}


def test_names_may_come_from_several_threads_at_once(writer: Writer) -> None:
    """Each name has its own slot and the journal stays readable, whoever declares while others do."""
    slots: list[tuple[str, int]] = []

    def declare(thread: int) -> None:
        for number in range(100):
            name = f"{thread}.{number}"
            slots.append((name, writer.declare("training_metric", [name, "train"])))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=declare, args=(thread,)) for thread in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    for name, slot in slots:
        writer.slots[slot] = float(hash(name) % 1000)
    box = look(writer)
    assert len(slots) == 800
    assert all(box.number("training_metric", name, "train") == hash(name) % 1000 for name, _ in slots)
