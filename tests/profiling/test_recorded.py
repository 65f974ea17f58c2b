"""A profile of a run that goes on: what it holds, what it leaves alone, and what it gives way to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import trainbeacon
from tests.serving import wait_for
from trainbeacon.blackbox.directory import open_directory
from trainbeacon.blackbox.reader import BoxDirectory
from trainbeacon.exporter.collectors.base import Families
from trainbeacon.exporter.collectors.health import HealthCollector
from trainbeacon.exporter.health import Health
from trainbeacon.profiling.trace import read
from trainbeacon.recorder.probes.profile_files import TRACE_SUFFIX, Answer, Folder, Request


class Rank:
    """A watched model in this process, with dropout so that random numbers count."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(
            torch.nn.Linear(16, 16), torch.nn.Dropout(0.5), torch.nn.Linear(16, 1)
        )
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.beacon = trainbeacon.start(run="test", directory=str(directory), serve="off", **settings)
        self.beacon.watch(self.model, self.optimizer)
        self.directory = directory
        self.box = os.path.basename(str(self.beacon.recorder.writer.path))
        self.folder = Folder(str(directory))

    def train(self, steps: int = 1) -> None:
        for _ in range(steps):
            self.optimizer.zero_grad()
            self.model(torch.randn(4, 16)).square().mean().backward()
            self.optimizer.step()

    def ask(self, request: Request) -> None:
        """Ask, and wait until the rank has taken it."""
        self.folder.ask(self.box, request)
        wait_for(lambda: self.answer(request), what="answer")

    def answer(self, request: Request) -> Answer | None:
        return self.folder.answered(self.box, request.id)

    def outcome(self, request: Request) -> Answer:
        def over() -> Answer | None:
            answer = self.answer(request)
            return answer if answer is not None and answer.state in ("done", "refused") else None

        return wait_for(over, what="end of the profile")

    def profiled(self) -> float:
        """What the exporter would say: ranks that are profiled now."""
        folder = open_directory(str(self.directory))
        try:
            families = Families()
            HealthCollector(Health(), BoxDirectory(folder), "thread").collect(families)
            family = families.get("trainbeacon_profiles_running")
            return float(family.samples[0].value) if family is not None else -1.0
        finally:
            os.close(folder)

    def traces(self) -> list[str]:
        return sorted(
            name
            for name in os.listdir(self.folder.path)
            if name.endswith(TRACE_SUFFIX) and not name.startswith(".")
        )


@pytest.fixture
def rank(tmp_path: Path) -> Iterator[Rank]:
    found = Rank(tmp_path)
    yield found
    found.beacon.finish()


def steps_in(path: str) -> int:
    """Steps of the optimizer that the trace holds."""
    return sum(each.calls for each in read(path).host if each.name == "AddmmBackward0") // 2


