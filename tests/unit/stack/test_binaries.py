"""Where Prometheus and Alertmanager are looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainbeacon.stack import binaries


def program(folder: Path, name: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_the_path_comes_before_the_cache(tmp_path: Path) -> None:
    """What the user installed is taken, the cache fills the rest, Debian's name for Alertmanager counts."""
    own = program(tmp_path / "path", "prometheus")
    program(tmp_path / "cache", "prometheus")
    debian = program(tmp_path / "cache", "prometheus-alertmanager")
    found = binaries.find(tmp_path / "cache", str(tmp_path / "path"))
    assert found == binaries.Binaries(prometheus=own, alertmanager=debian)
    assert found.complete


def test_nothing_found_is_incomplete(tmp_path: Path) -> None:
    """Without the programs there is no stack, and no error."""
    assert not binaries.find(tmp_path / "cache", str(tmp_path)).complete


def test_the_cache_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The cache is in XDG_CACHE_HOME where that is set, else in the home folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert binaries.cache_dir() == tmp_path / "trainbeacon/debian/default/usr/bin"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert binaries.cache_dir() == Path("/home/someone/.cache/trainbeacon/debian/default/usr/bin")
