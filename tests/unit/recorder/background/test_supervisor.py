"""How a rank sees to it that somebody serves: which command it starts, and how often."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from trainbeacon.config.settings import Config
from trainbeacon.recorder.background import supervisor as launch


def config(folder: Path, **settings: object) -> Config:
    return Config.load({"directory": str(folder), "host": "127.0.0.1", "gpu": False, **settings}, environ={})


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Stands for the Python that runs the exporter: says what it was started with, and fails."""
    script = tmp_path / "python"
    script.write_text('#!/bin/sh\nfor word; do echo "$word"; done\nexit 3\n')
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    return script


def test_exporter_is_told_every_setting_of_its_own(program: Path, tmp_path: Path) -> None:
    """All that the exporter needs travels on its command line, paths absolute: it runs elsewhere."""
    settings = {"port": 1234, "linger_seconds": 5, "retention_seconds": 6, "advertise": "node7"}
    whole = config(tmp_path, **settings, sd_file="one.json", sd_dir="all")
    os.waitpid(launch.start_exporter(whole), 0)
    words = (tmp_path / "exporter.log").read_text().splitlines()[3:]
    assert [
        "agent",
        "--started-by-rank",
        "--host=127.0.0.1",
        "--port=1234",
        "--linger=5.0",
        "--retention=6.0",
        f"--directory={tmp_path}",
        f"--sd-file={Path.cwd() / 'one.json'}",
        f"--sd-dir={Path.cwd() / 'all'}",
        "--advertise=node7",
        "--no-gpu",
    ] == words


def test_exporter_that_fails_is_said_and_tried_again_ever_later(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A port that cannot be had must not cost the node a Python start every few seconds."""
    now = 1000.0
    monkeypatch.setattr(launch, "time", SimpleNamespace(monotonic=lambda: now))
    supervisor = launch.ProcessSupervisor(config(tmp_path), local_rank=0)
    pauses = []
    for _ in range(7):
        supervisor.poll()
        child = supervisor._child
        assert child
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # it has ended, and is left for the supervisor
        assert child in launch.exporters_started
        with pytest.raises(OSError, match=f"ended with status 3: see {tmp_path}/exporter.log"):
            supervisor.poll()
        assert child not in launch.exporters_started
        pauses.append(supervisor._next_start - now)
        now = supervisor._next_start
    expected = [8, 16, 32, 64, 64, 64, 64]  # a quarter more or less
    assert [True] * 7 == [0.74 < p / e < 1.26 for p, e in zip(pauses, expected, strict=True)]


def test_other_ranks_leave_the_first_start_to_local_rank_0(program: Path, tmp_path: Path) -> None:
    """On a node of 8 ranks one exporter is started, not 8 of which 7 leave again."""
    launch.ProcessSupervisor(config(tmp_path), local_rank=1).poll()
    assert not (tmp_path / "exporter.log").exists()


def test_log_does_not_grow_without_end(program: Path, tmp_path: Path) -> None:
    """What exporters say over the days stays below a megabyte."""
    log = tmp_path / "exporter.log"
    log.write_bytes(b"x" * ((1 << 20) + 1))
    os.waitpid(launch.start_exporter(config(tmp_path)), 0)
    assert log.stat().st_size < 10_000


def test_off_starts_nothing(tmp_path: Path) -> None:
    """`serve="off"` leaves the directory to somebody else."""
    launch.supervisor_for(config(tmp_path, serve="off"), 0).poll()
    assert [] == list(tmp_path.iterdir())


def test_directory_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    """A supervisor without its directory would look for ever at nothing."""
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        launch.supervisor_for(config(tmp_path / "file", serve="process"), 0)
