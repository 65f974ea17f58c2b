"""Files in folders that others may write into: what lies in wait under a name harms nobody."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trainbeacon.blackbox import files


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o777)
    descriptor = os.open(shared, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file of ours elsewhere, which a trap leads to."""
    path = tmp_path / "weights.pt"
    path.write_bytes(b"weights")
    return path


def link(place: Path, victim: Path) -> None:
    place.symlink_to(victim)


def hard_link(place: Path, victim: Path) -> None:
    place.hardlink_to(victim)


def dangling_link(place: Path, victim: Path) -> None:
    place.symlink_to(victim.with_suffix(".absent"))


def fifo(place: Path, victim: Path) -> None:
    os.mkfifo(place, 0o666)


def a_folder(place: Path, victim: Path) -> None:
    place.mkdir()


TRAPS = (link, hard_link, dangling_link, fifo, a_folder)


@pytest.mark.parametrize("trap", TRAPS)
def test_no_trap_is_appended_to(
    trap: Callable[[Path, Path], None], folder: int, victim: Path, tmp_path: Path
) -> None:
    """Links of both kinds, FIFOs and folders in the place of a log are refused, at once."""
    trap(tmp_path / "shared/log", victim)
    with pytest.raises(OSError, match=r"Errno"):
        os.close(files.open_for_appending(folder, "log"))
    assert b"weights" == victim.read_bytes()
    assert ["shared", "weights.pt"] == sorted(path.name for path in tmp_path.iterdir())


@pytest.mark.parametrize("trap", [link, dangling_link, fifo, a_folder])
def test_no_trap_is_read(
    trap: Callable[[Path, Path], None], folder: int, victim: Path, tmp_path: Path
) -> None:
    """What is no regular file under its own name is not opened for reading, and nothing waits."""
    trap(tmp_path / "shared/text", victim)
    with pytest.raises(OSError, match=r"Errno"):
        os.close(files.open_regular(folder, "text"))


@pytest.mark.parametrize("trap", [link, hard_link, dangling_link, fifo])
def test_a_trap_is_replaced_and_not_followed(
    trap: Callable[[Path, Path], None], folder: int, victim: Path, tmp_path: Path
) -> None:
    """Writing a file whole puts a new one in the place of whatever was there."""
    place = tmp_path / "shared/text"
    trap(place, victim)
    files.replace_in(folder, "text", b"ours", mode=0o604)
    assert (b"ours", 0o604, False) == (
        place.read_bytes(),
        stat.S_IMODE(place.lstat().st_mode),
        place.is_symlink(),
    )
    assert b"weights" == victim.read_bytes()
    assert ["text"] == [path.name for path in place.parent.iterdir()]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files away")
def test_another_users_file_is_not_believed(folder: int, tmp_path: Path) -> None:
    """Neither a log, a text nor a folder of somebody else's is used where it must be ours."""
    for name in ("log", "text"):
        (tmp_path / "shared" / name).write_text("theirs")
    (tmp_path / "shared/evidence").mkdir(mode=0o700)
    for name in ("log", "text", "evidence"):
        os.chown(tmp_path / "shared" / name, 64003, 64003)
    with pytest.raises(files.UntrustedError, match="belongs to uid 64003"):
        files.open_for_appending(folder, "log")
    with pytest.raises(files.UntrustedError, match="belongs to uid 64003"):
        files.open_regular(folder, "text", owner=0)
    with pytest.raises(files.UntrustedError, match="belongs to uid 64003"):
        files.open_folder(folder, "evidence")


def test_a_folder_is_made_private_and_not_through_a_link(folder: int, tmp_path: Path) -> None:
    """A new folder is ours alone; a link in its place, or one that others write into, is refused."""
    os.close(files.open_folder(folder, "new"))
    assert 0o700 == stat.S_IMODE((tmp_path / "shared/new").stat().st_mode)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "shared/linked").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"Errno"):
        files.open_folder(folder, "linked")
    (tmp_path / "shared/open").mkdir()
    (tmp_path / "shared/open").chmod(0o777)
    with pytest.raises(files.UntrustedError, match="with mode 0777"):
        files.open_folder(folder, "open")


def test_what_cannot_be_written_leaves_nothing(folder: int, tmp_path: Path) -> None:
    """Where a folder is in the place of a file, the old state stays and no temporary is left."""
    (tmp_path / "shared/text").mkdir()
    with pytest.raises(OSError, match=r"Errno"):
        files.replace_in(folder, "text", b"ours", durable=True)
    assert ["text"] == [path.name for path in (tmp_path / "shared").iterdir()]


def test_no_descriptor_is_left_open(folder: int, victim: Path, tmp_path: Path) -> None:
    """Refusals and successes close all that they opened."""
    link(tmp_path / "shared/log", victim)
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(3):
        files.replace(str(tmp_path / "shared/text"), b"ours", mode=None, durable=True)
        os.close(files.open_regular(folder, "text"))
        with pytest.raises(OSError, match=r"Errno"):
            files.open_for_appending(folder, "log")
        with pytest.raises(OSError, match=r"Errno"):
            files.open_folder(folder, "log")
    assert len(before) == len(os.listdir("/proc/self/fd"))
