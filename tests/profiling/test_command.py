"""`trainbeacon profile` on a process that trains, and what it says of a trace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving import environment, wait_for
from trainbeacon.profiling import text
from trainbeacon.profiling.trace import summary

SCRIPT = Path(__file__).with_name("trained.py")


class Machine:
    """A folder of boxes with one run in it, and the command."""

    def __init__(self, folder: Path) -> None:
        self.boxes = folder / "boxes"
        self.boxes.mkdir(mode=0o700)
        self.stop, self.output = folder / "stop", folder / "traces"
        self.environ = environment() | {"TRAINBEACON_DIRECTORY": str(self.boxes)}
        line = [sys.executable, str(SCRIPT), str(self.stop)]
        self.rank = subprocess.Popen(line, env=self.environ, stdout=subprocess.PIPE, text=True)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        line = [sys.executable, "-m", "trainbeacon", "profile", *arguments, "--directory", str(self.boxes)]
        pipe = subprocess.PIPE
        return subprocess.Popen(line, env=self.environ, stdout=pipe, stderr=pipe, text=True)

    def run(self, *arguments: str) -> tuple[int, str, str]:
        process = self.start(*arguments)
        out, errors = process.communicate(timeout=120)
        return process.returncode, out, errors


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    found = Machine(tmp_path_factory.mktemp("profile"))
    assert found.rank.stdout is not None
    assert "ready\n" == found.rank.stdout.readline()
    yield found
    found.stop.touch()
    found.rank.communicate(timeout=120)


def test_verdict_first_and_the_trace_is_the_askers(machine: Machine) -> None:
    """One command gives the verdict, the operations and a trace; the rank keeps none and trains on."""
    status, out, errors = machine.run("small", "--steps", "3", "-o", str(machine.output))
    first = out.splitlines()[0]
    (trace,) = machine.output.iterdir()
    assert (0, True) == (status, first.startswith("rank 0 of small, steps ")), out + errors
    assert "no operation of PyTorch runs: the script itself, Python or data" in first  # it sleeps
    assert "aten::addmm" in out
    assert f"trace: {trace} " in out
    assert [] == [name for name in os.listdir(machine.boxes / f"profile-{os.geteuid()}") if "trace" in name]
    assert machine.rank.poll() is None
    again = machine.run("--read", str(trace), "--json")
    assert (0, str(trace)) == (again[0], json.loads(again[1])["trace"])


WRONG = {
    "another run": (["other"], 1, "run 'other' is not on this machine: there is small"),
    "another rank": (["--rank", "7"], 1, "rank 7 is not on this machine: here --rank is one of 0"),
    "no steps": (["--steps", "0"], 2, "--steps 0 is not possible: give 1 to 100"),
    "for ever": (["--seconds", "1e9"], 2, "give more than 0, at most 120"),
    "no nsys": (["--nsys"], 2, "no nsys is on the PATH: leave it out for torch.profiler"),
    "no trace": (["--read", str(SCRIPT)], 1, "is no trace of torch.profiler"),
    "no file": (["--read", "/nowhere/x.json"], 1, "No such file"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_says_what_to_give(
    case: str, machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each mistake ends with one line that names what can be had, and no traceback."""
    from trainbeacon.cli import main

    arguments, expected, words = WRONG[case]
    monkeypatch.setenv("PATH", "/nowhere")
    status = main(["profile", *arguments, "--directory", str(machine.boxes)])
    said = capsys.readouterr()
    assert (expected, "", 1) == (status, said.out, len(said.err.splitlines()))
    assert words in said.err


def test_ctrl_c_withdraws_the_request(machine: Machine) -> None:
    """Whoever changes their mind leaves nothing behind: no traceback, no request."""
    os.kill(machine.rank.pid, signal.SIGSTOP)
    try:
        asking = machine.start("--seconds", "60")
        folder = machine.boxes / f"profile-{os.geteuid()}"
        wait_for(lambda: [name for name in os.listdir(folder) if "request" in name])
        asking.send_signal(signal.SIGINT)
        out, errors = asking.communicate(timeout=60)
        left = [name for name in os.listdir(folder) if "request" in name]
    finally:
        os.kill(machine.rank.pid, signal.SIGCONT)
    assert (130, "", []) == (asking.returncode, out, left)
    assert "Traceback" not in errors


def event(name: str, start: float, length: float, kind: str = "cpu_op", thread: int = 1) -> dict[str, object]:
    return {"ph": "X", "cat": kind, "name": name, "ts": start, "dur": length, "tid": thread}


def test_own_time_is_without_what_runs_inside() -> None:
    """A linear layer does not hide the multiplication inside it, and threads have their own."""
    found = summary(
        [event("linear", 0, 100), event("mm", 10, 80), event("add", 150, 50), event("copy", 0, 190, thread=2)]
    )
    own = {each.name: round(each.seconds * 1e6) for each in found.host}
    assert {"mm": 80, "add": 50, "linear": 20, "copy": 190} == own


TRACES = {
    "operations of PyTorch take 90% of the time, most in mm (1 calls)": [
        event("mm", 0, 90),
        event("add", 99, 0.01),
        event("x", 100, 0.01),
    ],
    "60% of the time no operation of PyTorch runs: the script itself, Python or data. "
    "Most of it is between mm and add": [event("mm", 0, 30), event("add", 90, 10)],
    "the GPU is idle for 70% of the time: it waits for this process, whose operations and gaps are below": [
        event("mm", 0, 100),
        event("gemm", 20, 30, "kernel"),
    ],
    "the GPU is busy for 90% of the time, most in gemm (1 calls)": [
        event("mm", 0, 100),
        event("gemm", 5, 90, "kernel"),
    ],
    "80% of the time the rank waits for other ranks: profile the one that they wait for": [
        event("c10d::allreduce_", 0, 80),
        event("mm", 80, 20),
    ],
    "the trace has no operation of PyTorch: nothing can be said of it": [],
}


@pytest.mark.parametrize("sentence", TRACES)
def test_verdict_names_what_the_time_goes_to(sentence: str) -> None:
    """Each of the causes that a trace can show has its sentence."""
    assert sentence == text.verdict(summary(TRACES[sentence]))
