"""The exporter's housekeeping: what it removes from the directory, and whom it lets in."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.serving import environment, request, wait_for
from trainbeacon.blackbox.directory import open_directory
from trainbeacon.blackbox.election import ExporterLock, ExporterNote, read_note
from trainbeacon.blackbox.reader import BoxDirectory
from trainbeacon.blackbox.textfile import beside
from trainbeacon.blackbox.writer import Writer
from trainbeacon.config.settings import Config
from trainbeacon.exporter import service as module
from trainbeacon.exporter.service import Exporter, clean
from trainbeacon.stack.ports import free_port
from trainbeacon.testing import FakeClock

WRITE = """
import sys, time
from trainbeacon.blackbox.writer import Writer
run, rank, start, heartbeat = sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5])
writer = Writer.create(sys.argv[1], {"run": run, "rank": rank, "start": start})
writer.slots[writer.declare("training_heartbeat_timestamp_seconds")] = heartbeat
print(writer.path, flush=True)
if len(sys.argv) > 6:
    sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    descriptor = open_directory(str(tmp_path))
    yield descriptor
    os.close(descriptor)


def dead_box(where: Path, run: str, rank: int = 0, *, start: float, heartbeat: float) -> Path:
    """The box of a process that is gone."""
    arguments = [str(where), run, str(rank), str(start), str(heartbeat)]
    done = subprocess.run(
        [sys.executable, "-c", WRITE, *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return Path(done.stdout.strip())


def remaining(where: Path) -> set[str]:
    return {path.name for path in where.iterdir()}


def test_boxes_that_are_dead_and_old_are_removed(tmp_path: Path, folder: int) -> None:
    """After the retention a dead rank's box goes; a younger one stays."""
    now = time.time()
    dead_box(tmp_path, "old", start=now - 500, heartbeat=now - 101)
    young = dead_box(tmp_path, "young", start=now - 500, heartbeat=now - 50)
    clean(folder, BoxDirectory(folder).scan(), now, retention_seconds=100)
    assert {young.name} == remaining(tmp_path)


def test_box_of_a_replaced_attempt_is_removed_at_once(tmp_path: Path, folder: int) -> None:
    """Once a rank has restarted, what its dead predecessor left is no use to anybody."""
    now = time.time()
    dead_box(tmp_path, "r", 1, start=now - 30, heartbeat=now - 20)
    new = dead_box(tmp_path, "r", 1, start=now - 15, heartbeat=now - 10)
    other_rank = dead_box(tmp_path, "r", 2, start=now - 30, heartbeat=now - 20)
    other_run = dead_box(tmp_path, "s", 1, start=now - 30, heartbeat=now - 20)
    clean(folder, BoxDirectory(folder).scan(), now, retention_seconds=100)
    assert {new.name, other_rank.name, other_run.name} == remaining(tmp_path)


def test_box_of_a_living_rank_is_never_removed(tmp_path: Path, folder: int) -> None:
    """Neither an old heartbeat (a stopped process) nor a newer start takes a living rank's box away."""
    now = time.time()
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE, str(tmp_path), "r", "0", str(now - 900), str(now - 800), "stay"],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    alive = Path(process.stdout.readline().strip())
    newer = dead_box(tmp_path, "r", 0, start=now - 15, heartbeat=now - 10)
    clean(folder, BoxDirectory(folder).scan(), now, retention_seconds=100)
    process.communicate()
    assert {alive.name, newer.name} == remaining(tmp_path)


def test_only_leftovers_of_ours_are_removed(tmp_path: Path, folder: int) -> None:
    """A start that was killed leaves a temporary file, removed when it is old; what is not ours stays."""
    for name in (".new-old", ".new-young", "notes.txt", "foreign.box", "exporter.lock", "exporter.log"):
        (tmp_path / name).write_text("text")
        os.utime(tmp_path / name, (1.0, 1.0))
    os.utime(tmp_path / ".new-young")
    (tmp_path / ".new-folder").mkdir()
    os.utime(tmp_path / ".new-folder", (1.0, 1.0))
    before = remaining(tmp_path)
    clean(folder, BoxDirectory(folder).scan(), time.time(), retention_seconds=100)
    assert {".new-old"} == before - remaining(tmp_path)


def test_metrics_of_the_user_go_with_their_box(tmp_path: Path, folder: int) -> None:
    """The text beside a box that is removed goes too, and one whose box is gone once it is old."""
    now = time.time()
    removed = dead_box(tmp_path, "old", start=now - 500, heartbeat=now - 101)
    kept = dead_box(tmp_path, "young", start=now - 500, heartbeat=now - 50)
    names = [beside(removed.name), beside(kept.name), "orphan.box.prom", "new-orphan.box.prom", "node.prom"]
    for name in names:
        (tmp_path / name).write_text("a 1\n")
    for name in ("orphan.box.prom", "node.prom", beside(kept.name)):
        os.utime(tmp_path / name, (1.0, 1.0))
    clean(folder, BoxDirectory(folder).scan(), now, retention_seconds=100)
    assert {kept.name, beside(kept.name), "new-orphan.box.prom", "node.prom"} == remaining(tmp_path)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    settings = {"directory": str(tmp_path), "host": "127.0.0.1", "port": free_port(), "gpu": False}
    return Config.load({**settings, "linger_seconds": 1}, environ={})


def test_exporter_cleans_while_it_serves(config: Config, tmp_path: Path) -> None:
    """The exporter's own turn does the removing."""
    now = time.time()
    dead_box(tmp_path, "old", start=now - 9000, heartbeat=now - 8000)
    exporter = Exporter(config, mode="agent")
    assert exporter.start()
    exporter.turn()
    exporter.close()
    assert set() == {name for name in remaining(tmp_path) if name.endswith(".box")}


def test_exporter_in_a_thread_gives_up_after_the_linger(config: Config, folder: int) -> None:
    """Without a live rank the thread closes port and lock, and can be started again."""
    exporter = Exporter(config, mode="thread")
    for _ in range(2):
        assert exporter.start()
        exporter.run_in_thread()
        url = exporter.url
        assert 200 == request(url).status
        note = read_note(folder)
        assert note
        assert (os.getpid(), url) == (note.pid, note.url)
        wait_for(lambda: not exporter.is_serving, what="end")
        with pytest.raises(OSError, match="refused"):
            request(url)


def test_port_that_cannot_be_had_leaves_the_lock_to_others(config: Config, tmp_path: Path) -> None:
    """An exporter that cannot listen must not keep the directory from one that can."""
    bad = Config.load({"directory": str(tmp_path), "host": "192.0.2.1", "gpu": False}, environ={})
    with pytest.raises(OSError, match=r"192\.0\.2\.1"):
        Exporter(bad, mode="agent").start()
    good = Exporter(config, mode="agent")
    assert good.start()
    good.close()


def test_discovery_file_that_cannot_be_written_does_not_stop_serving(
    config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The metrics are served all the same; the error is logged and counted."""
    (tmp_path / "file").touch()
    settings = {"directory": str(tmp_path), "host": "127.0.0.1", "port": 0, "gpu": False}
    exporter = Exporter(Config.load({**settings, "sd_file": f"{tmp_path}/file/sd"}, environ={}), mode="agent")
    assert exporter.start()
    text = request(exporter.url).text
    exporter.close()
    assert 'trainbeacon_errors_total{rank="",run="",where="discovery"} 1.0' in text
    assert "service discovery" in caplog.text


def test_end_of_each_job_must_be_scraped_anew(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scrapes of one job's end do not count for the next: an agent would leave before it was seen."""
    clock = FakeClock()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=clock, time=time.time))
    exporter = Exporter(config, mode="agent")
    assert exporter.start()
    seen = []
    for start in (1.0, 2.0):
        writer = Writer.create(str(tmp_path), {"run": "r", "rank": 0, "start": start})
        writer.slots[writer.declare("training_heartbeat_timestamp_seconds")] = time.time()
        exporter.turn()
        request(exporter.url)  # the rank lives: this one does not count
        writer.end("finished")
        writer.close()
        clock.advance(2)
        for _ in range(2):
            exporter.turn()
            seen.append(exporter.end_was_seen)
            request(exporter.url)
        seen.append(exporter.end_was_seen)
    exporter.close()
    assert [False, False, True] * 2 == seen


