"""Files that are no boxes, or no whole ones: they are left out and counted, and nothing else happens."""

from __future__ import annotations

import json
import os
import random
import struct
from pathlib import Path

import pytest

from tests.unit.blackbox.boxes import Bytes, boxes_in, bytes_of, identity, look
from trainbeacon import catalogue
from trainbeacon.blackbox import format as layout
from trainbeacon.blackbox.reader import BoxDirectory, BoxFile, InvalidBoxError
from trainbeacon.blackbox.writer import Writer
from trainbeacon.exporter.collectors.base import Families
from trainbeacon.exporter.collectors.ranks import RanksCollector


def filled() -> bytes:
    """A box with something in every region."""
    writer = Writer.private(identity())
    for metric in list(filter(layout.is_fixed, catalogue.ALL))[::4]:
        for labels in layout.slots_of(metric):
            at = writer.declare(metric.name, labels)
            (writer.step if metric.name in layout.STEP_METRICS else writer.slots)[at] = 1.5
    writer.info("training_run_info", ["id", "project", "owner", "none", ""])
    for step in range(layout.RING_STEPS + 10):
        writer.add_to_ring(step, step, 0.1, 0.5, 0.5)
    writer.commit()
    return bytes_of(writer)


WHOLE = filled()


def journal_of(*records: object) -> bytes:
    """A box whose journal has these records; those that are bytes are taken as they are."""
    lines = [record if isinstance(record, bytes) else json.dumps(record).encode() for record in records]
    text = b"\n".join(lines) + b"\n"
    data = bytearray(WHOLE)
    data[layout.JOURNAL_AT : layout.JOURNAL_AT + len(text)] = text
    data[layout.JOURNAL_USED * 8 : layout.JOURNAL_USED * 8 + 8] = struct.pack("Q", len(text))
    return bytes(data)


def with_word(word: int, number: int) -> bytes:
    return WHOLE[: word * 8] + struct.pack("Q", number) + WHOLE[word * 8 + 8 :]


BOX = ["box", identity()]


def is_invalid(data: bytes, *, ring: bool = True) -> bool:
    """Whether the box is refused; any other exception comes out."""
    try:
        BoxFile("test.box").read(Bytes(data, held=False), ring=ring)
    except InvalidBoxError:
        return True
    return False


def test_a_whole_box_is_read() -> None:
    """The box that the other tests damage is a good one."""
    assert not is_invalid(WHOLE)


def test_a_truncated_box_is_refused_at_any_length() -> None:
    """A file that ends early is invalid, wherever it ends, also when it shrinks during the reading."""
    used = struct.unpack_from("Q", WHOLE, layout.JOURNAL_USED * 8)[0]
    edges = (0, 8, 64, layout.SLOTS_AT, layout.BLOCKS_AT, layout.RING_AT, layout.JOURNAL_AT)
    lengths = {edge + by for edge in edges for by in (-9, -1, 0, 1, 7, 8, 1000) if edge + by >= 0}
    lengths = {length for length in lengths if length < layout.JOURNAL_AT + used} | {
        layout.JOURNAL_AT + used - 1
    }
    assert [length for length in sorted(lengths) if not is_invalid(WHOLE[:length])] == []


def test_random_damage_never_raises_anything_else() -> None:
    """2,000 boxes with damage anywhere are either read or refused; no other exception comes out."""
    chance = random.Random(20)
    regions = (
        (0, 64),
        (0, layout.SIZE),
        (layout.BLOCKS_AT, layout.RING_AT),
        (layout.JOURNAL_AT, layout.JOURNAL_AT + 2500),
    )
    refused = 0
    for number in range(2000):
        data = bytearray(WHOLE)
        start, end = chance.choice(regions)
        for _ in range(chance.choice((1, 1, 3, 30))):
            data[chance.randrange(start, end)] = chance.choice((0, 0xFF, 0x22, 0x5B, chance.randrange(256)))
        refused += is_invalid(bytes(data), ring=number % 10 == 0)
    assert 200 < refused < 1990


EXTREMES = (0, 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1)


@pytest.mark.parametrize("number", EXTREMES)
@pytest.mark.parametrize(
    "word", [layout.SIZE_WORD, layout.JOURNAL_USED, layout.SEQUENCE, layout.RING_COUNT, layout.STATE]
)
def test_header_words_at_their_extremes(word: int, number: int) -> None:
    """A counter of the header may say anything: the box is read or refused, in bounded time."""
    is_invalid(with_word(word, number))


