"""Which exporter serves a directory: the holder of its lock, however holders end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.blackbox.boxes import process, tell
from trainbeacon.blackbox.directory import EXPORTER_LOCK
from trainbeacon.blackbox.election import ExporterLock, ExporterNote, exporter_is_there, read_note

HOLDER = """
from trainbeacon.blackbox.election import ExporterLock, ExporterNote
folder = os.open(sys.argv[1], os.O_RDONLY)
lock = ExporterLock.take(folder)
assert lock is not None
lock.publish(ExporterNote(os.getpid(), "http://127.0.0.1:9797/metrics", "1.2.3"))
ready()
sys.stdin.readline()
lock.release()
print("released", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def test_one_exporter_serves_a_directory(tmp_path: Path, folder: int) -> None:
    """While a process holds the lock nobody else takes it; released, anybody may."""
    assert not exporter_is_there(folder)
    with process(HOLDER, tmp_path) as holder:
        assert exporter_is_there(folder)
        assert ExporterLock.take(folder) is None
        assert tell(holder) == "released"
        assert not exporter_is_there(folder)
        lock = ExporterLock.take(folder)
        assert lock is not None
        lock.release()


def test_a_killed_exporter_holds_nothing(tmp_path: Path, folder: int) -> None:
    """The lock of an exporter that was killed is free at once, though its file is still there."""
    with process(HOLDER, tmp_path) as holder:
        holder.kill()
        holder.wait()
        assert (tmp_path / EXPORTER_LOCK).exists()
        assert not exporter_is_there(folder)
        with process(HOLDER, tmp_path) as successor:
            assert exporter_is_there(folder)
            note = read_note(folder)
            assert note is not None
            assert note.pid == successor.pid


def test_the_note_says_where_the_exporter_serves(tmp_path: Path, folder: int) -> None:
    """What the holder published is what others read, after its end too; a shorter note leaves no rest."""
    assert read_note(folder) is None
    with process(HOLDER, tmp_path) as holder:
        expected = ExporterNote(holder.pid, "http://127.0.0.1:9797/metrics", "1.2.3")
        assert read_note(folder) == expected
    assert read_note(folder) == expected
    lock = ExporterLock.take(folder)
    assert lock is not None
    for url in ("http://" + "h" * 700, "http://h"):
        lock.publish(ExporterNote(1, url, "2"))
    lock.release()
    assert read_note(folder) == ExporterNote(1, "http://h", "2")


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"not json",
        b"[]",
        b"7",
        b"null",
        b"{}",
        b'{"pid": 1}',
        b'{"pid": 1, "url": "u", "version": "1", "more": 2}',
        b'{"pid": "1", "url": 5, "version": []}',
        b"[" * 4096,
        b"\xff\xfe",
        b"9" * 4096,
        bytes(4096),
    ],
)
def test_a_note_of_nonsense_is_no_note(tmp_path: Path, folder: int, note: bytes) -> None:
    """Whatever stands in the file, reading it gives a note or nothing, and the lock works all the same."""
    (tmp_path / EXPORTER_LOCK).write_bytes(note)
    assert read_note(folder) is None
    assert not exporter_is_there(folder)
    lock = ExporterLock.take(folder)
    assert lock is not None
    lock.release()


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path: Path, folder: int) -> None:
    """A link that somebody put there is neither locked nor written through."""
    target = tmp_path / "target"
    target.write_text("precious")
    (tmp_path / EXPORTER_LOCK).symlink_to(target)
    assert read_note(folder) is None
    with pytest.raises(OSError, match="symbolic link"):
        ExporterLock.take(folder)
    assert target.read_text() == "precious"


def test_a_fifo_in_the_place_of_the_lock_stops_nobody(tmp_path: Path, folder: int) -> None:
    """Looking at a FIFO does not wait for its other end."""
    os.mkfifo(tmp_path / EXPORTER_LOCK)
    assert read_note(folder) is None