HOLD = """
import os, sys
from trainbeacon.blackbox.directory import open_directory
from trainbeacon.blackbox.election import ExporterLock
assert ExporterLock.take(open_directory(sys.argv[1]))
print("holds", flush=True)
sys.stdin.read()
"""


def footprint() -> tuple[int, set[threading.Thread]]:
    return len(os.listdir("/proc/self/fd")), set(threading.enumerate())


def run_briefly(exporter: Exporter) -> threading.Thread:
    thread = threading.Thread(target=exporter.run, args=(False,))
    thread.start()
    return thread


def test_removed_directory_is_made_again_and_served_on(config: Config, tmp_path: Path) -> None:
    """On the same port, with the boxes that are made there later."""
    folder = tmp_path / "boxes"
    exporter = Exporter(replace(config, directory=str(folder)), mode="agent")
    assert exporter.start()
    url = exporter.url
    shutil.rmtree(folder)
    exporter.turn()
    made = open_directory(str(folder))
    note = read_note(made)
    os.close(made)
    assert note
    assert url == note.url
    writer = Writer.create(str(folder), {"run": "again", "rank": 0, "start": time.time()})
    assert 'run="again"' in request(url).text
    writer.close()
    exporter.close()


def test_removed_lock_is_taken_again(config: Config, tmp_path: Path) -> None:
    """An exporter whose lock file somebody removed goes on, and no second one begins."""
    exporter = Exporter(config, mode="agent")
    assert exporter.start()
    (tmp_path / "exporter.lock").unlink()
    exporter.turn()
    assert exporter.is_serving
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], env=environment(), stderr=subprocess.PIPE
    ) as second:
        assert b"AssertionError" in second.communicate(timeout=60)[1]
    exporter.close()


