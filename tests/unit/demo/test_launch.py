"""Ranks are started as torchrun would and never left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from trainbeacon.demo.launch import Ranks, describe
from trainbeacon.stack import processes, web
from trainbeacon.stack.ports import free_port

TINY = [
    "--width=16",
    "--heads=2",
    "--layers=1",
    "--context=16",
    "--batch-size=4",
    "--text-bytes=100000",
    "--validation-windows=16",
    "--deterministic",
]
#: A stand-in for a training script that never ends, from the standard library.
ENDLESS = ["0", "--bind", "127.0.0.1"]
LAUNCHER = """
import sys, time
from pathlib import Path
from trainbeacon.demo.launch import Ranks
with Ranks(2, {arguments}, Path({folder!r}), module="http.server") as ranks:
    print(*ranks.pids, flush=True)
    time.sleep(600)
"""


def gone(processes_: list[psutil.Process]) -> bool:
    return not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in processes_)


def test_ranks_train_together_resume_exactly_and_need_no_beacon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ranks end well; the run resumed from its checkpoint, unwatched, ends with the very same weights."""
    monkeypatch.setenv("TRAINBEACON_SERVE", "off")
    common = [*TINY, "--steps=12", "--checkpoint-every=8", "--evaluate-every=6"]
    common += [f"--directory={tmp_path / 'boxes'}", f"--checkpoint={tmp_path / 'checkpoint.pt'}"]
    checksums = []
    for attempt, arguments in enumerate((["--seed=3"], ["--seed=3", "--resume"])):
        weights = tmp_path / f"weights{attempt}"
        with Ranks(2, [*common, *arguments, f"--dump-weights={weights}"], tmp_path) as ranks:
            assert ranks.wait(120)
            assert ranks.results() == [0, 0], processes.last_lines(ranks.log(0), 20)
        checksums.append(weights.read_text())
        monkeypatch.setenv("TRAINBEACON_ENABLED", "0")
    assert checksums[0] == checksums[1]


def test_no_rank_outlives_the_context(tmp_path: Path) -> None:
    """Leaving the context ends all ranks, a stopped one too."""
    with Ranks(2, ENDLESS, tmp_path, module="http.server") as ranks:
        started = [psutil.Process(pid) for pid in ranks.pids]
        os.kill(ranks.pids[1], signal.SIGSTOP)
        assert ranks.alive
    assert gone(started)
    assert [describe(result) for result in ranks.results() if result] == ["killed by SIGTERM"] * 2


def test_no_rank_outlives_a_launcher_that_is_killed(tmp_path: Path) -> None:
    """When the launcher dies of SIGKILL, the kernel ends its ranks."""
    script = LAUNCHER.format(arguments=ENDLESS, folder=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        started = [psutil.Process(int(pid)) for pid in launcher.stdout.readline().split()]
        # Until a rank has become the program that it was started for, it may not be tied to us yet.
        assert processes.wait_until(lambda: all("http.server" in each.cmdline()[1:3] for each in started), 20)
        launcher.kill()
        assert processes.wait_until(lambda: gone(started), 20)


def test_ctrl_c_ends_the_demo_with_all_that_it_started(tmp_path: Path) -> None:
    """Training is served on the port asked for; SIGINT ends ranks and exporter and gives status 0."""
    port = free_port()
    line = [sys.executable, "-m", "trainbeacon", "demo", "--ranks=2", f"--port={port}", "--no-stack"]
    with (
        (tmp_path / "output").open("w") as output,
        subprocess.Popen(line, stdout=output, stderr=output) as demo,
    ):
        assert processes.wait_until(lambda: "training_loss{" in metrics(port), 90, every=0.3)
        started = psutil.Process(demo.pid).children(recursive=True)
        assert len(started) == 3  # two ranks and the exporter
        demo.send_signal(signal.SIGINT)
        assert demo.wait(30) == 0
        assert gone(started)
    assert "trained" in (tmp_path / "output").read_text()


def test_a_taken_port_is_said_at_once() -> None:
    """A port on which somebody listens ends the demo before anything is started, with the way out."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = [sys.executable, "-m", "trainbeacon", "demo", f"--port={port}"]
        done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert f"port {port}" in done.stdout
    assert "--port" in done.stdout


def metrics(port: int) -> str:
    try:
        return web.get(f"http://127.0.0.1:{port}/metrics")
    except OSError:
        return ""
