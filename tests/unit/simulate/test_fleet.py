"""The fleet as Prometheus meets it: targets, the real boxes and server, and a clean end."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulated import READY, simulated
from trainbeacon.cli import main
from trainbeacon.exporter.http.wsgi import Environ, StartResponse
from trainbeacon.simulate.fleet import Size
from trainbeacon.simulate.history import seconds_of
from trainbeacon.simulate.node import InTurn
from trainbeacon.simulate.scenarios import SCENARIOS, Plan
from trainbeacon.simulate.session import Options, Session
from trainbeacon.testing import Series, read_exposition, series

WAIT_SECONDS = 120.0


@pytest.fixture
def session(tmp_path: Path) -> Iterator[tuple[Session, list[str]]]:
    """A running session of 4 ranks on 2 nodes, and the addresses of its targets."""
    options = Options(
        Size(4, 2, 2), Plan(["exporter-loss"], 0.5, None), sd_dir=str(tmp_path), truth=str(tmp_path / "truth")
    )
    running = Session(options, io.StringIO())
    thread = threading.Thread(target=running.run)
    thread.start()
    path = tmp_path / "trainbeacon-simulate.json"
    wait_for(path.exists)
    yield running, json.loads(path.read_text())[0]["targets"]
    running.stop()
    thread.join(WAIT_SECONDS)
    assert not thread.is_alive()
    assert ["truth"] == [entry.name for entry in tmp_path.iterdir()]


def wait_for(condition: object) -> None:
    """Wait until the condition holds, with an end."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def scrape(address: str) -> dict[Series, float]:
    """What a target serves."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=120) as answer:
        return read_exposition(answer.read().decode())


def is_up(address: str) -> bool:
    """Whether anybody answers there."""
    try:
        scrape(address)
    except OSError:
        return False
    return True


def test_each_node_is_a_target_with_its_own_ranks(session: tuple[Session, list[str]]) -> None:
    """Real boxes, collectors and servers; one server that goes comes back at its address."""
    running, targets = session
    assert 2 == len(set(targets))
    (truth,) = running.injections
    lost = targets[[node.hostname for node in running.fleet.nodes].index(truth.hostname)]
    (other,) = set(targets) - {lost}
    wait_for(lambda: not is_up(lost))
    served = scrape(other)
    assert 1.0 == served[series("trainbeacon_collector_success", collector="ranks")]
    assert 2 == sum(one.name == "training_rank_info" for one in served)
    assert 2.0 == served[series("trainbeacon_blackboxes", state="live")]
    with running.fleet.guard:
        for run in running.fleet.runs:
            for fault in run.scenarios:
                fault.ends = run.now
    wait_for(lambda: is_up(lost))


def test_boxes_in_files_and_in_memory_serve_the_same() -> None:
    """What holds for the small fleet of a test holds for the large one that has no files."""
    with simulated("crash-resume") as memory, simulated("crash-resume", in_memory=False) as files:
        for at in (10.0, READY + 20, READY + 120):
            assert {one for one in memory.at(at) if not _own(one)} == {
                one for one in files.at(at) if not _own(one)
            }
        left = {one: value for one, value in memory.now().items() if not _own(one)}
        right = {one: value for one, value in files.now().items() if not _own(one)}
        assert left == pytest.approx(right)


def _own(one: Series) -> bool:
    """The exporter's own health: its durations differ, and the boxes of dead attempts."""
    return one.name.startswith("trainbeacon_")


def test_ranks_are_dealt_to_nodes_and_runs() -> None:
    """Every GPU has one rank, runs take neighbours, and nothing is left over."""
    size = Size(ranks=12, nodes=3, runs=2)
    places = [place for run in range(2) for place in size.places(run)]
    assert 12 == len(set(places))
    assert [6, 6] == [len(size.places(run)) for run in range(2)]
    assert {0, 1, 2} == {place.node for place in places}
    with pytest.raises(ValueError, match="2 ranks are too few for 3 nodes"):
        Size(2, 3, 1)


def test_the_list_names_every_scenario(capsys: pytest.CaptureFixture[str]) -> None:
    """`--list` is how one learns what there is."""
    assert 0 == main(["simulate", "--list"])
    assert list(SCENARIOS) == [line.split()[0] for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scenario", "flood"], "no scenario flood"),
        (["--ranks", "2", "--nodes", "4"], "2 ranks are too few"),
        (["--history", "1h"], "--history needs --out FILE or --blocks DIR"),
    ],
)
def test_misuse_is_named(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be done is said in one line, with exit status 2."""
    assert 2 == main(["simulate", *arguments])
    assert words in capsys.readouterr().err


def test_times_are_written_as_people_write_them() -> None:
    """A day, ninety minutes, and what is none."""
    assert [86400.0, 5400.0, 172800.0] == [seconds_of(text) for text in ("24h", "90m", "2d")]
    for text in ("24", "h", "-1h", "0s"):
        with pytest.raises(ValueError, match="no time like"):
            seconds_of(text)


def test_ctrl_c_ends_it_cleanly(tmp_path: Path) -> None:
    """Within seconds, with status 0, with neither targets nor boxes left behind."""
    line = [sys.executable, "-m", "trainbeacon", "simulate", "--ranks", "2", "--nodes", "1", "--runs", "1"]
    with subprocess.Popen([*line, "--sd-dir", str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        wait_for(lambda: any(tmp_path.iterdir()))
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=WAIT_SECONDS)
    assert (0, []) == (process.returncode, list(tmp_path.iterdir()))
    assert "look: curl -s http://127.0.0.1:" in output
    assert [] == [name for name in os.listdir("/dev/shm") if name == f"trainbeacon-simulate-{process.pid}"]


def test_a_scrape_that_nobody_waits_for_any_more_is_not_answered() -> None:
    """It is refused after the time that Prometheus says; one that comes when all is free is answered."""
    guard, held, free = threading.RLock(), threading.Event(), threading.Event()
    asked: list[str] = []

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        asked.append(environ["PATH_INFO"])
        start_response("200 OK", [])
        return [b"page"]

    def hold() -> None:
        with guard:
            held.set()
            free.wait(WAIT_SECONDS)

    def ask(path: str) -> str:
        said: list[str] = []
        environ = {"PATH_INFO": path, "HTTP_X_PROMETHEUS_SCRAPE_TIMEOUT_SECONDS": "0.05"}
        InTurn(application, guard)(environ, lambda status, headers: said.append(status))
        return said[0]

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(WAIT_SECONDS)
    assert ask("/late").startswith("503")
    free.set()
    holder.join()
    assert ask("/again").startswith("200")
    assert asked == ["/again"]
