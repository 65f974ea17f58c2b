"""The evidence directory."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from trainbeacon.recorder.hangs import store
from trainbeacon.recorder.hangs.store import MOST_BYTES, MOST_FILES_A_RANK, Store


def test_evidence_is_private_and_whole(tmp_path: Path) -> None:
    """Stacks may hold paths and names that are nobody else's business."""
    folder = tmp_path / "evidence"
    path = Path(Store.make(str(folder), "a/b", 3).write({"time": 1.0, "rank": 3}))
    assert (0o700, 0o600) == (stat.S_IMODE(folder.stat().st_mode), stat.S_IMODE(path.stat().st_mode))
    assert [path] == [*folder.iterdir()]
    assert path.name.startswith("a_b.3.")
    assert [{"time": 1.0, "rank": 3, "path": str(path)}] == store.read(str(folder))


def test_a_rank_keeps_its_newest_five(tmp_path: Path) -> None:
    """A rank that hangs again and again fills no disk, and takes nothing from another rank."""
    one, other = (Store.make(str(tmp_path), "r", rank) for rank in (1, 11))
    other.write({"time": 0.0})
    for number in range(8):
        name = Path(one.write({"time": float(number)}))
        name.rename(name.with_name(name.name.replace(".1.2", f".1.1{number}", 1)))  # as if it were long ago
    one.write({"time": 9.0})
    kept = [document["time"] for document in store.read(str(tmp_path))]
    assert MOST_FILES_A_RANK + 1 == len(kept)
    assert 0.0 in kept


def test_file_is_bounded_and_keeps_what_matters_most(tmp_path: Path) -> None:
    """Of thousands of collectives and frames the stacks of the first threads remain."""
    document = {
        "time": 1.0,
        "version": 1,
        "class": "rank_missing",
        "flight_recorder": [{"name": "x" * 100}] * 5000,
        "stacks": ["main thread", *["frame " + "x" * 80] * 5000],
    }
    path = Path(Store.make(str(tmp_path), "r", 0).write(document))
    assert path.stat().st_size <= MOST_BYTES
    (kept,) = store.read(str(tmp_path))
    assert ("rank_missing", "main thread") == (kept["class"], kept["stacks"][0])


def test_damaged_evidence_is_left_out(tmp_path: Path) -> None:
    """Half a file, a foreign one and a link do not hide the good one."""
    for name, text in {"a": "{", "b": "[]", "c": '{"time": "x"}', "d": '{"time": 2.5}'}.items():
        (tmp_path / f"{name}{store.SUFFIX}").write_text(text)
    (tmp_path / f"e{store.SUFFIX}").symlink_to(tmp_path / f"d{store.SUFFIX}")
    assert [2.5] == [document["time"] for document in store.read(str(tmp_path))]


HOSTILE = {
    "a number beyond any float": '{"time": 1' + "0" * 400 + "}",
    "not a number": '{"time": NaN}',
    "no calendar has it": '{"time": 1e18}',
    "infinite": '{"time": Infinity}',
    "before all time": '{"time": -1}',
    "a bool": '{"time": true}',
    "nested beyond reading": "[" * 100_000,
    "no text": b'{"time": 1, "run": "\xff"}',
    "a number of too many digits": '{"time": 1, "rank": ' + "1" * 10_000 + "}",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_evidence_is_left_out(text: str | bytes, tmp_path: Path) -> None:
    """Whatever lies beside it, the good evidence is read."""
    good = Store.make(str(tmp_path), "r", 0)
    good.write({"time": 2.5})
    bad = tmp_path / f"r.1.x{store.SUFFIX}"
    bad.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert [2.5] == [document["time"] for document in store.read(str(tmp_path))]


def test_evidence_of_another_user_is_left_out(tmp_path: Path) -> None:
    """In a directory that many share, only its owner's files are its evidence."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to give files away")
    forged = Path(Store.make(str(tmp_path), "r", 0).write({"time": 1.0}))
    os.chown(forged, 64003, 64003)
    assert [] == store.read(str(tmp_path))


def test_each_user_has_evidence_beside_shared_boxes(tmp_path: Path) -> None:
    """Where `evidence` is another user's, or a trap, a user's own lies beside it and is found too."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "boxes").mkdir()
    (tmp_path / "boxes/evidence").symlink_to(tmp_path / "elsewhere")
    path = Path(Store.beside(str(tmp_path / "boxes"), "r", 0).write({"time": 1.0}))
    assert tmp_path / f"boxes/evidence-{os.geteuid()}" == path.parent
    assert [] == [*(tmp_path / "elsewhere").iterdir()]
    boxes = os.open(tmp_path / "boxes", os.O_RDONLY)
    found = store.read_beside(boxes, str(tmp_path / "boxes"))
    os.close(boxes)
    assert [str(path)] == [document["path"] for document in found]


def test_killed_ranks_leave_no_empty_files(tmp_path: Path) -> None:
    """What was prepared by a rank that is gone goes with the next start; what a live one holds open stays."""
    used, path = Store.make(str(tmp_path), "r", 0).create(store.HELD_SUFFIX)
    dead, _ = Store.make(str(tmp_path), "r", 1).create(store.HELD_SUFFIX)
    written, kept = Store.make(str(tmp_path), "r", 2).create(store.HELD_SUFFIX)
    os.write(written, b"stacks")
    os.close(dead)
    os.close(written)
    Store.make(str(tmp_path), "r", 1)
    assert {Path(path).name, Path(kept).name} == {each.name for each in tmp_path.iterdir()}
    os.close(used)