def test_exporter_whose_lock_another_has_gives_way(config: Config, tmp_path: Path) -> None:
    """One that was taken for dead and comes back ends, with its port free for the one that took its place."""
    before = footprint()
    exporter = Exporter(config, mode="agent")
    assert exporter.start()
    (tmp_path / "exporter.lock").unlink()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], env=environment(), stdin=-1, stdout=-1
    ) as second:
        assert second.stdout
        assert b"holds\n" == second.stdout.readline()
        thread = run_briefly(exporter)
        thread.join(60)
        assert not thread.is_alive()
        exporter.close()
        second.communicate()
    assert before == footprint()


def no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)


def no_port(monkeypatch: pytest.MonkeyPatch) -> None:
    def bind(*_: object) -> None:
        raise OSError(errno.EADDRINUSE, "in use")

    monkeypatch.setattr(module, "Server", bind)


@pytest.mark.parametrize("lack", [no_thread, no_port])
def test_start_is_all_or_nothing(
    lack: Callable[[pytest.MonkeyPatch], None],
    config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What cannot start leaves no port, thread, descriptor or lock, however often it is tried."""
    exporter = Exporter(config, mode="thread")
    before = footprint()
    with monkeypatch.context() as lacking:
        lack(lacking)
        for _ in range(3):
            with pytest.raises(OSError, match=r"in use|no more threads"):
                exporter.start()
    assert before == footprint()
    assert exporter.start()
    exporter.close()
    assert before == footprint()


def test_exporter_that_cannot_say_where_it_serves_serves(
    config: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, folder: int
) -> None:
    """In a full directory; once there is room, its note is there too. Said once."""
    full = True
    publish = ExporterLock.publish

    def full_or_not(lock: ExporterLock, note: ExporterNote) -> None:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        publish(lock, note)

    monkeypatch.setattr(ExporterLock, "publish", full_or_not)
    exporter = Exporter(config, mode="agent")
    assert exporter.start()
    for _ in range(3):
        exporter.turn()
    assert 200 == request(exporter.url).status
    assert None is read_note(folder)
    full = False
    exporter.turn()
    note = read_note(folder)
    assert note
    assert exporter.url == note.url
    exporter.close()
    assert 1 == caplog.text.count("No space left")


def test_ended_boxes_are_kept_by_number(tmp_path: Path, folder: int) -> None:
    """However many runs end within the retention, the latest 32 boxes are kept."""
    now = time.time()
    for number in range(40):
        writer = Writer.create(
            str(tmp_path / "other"), {"run": f"r{number}", "rank": 0, "start": now - 100 + number}
        )
        writer.slots[writer.declare("training_heartbeat_timestamp_seconds")] = now - 100 + number
        writer.end("finished")
        path = Path(str(writer.path))
        writer.close()
        path.rename(tmp_path / path.name)  # where no writer tidies up
    clean(folder, BoxDirectory(folder).scan(), now, retention_seconds=1000)
    left = {box.identity.run for box in BoxDirectory(folder).scan()}
    assert {f"r{number}" for number in range(8, 40)} == left
