"""How a rank sees to it that somebody serves: which command it starts, and how often."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from tests.serving import environment, wait_for
from trainbeacon.config.settings import Config
from trainbeacon.recorder.background import launch
from trainbeacon.recorder.background import supervisor as supervisors


def config(folder: Path, **settings: object) -> Config:
    return Config.load({"directory": str(folder), "host": "127.0.0.1", "gpu": False, **settings}, environ={})


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Stands for the Python that runs the exporter: says what it was started with, and fails."""
    script = tmp_path / "python"
    script.write_text(f"#!{sys.executable}\n{PROGRAM}")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    return script


PROGRAM = """
import os, sys
end, words = int(sys.argv[3]), sys.argv[4:]
if pid := os.fork():
    os.write(end, b"pid %d\\n" % pid)
    os._exit(0)
print(*words, sep="\\n", flush=True)
os.write(end, b"status 3\\n")
"""


def started(config: Config, folder: Path) -> launch.StartedExporter:
    directory = os.open(folder, os.O_RDONLY)
    try:
        return launch.start_exporter(config, directory)
    finally:
        os.close(directory)


def test_exporter_is_told_every_setting_of_its_own(program: Path, tmp_path: Path) -> None:
    """All that the exporter needs travels on its command line, paths absolute: it runs elsewhere."""
    settings = {"port": 1234, "linger_seconds": 5, "retention_seconds": 6, "advertise": "node7"}
    exporter = started(config(tmp_path, **settings, sd_file="one.json", sd_dir="all"), tmp_path)
    wait_for(lambda: exporter.status() == 3)
    exporter.close()
    words = (tmp_path / "exporter.log").read_text().splitlines()[1:]
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


def test_exporter_is_no_child_of_the_training_process(program: Path, tmp_path: Path) -> None:
    """A script that waits for its children has none of ours, and no zombie is left when the exporter ends."""
    before = psutil.Process().children()
    exporter = started(config(tmp_path), tmp_path)
    assert exporter.pid in launch.exporters_started
    assert before == psutil.Process().children()
    exporter.close()
    assert exporter.pid not in launch.exporters_started


