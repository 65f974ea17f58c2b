"""Prometheus and Alertmanager at hand: what is found, what apt is asked for, what is said without them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import tools.stack
from trainbeacon.stack import debian as stack

DEBIAN = 'PRETTY_NAME="Debian GNU/Linux 12"\nID=debian\nVERSION_CODENAME=bookworm\n'
NEW_FORM = """\
Types: deb
URIs: http://mirror.invalid/security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://off.invalid/debian
Suites: bookworm

# the mirror of this machine
Types: deb deb-src
URIs: http://mirror.invalid/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian.gpg
"""
OLD_FORM = """\
# deb http://off.invalid/debian bookworm main
deb http://mirror.invalid/security bookworm-security main
deb [arch=amd64 signed-by=/usr/share/keyrings/debian.gpg] http://mirror.invalid/debian bookworm main contrib
"""
EXPECTED = {
    "Types: deb",
    "URIs: http://mirror.invalid/debian",
    "Suites: trixie",
    "Components: main",
    "Signed-By: /usr/share/keyrings/debian.gpg",
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and nothing on the PATH."""
    monkeypatch.setattr(stack, "DEBIAN", tmp_path / "debian")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    return tmp_path / "debian"


def programs(folder: Path, *names: str) -> None:
    """Put programs into a folder."""
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)


def unpacked(usr: Path) -> None:
    """Put a whole suite into the cache."""
    programs(usr / "bin", *stack.BINARIES)
    programs(usr / "libexec", *stack.BINARIES)


@pytest.mark.parametrize(
    ("place", "text"), [("sources.list.d/debian.sources", NEW_FORM), ("sources.list", OLD_FORM)]
)
def test_own_source_is_copied_with_another_suite(place: str, text: str, tmp_path: Path) -> None:
    """A later suite comes from the machine's own mirror with its own key, in both forms of apt's files."""
    (tmp_path / "os-release").write_text(DEBIAN)
    (tmp_path / "apt/sources.list.d").mkdir(parents=True)
    (tmp_path / "apt" / place).write_text(text)
    assert EXPECTED == set(stack.sources_of("trixie", tmp_path).splitlines())


def test_other_systems_have_no_later_suites_of_debian(tmp_path: Path) -> None:
    """On another distribution the reason is said, and no foreign mirror is asked."""
    (tmp_path / "os-release").write_text("ID=ubuntu\nVERSION_CODENAME=noble\n")
    with pytest.raises(stack.NotAvailableError, match="only Debian's own mirrors have the suite sid"):
        stack.sources_of("sid", tmp_path)


def test_path_comes_before_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine has installed is used, also under Debian's name; the cache fills the gaps."""
    installed = cache.parent / "bin"
    programs(installed, "prometheus", "prometheus-alertmanager")
    unpacked(cache / "default/usr")
    monkeypatch.setenv("PATH", str(installed))
    assert str(installed / "prometheus") == stack.find("prometheus")
    assert str(installed / "prometheus-alertmanager") == stack.find("alertmanager")
    assert str(cache / "default/usr/bin/promtool") == stack.find("promtool")


def test_incomplete_tree_is_not_taken(cache: Path) -> None:
    """A suite counts only with all its programs, and one suite's programs are never another's."""
    programs(cache / "default/usr/bin", *stack.BINARIES)
    programs(cache / "default/usr/libexec", "prometheus", "promtool")
    unpacked(cache / "trixie/usr")
    assert stack.find("prometheus") is None
    assert ["trixie"] == stack.suites()


def test_program_reads_its_files_from_where_it_was_unpacked(tmp_path: Path) -> None:
    """What a program looks for under /usr/share/prometheus is found beside it, in any working folder."""
    usr = tmp_path / "tree/usr"
    programs(usr / "bin", "prometheus", "promtool", "prometheus-alertmanager", "amtool")
    (usr / "bin/amtool").write_text("#!/bin/sh\ncat /usr/share/prometheus/pages/index\necho $1\n")
    (usr / "share/prometheus/pages").mkdir(parents=True)
    (usr / "share/prometheus/pages/index").write_text("found\n")
    stack.relocate(usr)
    usr = (tmp_path / "tree").rename(tmp_path / "moved") / "usr"
    done = subprocess.run([usr / "bin/amtool", "--all"], cwd="/", capture_output=True, text=True)
    assert "found\n--all\n" == done.stdout, done.stderr


@pytest.mark.parametrize(("ci", "status"), [("", 0), ("true", 1)])
def test_machine_without_apt_is_told_so(
    ci: str, status: int, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the programs and without apt-get the reason is said; only CI takes it for a failure."""
    monkeypatch.setenv("CI", ci)
    assert status == tools.stack.main(["default"])
    errors = capsys.readouterr().err
    assert "Prometheus and Alertmanager (default) are not available: this machine has no apt-get" in errors
    assert [cache / ".lock"] == list(cache.iterdir())


def test_scrapers_that_cannot_be_had_stop_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without apt-get the programs of some tests are named as missing, and what is on the PATH is taken."""
    monkeypatch.setattr(tools.stack, "CACHE", cache.parent / "cache")
    tools.stack.provide_scrapers()
    missing = ", ".join(tools.stack.SCRAPERS)
    assert f"{missing} cannot be had: " in capsys.readouterr().err
    programs(cache.parent / "bin", *tools.stack.SCRAPERS)
    monkeypatch.setenv("PATH", str(cache.parent / "bin"))
    tools.stack.provide_scrapers()
    assert "" == capsys.readouterr().err
    assert str(cache.parent / "bin" / tools.stack.SCRAPERS[0]) == tools.stack.find_scraper(
        tools.stack.SCRAPERS[0]
    )
