"""How a directory is looked at: bounded, once a scrape, and tidied by whoever adds to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.blackbox.boxes import boxes_in, identity
from trainbeacon.blackbox import format as layout
from trainbeacon.blackbox import reader as module
from trainbeacon.blackbox.reader import BoxDirectory
from trainbeacon.blackbox.retention import MOST_ENDED, Ended, most_ended, surplus
from trainbeacon.blackbox.writer import Writer


@pytest.fixture
def boxes(tmp_path: Path) -> Iterator[BoxDirectory]:
    with boxes_in(tmp_path) as found:
        yield found


def ended(folder: Path, run: str, rank: int = 0) -> Path:
    """The box of a process that has finished."""
    writer = Writer.create(str(folder), identity(run=run, rank=rank))
    path = Path(str(writer.path))
    writer.end("finished")
    writer.close()
    return path


@pytest.mark.parametrize(("limit", "size"), [("_MOST_NEW_LOOKED_AT", 0), ("_MOST_NEW", layout.SIZE)])
def test_new_files_have_their_turn(
    limit: str, size: int, tmp_path: Path, boxes: BoxDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many files come at once, a scan looks at some; a box among them is found a few scans later."""
    monkeypatch.setattr(module, limit, 10)
    for number in range(25):
        junk = tmp_path / f"a{number:03d}.box"
        junk.touch()
        os.truncate(junk, size)
    good = ended(tmp_path, "z")
    assert [] == boxes.scan()
    assert 10 == boxes.invalid
    assert [] == boxes.scan()
    assert [good.name] == [box.name for box in boxes.scan()]
    assert (25, 25) == (boxes.invalid, boxes.invalid_total)


def test_files_of_another_size_keep_no_box_waiting(
    tmp_path: Path, boxes: BoxDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To hide a box behind others takes files as large as boxes."""
    monkeypatch.setattr(module, "_MOST_NEW", 10)
    for number in range(25):
        (tmp_path / f"a{number:03d}.box").touch()
    good = ended(tmp_path, "z")
    assert [good.name] == [box.name for box in boxes.scan()]


def test_a_box_that_may_be_read_later_is_found(tmp_path: Path, boxes: BoxDirectory) -> None:
    """What was no box at first is looked at again: a mode or a size may have been put right."""
    path = ended(tmp_path, "r")
    whole = path.read_bytes()
    os.truncate(path, 10)
    assert [] == boxes.scan()
    with path.open("r+b") as file:
        file.write(whole)
    assert [path.name] == [box.name for box in boxes.scan()]
    assert (0, 1) == (boxes.invalid, boxes.invalid_total)


def test_one_look_is_for_all_who_ask(tmp_path: Path, boxes: BoxDirectory) -> None:
    """Within a scrape every collector sees the same boxes; the next scrape sees what has come."""
    ended(tmp_path, "one")
    with boxes.one_look():
        ended(tmp_path, "two")
        assert (
            ["one"]
            == [box.identity.run for box in boxes.scan()]
            == [box.identity.run for box in boxes.scan()]
        )
    assert {"one", "two"} == {box.identity.run for box in boxes.scan()}


def test_a_box_that_took_the_name_of_another_is_read(tmp_path: Path, boxes: BoxDirectory) -> None:
    """What is remembered of a box that ended is of that file, not of its name."""
    first = ended(tmp_path, "first")
    assert ["first"] == [box.identity.run for box in boxes.scan()]
    ended(tmp_path, "second").replace(first)
    assert ["second"] == [box.identity.run for box in boxes.scan()]


def test_a_rank_that_adds_its_box_tidies_up(tmp_path: Path) -> None:
    """Without any exporter the boxes of runs that are over stay few, and a live one is never taken."""
    live = Writer.create(str(tmp_path), identity(run="live"))
    for number in range(MOST_ENDED + 20):
        ended(tmp_path, f"r{number}")
    assert Path(str(live.path)).exists()
    assert len(list(tmp_path.glob("*.box"))) <= MOST_ENDED + 2
    live.close()


def test_what_is_removed_is_whole_runs_and_the_oldest() -> None:
    """Ranks of one run stay or go together; those of the last run stay however many there are."""
    old = [Ended(f"old{rank}", "old", 1.0 + rank) for rank in range(3)]
    mid = [Ended(f"mid{rank}", "mid", 10.0) for rank in range(2)]
    last = [Ended(f"last{rank}", "last", 20.0) for rank in range(4)]
    assert [] == surplus([*old, *mid, *last], 9)
    assert {"old0", "old1", "old2"} == set(surplus([*old, *mid, *last], 8))
    assert {box.name for box in (*old, *mid)} == set(surplus([*old, *mid, *last], 1))


def test_share_of_a_small_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In 16 MiB of shared memory an eighth is for what is over, not six megabytes."""

    class Small:
        f_blocks, f_frsize = 16 * 256, 4096

    monkeypatch.setattr(os, "fstatvfs", lambda _: Small)
    assert 10 == most_ended(-1)