def test_a_sequence_ahead_of_its_block_is_refused() -> None:
    """A header that names a block which was never written does not make an old one look new."""
    assert is_invalid(with_word(layout.SEQUENCE, 2**40))
    assert is_invalid(with_word(layout.SEQUENCE, 0))


def test_a_ring_that_claims_more_than_it_has_gives_no_more_than_it_can() -> None:
    """However many steps the header claims, at most 1,023 entries come back."""
    box = BoxFile("test.box").read(Bytes(with_word(layout.RING_COUNT, 2**63)), ring=True)
    assert len(box.ring) == layout.RING_STEPS - 1


JOURNALS = {
    "deep lists": (BOX, b"[" * 60_000),
    "deep objects": (BOX, b'{"a":' * 20_000),
    "not text": (b"\xff\xfe\x00", BOX),
    "half a line": (b'["box",{"run":"d',),
    "number": (BOX, 5),
    "empty list": (BOX, []),
    "object": (BOX, {}),
    "null": (BOX, None),
    "short slot": (BOX, ["slot"]),
    "slot without labels": (BOX, ["slot", "training_loss"]),
    "slot with a number for labels": (BOX, ["slot", "training_world_size", 7]),
    "slot with a list as label": (BOX, ["slot", "training_metric", [["a"], "train"]]),
    "info named by a list": (BOX, ["info", [], "", []]),
    "info that is short": (BOX, ["info", "training_run_info"]),
    "box that is a text": (["box", "run"],),
    "box that is short": (["box"],),
    "no box": (["slot", "training_loss", ["train"]],),
    "no run": (["box", {"rank": 0, "start": 0}],),
    "run of another type": (["box", identity(run=["x"])],),
    "empty run": (["box", identity(run="")],),
    "endless run": (["box", identity(run="x" * 10_000)],),
    "negative rank": (["box", identity(rank=-1)],),
    "huge rank": (["box", identity(rank=10**30)],),
    "start that is no number": (["box", identity(start=float("nan"))],),
    "start beyond any float": (["box", identity(start=10**400)],),
    "number of 100,000 digits": (b'["box",{"run":"x","rank":0,"start":' + b"9" * 100_000 + b"}]",),
    "endless label": (BOX, ["slot", "training_metric", ["x" * 10_000, "train"]]),
}


@pytest.mark.parametrize("name", JOURNALS)
def test_a_damaged_journal_is_refused(name: str) -> None:
    """Lines of the journal that no writer writes make the box invalid, and raise nothing else."""
    assert is_invalid(journal_of(*JOURNALS[name]))


def test_more_names_than_slots_are_left_out() -> None:
    """A journal that names more slots than a box has is read without those."""
    names = [
        ["slot", "training_metric", [f"n{number}", "train"]] for number in range(layout.SLOT_COUNT + 200)
    ]
    steps = [["step", "training_loss", ["train"]]] * (layout.BLOCK_SLOTS + 50)
    assert not is_invalid(journal_of(BOX, *names, *steps))


def test_a_pid_that_is_none_is_not_passed_on() -> None:
    """A process id that cannot be one reads as 0, which nobody asks the system about."""
    for pid in (-1, 0, 2**40, "1", None, 1.5):
        data = journal_of(["box", identity(pid=pid)])
        assert BoxFile("test.box").read(Bytes(data)).identity.pid == 0


@pytest.mark.parametrize(
    ("metric", "labels"),
    [
        ("trainbeacon_blackboxes", ["live"]),
        ("trainbeacon_requests_refused_total", ["method"]),
        ("training_state", ["running"]),
        ("training_phase", ["init"]),
        ("training_gpu_temperature_celsius", []),
    ],
)
def test_a_box_cannot_speak_for_others(metric: str, labels: list[str]) -> None:
    """Metrics of the node, of GPUs and those that the reader derives are not taken from a box."""
    data = journal_of(BOX, ["slot", metric, labels], ["info", "trainbeacon_build_info", "", ["1", "2", "x"]])
    box = BoxFile("test.box").read(Bytes(data))
    assert [name for name, _ in (*box.values, *box.infos)] == []