def test_training_is_bit_identical_and_the_trace_has_the_steps(tmp_path: Path) -> None:
    """Weights and random numbers are those of a run that nobody profiled; the trace has the steps."""
    plain = Rank(tmp_path / "plain")
    plain.train(12)
    plain.beacon.finish()
    profiled = Rank(tmp_path / "profiled")
    profiled.train(3)
    request = Request.make(steps=4)
    profiled.ask(request)
    profiled.train(1)
    during = profiled.profiled()
    profiled.train(8)
    answer = profiled.outcome(request)
    after = profiled.profiled()
    profiled.beacon.finish()

    for ours, theirs in zip(profiled.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert ("done", 5, 8, 1.0, 0.0) == (
        answer.state, answer.first_step, answer.last_step, during, after,
    )  # fmt: skip
    assert 4 == steps_in(os.path.join(profiled.folder.path, answer.trace))


def test_the_scripts_own_profiler_comes_first(rank: Rank) -> None:
    """torch has one profiler a process: where the script's is on, the request is refused and says why."""
    rank.train()
    with torch.profiler.profile(acc_events=True) as own:
        request = Request.make(steps=2)
        rank.ask(request)
        rank.train(4)
    answer = rank.outcome(request)
    assert ("refused", True) == (answer.state, "the script's own profiler is on" in answer.text)
    assert 4 == sum(e.count for e in own.key_averages() if e.key == "Optimizer.step#SGD.step")


#: The script begins to profile while ours is on, in this thread or in another one.
OTHER = """
import sys, threading, time, torch
from pathlib import Path
from tests.profiling.test_recorded import Rank, Request
def profile():
    own = torch.profiler.profile(acc_events=True)
    own.start()
    torch.ones(3).cumsum(0)
    own.stop()
    return sum(e.count for e in own.key_averages() if e.key == "aten::cumsum")
rank = Rank(Path(sys.argv[1]))
rank.train()
request = Request.make(steps=50)
rank.ask(request)
rank.train(3)
found = []
if sys.argv[2] == "same":
    found.append(profile())
else:
    thread = threading.Thread(target=lambda: found.append(profile()))
    thread.start()
    while thread.is_alive():
        rank.train()
        time.sleep(0.05)
rank.train(3)
answer = rank.outcome(request)
rank.beacon.finish()
print(found, answer.state, answer.first_step)
"""


@pytest.mark.parametrize("thread", ["same", "other"])
def test_ours_gives_way_to_one_that_the_script_starts(thread: str, tmp_path: Path) -> None:
    """Two profilers at once end the process: ours stops, and the script's own works as without us."""
    line = [sys.executable, "-c", OTHER, str(tmp_path), thread]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert (0, "[1] done 3\n") == (done.returncode, done.stdout[-11:]), done.stdout + done.stderr


def test_a_rank_that_makes_no_step_says_so(rank: Rank) -> None:
    """Whoever asks a stalled rank is sent to its stacks, and training later is not profiled."""
    rank.train()
    request = Request.make(seconds=0.5)
    rank.ask(request)
    answer = rank.outcome(request)
    rank.train(3)
    assert "no step ended within 0.5 s: see `trainbeacon stacks`" == answer.text
    assert ([], None) == (rank.traces(), rank.beacon.timeline.after_step)


def test_only_one_at_a_time(rank: Rank) -> None:
    """A second request is refused while the first is under way, which goes on."""
    rank.train()
    first, second = Request.make(steps=3), Request.make(steps=3)
    rank.ask(first)
    rank.train()
    rank.folder.ask(rank.box, second)
    assert "another profile of this rank is being taken" == rank.outcome(second).text
    rank.train(4)
    wait_for(rank.traces)


def test_the_end_of_the_run_ends_the_profile(tmp_path: Path) -> None:
    """A run that is over has a trace of the steps that it made."""
    rank = Rank(tmp_path)
    rank.train()
    request = Request.make(steps=50)
    rank.ask(request)
    rank.train(3)
    rank.beacon.finish()
    answer = rank.outcome(request)
    assert ("done", 2) == (answer.state, steps_in(os.path.join(rank.folder.path, answer.trace)))


def link(folder: Path, name: Path) -> None:
    (folder / "elsewhere").write_text(json.dumps(Request.make().__dict__))
    name.symlink_to(folder / "elsewhere")


def nonsense(folder: Path, name: Path) -> None:
    name.write_text('{"id": "x", "steps": 1000000, "seconds": 1e9, "tool": "torch", "time": 1}')


def too_much(folder: Path, name: Path) -> None:
    name.write_text("[" * 100000)


def writable(folder: Path, name: Path) -> None:
    name.write_text(json.dumps(Request.make().__dict__))
    name.parent.chmod(0o777)


@pytest.mark.parametrize("trap", [link, nonsense, too_much, writable])
def test_what_is_no_request_of_the_users_starts_nothing(trap: Any, rank: Rank, tmp_path: Path) -> None:
    """A link, nonsense, or a folder that others may write into: counted as an error, and training goes on."""
    rank.train()
    folder = Path(rank.folder.path)
    folder.mkdir(mode=0o700)
    trap(tmp_path, folder / f"{rank.box}.request.json")
    recorder = rank.beacon.recorder
    at = recorder.index["trainbeacon_errors_total", ("helper",)]
    wait_for(lambda: recorder.writer.slots[at] >= 1, what="error that is counted")
    rank.train(3)
    folder.chmod(0o700)
    assert ([], None) == (rank.traces(), rank.beacon.timeline.after_step)


def test_an_event_has_the_next_steps_profiled_once(rank: Rank) -> None:
    """Asked for by `on`, steps after an event are recorded; a loss that stays bad asks once."""
    rank.beacon.on("nonfinite_loss", "profile")
    for _ in range(12):
        rank.beacon.log(loss=float("nan"))
        rank.train()
    (name,) = wait_for(rank.traces)
    wait_for(lambda: rank.profiled() == 0.0)
    assert 5 == steps_in(os.path.join(rank.folder.path, name))


def test_no_profile_of_a_stall(rank: Rank) -> None:
    """A stall has no steps to profile: asking for that raises at once."""
    with pytest.raises(ValueError, match="there is no step to profile"):
        rank.beacon.on("stalled", "profile")


def test_switched_off_it_takes_no_request(tmp_path: Path) -> None:
    """With `probes_off` nothing looks for requests."""
    rank = Rank(tmp_path, probes_off=["profiler"])
    assert rank.beacon.recorder.profile is None
    rank.beacon.finish()
