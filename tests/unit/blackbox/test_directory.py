"""The directory of the boxes: whose it must be, and with which modes files are made in it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.unit.blackbox.boxes import identity
from trainbeacon.blackbox import directory
from trainbeacon.blackbox.directory import DirectoryError, open_directory
from trainbeacon.blackbox.writer import Writer


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the default directory would be, in a place of the test's own."""
    path = tmp_path / "trainbeacon-1000"
    monkeypatch.setattr(directory, "default_directory", lambda: str(path))
    return path


def test_the_default_is_one_for_each_user() -> None:
    """Users of one machine do not meet in one directory."""
    assert directory.default_directory().endswith(f"/trainbeacon-{os.geteuid()}")


def test_the_default_directory_is_made_closed_to_others(default: Path) -> None:
    """The default directory is made with mode 0700, and used again."""
    for _ in range(2):
        os.close(open_directory(None))
    assert mode_of(default) == 0o700


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o777, 0o701])
def test_a_default_directory_that_others_may_enter_is_refused(default: Path, mode: int) -> None:
    """The message says the mode that it has, the one that it must have, and what to do."""
    default.mkdir()
    default.chmod(mode)
    with pytest.raises(
        DirectoryError, match=rf"mode {mode:04o}; it must be ours with mode 0700: remove it, or"
    ):
        open_directory(None)
    assert mode_of(default) == mode


def test_a_default_directory_of_somebody_else_is_refused(
    default: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that another user put there is not used, and its owner is named."""
    default.mkdir(mode=0o700)
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(DirectoryError, match=f"is owned by uid {owner} "):
        open_directory(None)


def test_a_default_directory_that_is_a_link_is_refused(default: Path, tmp_path: Path) -> None:
    """A link that another user put there is not followed, and the message says that it is one."""
    target = tmp_path / "target"
    target.mkdir(mode=0o700)
    default.symlink_to(target)
    with pytest.raises(DirectoryError, match="it is a link; name another with directory="):
        open_directory(None)
    assert list(target.iterdir()) == []


def test_a_file_in_the_place_of_a_directory_is_refused(default: Path) -> None:
    """What is no directory is refused with its name and the reason, for default and named ones."""
    default.write_text("")
    for path in (None, str(default)):
        with pytest.raises(DirectoryError, match=f"{default.name}.* cannot be used: "):
            open_directory(path)


def test_no_name_is_not_the_default(default: Path) -> None:
    """An empty name is refused; it must not reach the default directory past its checks."""
    with pytest.raises(DirectoryError):
        open_directory("")
    assert not default.exists()


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o770, 0o1777])
def test_a_named_directory_keeps_its_mode(tmp_path: Path, mode: int) -> None:
    """Who shares a directory that the user names is the user's to say; links to it are followed."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(mode)
    link = tmp_path / "link"
    link.symlink_to(shared)
    Writer.create(str(link), identity()).close()
    assert mode_of(shared) == mode
    assert len(list(shared.glob("*.box"))) == 1


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_boxes_are_readable_by_a_common_group_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    """A box has mode 0640, so that an agent of the same group can read it."""
    before = os.umask(umask)
    try:
        writer = Writer.create(str(tmp_path), identity())
    finally:
        os.umask(before)
    assert writer.path
    assert mode_of(Path(writer.path)) == 0o640
    writer.close()


@pytest.mark.parametrize("run", ["../../escape", "a/b", "", ".", "ümlaut", "x" * 300, "new\nline"])
def test_no_name_of_a_run_leaves_the_directory(tmp_path: Path, run: str) -> None:
    """Whatever a run is called, its box lies in the directory under a plain name."""
    writer = Writer.create(str(tmp_path / "boxes"), identity(run=run))
    assert writer.path
    [name] = os.listdir(tmp_path / "boxes")
    assert Path(writer.path) == tmp_path / "boxes" / name
    assert name.isascii()
    assert name.isprintable()
    assert not name.startswith(".")
    writer.close()


def test_the_box_is_found_again_after_a_change_of_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative directory is meant from where the run began: the lock is held on after a chdir."""
    monkeypatch.chdir(tmp_path)
    writer = Writer.create("boxes", identity())
    os.close(writer._descriptor)
    monkeypatch.chdir("/")
    writer.hold_lock()
    assert writer.path == str(tmp_path / "boxes" / os.listdir(tmp_path / "boxes")[0])
    writer.close()