def test_texts_that_cannot_be_encoded_do_not_reach_the_exposition() -> None:
    """Half a surrogate pair (a file name that is no UTF-8) is replaced: it would break the whole scrape."""
    writer = Writer.private(identity(run="caf\udce9"))
    writer.slots[writer.declare("training_metric", ("f\ud800", "train"))] = 1.0
    writer.info("training_run_tag_info", ["tag", "\udfff"], key="tag")
    box = look(writer)
    assert box.identity.run == "caf?"
    assert list(box.values) == [("training_metric", ("f?", "train"))]
    assert box.infos == (("training_run_tag_info", ("tag", "?")),)


def test_long_names_are_no_damage() -> None:
    """A layer deep in a model may have a long name: the rank is read, and whoever serves it cuts."""
    writer = Writer.private(identity(run="r"))
    layer = "blocks." * 100
    writer.slots[writer.declare("training_metric", (layer, "train"))] = 1.0
    assert {("training_metric", (layer, "train")): 1.0} == look(writer).values


# Directories


def put(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def test_foreign_files_are_counted_once_each(tmp_path: Path) -> None:
    """Whatever lies in the directory under a box's name is counted once, however often it is scanned."""
    put(tmp_path / "empty.box", b"")
    put(tmp_path / "short.box", WHOLE[:1000])
    put(tmp_path / "long.box", WHOLE + b"x")
    put(tmp_path / "foreign.box", bytes(layout.SIZE))
    put(tmp_path / "other-version.box", b"TBEACON9" + WHOLE[8:])
    put(tmp_path / "deep.box", journal_of(BOX, b"[" * 100_000))
    (tmp_path / "folder.box").mkdir()
    os.mkfifo(tmp_path / "fifo.box")
    put(tmp_path / "good.box", WHOLE)
    (tmp_path / "link.box").symlink_to(tmp_path / "good.box")
    put(tmp_path / "readme.txt", b"not looked at")
    with boxes_in(tmp_path) as boxes:
        for _ in range(3):
            assert [box.name for box in boxes.scan(ring=True)] == ["good.box"]
            assert (boxes.invalid, boxes.invalid_total) == (9, 9)


def test_a_file_that_is_replaced_is_counted_anew_and_one_that_goes_is_not_present(tmp_path: Path) -> None:
    """The count of present invalid files follows the directory; the total only grows."""
    put(tmp_path / "a.box", b"x")
    with boxes_in(tmp_path) as boxes:
        boxes.scan()
        put(tmp_path / "b.box", b"x")
        boxes.scan()
        assert (boxes.invalid, boxes.invalid_total) == (2, 2)
        (tmp_path / "a.box").unlink()
        boxes.scan()
        assert (boxes.invalid, boxes.invalid_total) == (1, 2)


def test_scans_of_damaged_directories_do_not_raise(tmp_path: Path) -> None:
    """A directory of damaged boxes is scanned and collected without an exception, again and again."""
    chance = random.Random(7)
    with boxes_in(tmp_path) as boxes:
        collector = RanksCollector(boxes, linger_seconds=1e12)
        for _ in range(15):
            for number in range(8):
                data = bytearray(WHOLE)
                for _ in range(5):
                    data[chance.randrange(0, layout.JOURNAL_AT + 6000)] = chance.randrange(256)
                put(tmp_path / f"{number}.box", bytes(data))
            families = Families()
            collector.collect(families)
        assert boxes.invalid_total > 0


def test_a_file_without_permission_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A box that the exporter may not open is counted as invalid, so that somebody looks."""
    put(tmp_path / "a.box", WHOLE)
    real = os.open

    def refuse(path: str, *arguments: int, **keywords: int) -> int:
        if path == "a.box":
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **keywords)

    with boxes_in(tmp_path) as boxes:
        monkeypatch.setattr(os, "open", refuse)
        assert boxes.scan() == []
        assert boxes.invalid_total == 1


def test_a_file_that_vanishes_during_the_scan_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A box removed between listing and opening is left out and not counted."""
    put(tmp_path / "a.box", WHOLE)
    real = BoxDirectory._entries

    def entries(self: BoxDirectory) -> list[tuple[str, os.stat_result]]:
        found = list(real(self))
        (tmp_path / "a.box").unlink()
        return found

    monkeypatch.setattr(BoxDirectory, "_entries", entries)
    with boxes_in(tmp_path) as boxes:
        assert boxes.scan() == []
        assert boxes.invalid_total == 0