def test_exporter_that_fails_is_said_and_tried_again_ever_later(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A port that cannot be had must not cost the node a Python start every few seconds."""
    now = 1000.0
    monkeypatch.setattr(supervisors, "time", SimpleNamespace(monotonic=lambda: now))
    supervisor = supervisors.ProcessSupervisor(config(tmp_path), local_rank=0)
    pauses = []

    def is_said() -> bool:
        try:
            supervisor.poll()
        except OSError as error:
            return f"ended with status 3: see {tmp_path}/exporter.log" in str(error)
        return False

    for _ in range(7):
        wait_for(is_said)
        pauses.append(supervisor._next_start - now)
        now = supervisor._next_start
    supervisor.close()
    expected = [8, 16, 32, 64, 64, 64, 64]  # a quarter more or less
    assert [True] * 7 == [0.74 < p / e < 1.26 for p, e in zip(pauses, expected, strict=True)]


@pytest.mark.parametrize("executable", ["frozen", "/opt/program/train", "/usr/bin/uwsgi", "", None])
def test_program_that_is_no_interpreter_is_not_started_again(
    executable: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A frozen program, or one that embeds Python, would train again as an exporter: a thread serves."""
    monkeypatch.setattr(sys, "executable", sys.executable if executable == "frozen" else executable)
    monkeypatch.setattr(sys, "frozen", executable == "frozen", raising=False)
    supervisor = supervisors.supervisor_for(config(tmp_path, serve="process"), 0)
    supervisor.close()
    assert isinstance(supervisor, supervisors.ThreadSupervisor)
    assert "served from a thread" in caplog.text


TRAPS = {
    "a link": lambda place, victim: place.symlink_to(victim),
    "a hard link": lambda place, victim: place.hardlink_to(victim),
    "a FIFO": lambda place, victim: os.mkfifo(place),
    "a folder": lambda place, victim: place.mkdir(),
}


@pytest.mark.parametrize("trap", TRAPS.values(), ids=TRAPS.keys())
def test_trap_in_the_place_of_the_log_harms_nobody(
    trap: Callable[[Path, Path], None], program: Path, tmp_path: Path
) -> None:
    """Where others may write, what they put there is not followed, and the exporter starts all the same."""
    victim = tmp_path / "weights.pt"
    victim.write_bytes(b"w" * ((1 << 20) + 1))
    trap(tmp_path / "exporter.log", victim)
    exporter = started(config(tmp_path), tmp_path)
    wait_for(lambda: exporter.status() == 3)
    exporter.close()
    assert (1 << 20) + 1 == victim.stat().st_size
    assert "agent" in (tmp_path / f"exporter-{os.geteuid()}.log").read_text()


def test_other_ranks_leave_the_first_start_to_local_rank_0(program: Path, tmp_path: Path) -> None:
    """On a node of 8 ranks one exporter is started, not 8 of which 7 leave again."""
    supervisor = supervisors.ProcessSupervisor(config(tmp_path), local_rank=1)
    supervisor.poll()
    supervisor.close()
    assert not (tmp_path / "exporter.log").exists()


def test_log_does_not_grow_without_end(program: Path, tmp_path: Path) -> None:
    """What exporters say over the days stays below a megabyte."""
    log = tmp_path / "exporter.log"
    log.write_bytes(b"x" * ((1 << 20) + 1))
    exporter = started(config(tmp_path), tmp_path)
    wait_for(lambda: exporter.status() == 3)
    exporter.close()
    assert log.stat().st_size < 10_000


def test_off_starts_nothing(tmp_path: Path) -> None:
    """`serve="off"` leaves the directory to somebody else."""
    supervisors.supervisor_for(config(tmp_path, serve="off"), 0).poll()
    assert [] == list(tmp_path.iterdir())


def test_directory_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    """A supervisor without its directory would look for ever at nothing."""
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        supervisors.supervisor_for(config(tmp_path / "file", serve="process"), 0)


HOLDER = """
import os, sys, time
from trainbeacon._version import __version__
from trainbeacon.blackbox.directory import open_directory
from trainbeacon.blackbox.election import ExporterLock, ExporterNote
folder = open_directory(sys.argv[1])
lock = ExporterLock.take(folder)
lock.publish(ExporterNote(os.getpid(), "http://127.0.0.1:1/metrics", __version__))
print("holds", flush=True)
while True:
    if sys.argv[2] == "works":
        lock.beat()
    time.sleep(0.05)
"""


@contextlib.contextmanager
def holder(folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the exporter's lock of the folder."""
    command = [sys.executable, "-c", HOLDER, str(folder), *words]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert "holds\n" == process.stdout.readline()
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[supervisors.ProcessSupervisor]:
    """One that loses its patience soon, and whose exporter takes no lock."""
    monkeypatch.setattr(supervisors, "HUNG_SECONDS", 0.5)
    monkeypatch.setattr(supervisors, "HUNG_ELSEWHERE_SECONDS", 0.5)
    monkeypatch.setattr(supervisors, "start_exporter", lambda *_: None)
    made = supervisors.ProcessSupervisor(config(tmp_path), local_rank=0)
    yield made
    made.close()


def test_hung_exporter_of_a_rank_is_ended(supervisor: supervisors.ProcessSupervisor, tmp_path: Path) -> None:
    """An exporter process that is stopped, or hangs, does not keep the node unserved for good."""
    with holder(tmp_path, "hangs", "--started-by-rank") as hung:
        hung.send_signal(signal.SIGSTOP)

        def is_ended() -> bool:
            supervisor.poll()
            return hung.poll() is not None

        wait_for(is_ended, 60)
        assert -signal.SIGKILL == hung.returncode


def test_hung_exporter_of_somebody_else_loses_its_lock(
    supervisor: supervisors.ProcessSupervisor, tmp_path: Path
) -> None:
    """A training process that serves from a thread, or an agent, is never ended; another may serve now."""
    with holder(tmp_path, "hangs") as hung:
        lock = tmp_path / "exporter.lock"

        def is_deposed() -> bool:
            supervisor.poll()
            return not lock.exists()

        wait_for(is_deposed, 60)
        assert None is hung.poll()


def test_exporter_that_works_is_left_alone(supervisor: supervisors.ProcessSupervisor, tmp_path: Path) -> None:
    """Whoever says each second that it is at work keeps its lock, and its life."""
    with holder(tmp_path, "works", "--started-by-rank") as works:
        before = (tmp_path / "exporter.lock").stat().st_ino
        end = time.monotonic() + 2.0
        while time.monotonic() < end:
            supervisor.poll()
            time.sleep(0.02)
        assert None is works.poll()
        assert before == (tmp_path / "exporter.lock").stat().st_ino


def test_directory_that_was_made_anew_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its removal the supervisor sees who serves the new one, and starts no exporter beside it."""
    begun: list[object] = []
    monkeypatch.setattr(supervisors, "start_exporter", lambda *arguments: begun.append(arguments))
    folder = tmp_path / "boxes"
    supervisor = supervisors.ProcessSupervisor(config(folder), local_rank=0)
    shutil.rmtree(folder)
    folder.mkdir()
    with holder(folder, "works"):
        for _ in range(3):
            supervisor.poll()
    supervisor.close()
    assert [] == begun
