"""The evidence directory."""

from __future__ import annotations

import json
import stat
from pathlib import Path

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
        path = one.path(store.SUFFIX).replace("T", f"T{number}", 1)  # as if a time passed in between
        Path(path).write_text(json.dumps({"time": float(number)}))
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
