"""The launcher's variables against torch.distributed, and an elastic job under the real torchrun."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import trainbeacon
from tests.serving import PATIENCE, environment, wait_for
from trainbeacon import catalogue
from trainbeacon.blackbox.directory import open_directory
from trainbeacon.blackbox.reader import Box, BoxDirectory
from trainbeacon.identity import Place
from trainbeacon.recorder.core import group
from trainbeacon.recorder.hangs import store
from trainbeacon.stack.ports import free_port

torch = pytest.importorskip("torch")
distributed = torch.distributed


@pytest.fixture
def one_rank() -> Iterator[None]:
    """torch.distributed, initialised as rank 0 of 1."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def box_of(folder: Path) -> Box:
    descriptor = open_directory(str(folder))
    try:
        (box,) = BoxDirectory(descriptor).scan()
        return box
    finally:
        os.close(descriptor)


def launched_as(monkeypatch: pytest.MonkeyPatch, rank: int, world_size: int) -> None:
    for name, value in {
        "RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)


SETTINGS: dict[str, Any] = {"run": "r", "serve": "off", "gpu": False, "tags": {"team": "nlp"}}


@pytest.mark.usefixtures("one_rank")
def test_rank_is_the_one_of_the_process_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Variables that contradict torch.distributed do not count: a line names both, the box the group's."""
    launched_as(monkeypatch, 3, 4)
    with trainbeacon.start(**SETTINGS, directory=str(tmp_path)) as beacon:
        assert (0, 1) == (beacon.identity.rank, beacon.identity.world_size)
        assert 0 == box_of(tmp_path).identity.rank
        assert 1.0 == box_of(tmp_path).number("training_world_size")
    assert "the launcher (env) says rank 3 of 4, torch.distributed rank 0 of 1" in caplog.text


def test_group_that_comes_after_the_start_gives_the_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`init_process_group` after `start` is noticed before the first step; what only rank 0 says is gone."""
    with trainbeacon.start(**SETTINGS, directory=str(tmp_path)) as beacon:
        beacon.log(perplexity=3.0)
        beacon.recorder.set_of_run("training_threshold", 5.0, "loss_max")
        assert {"training_run_info", "training_run_tag_info"} <= {name for name, _ in box_of(tmp_path).infos}
        monkeypatch.setattr(group, "place_in_group", lambda: Place(1, 2))
        with beacon.step():
            beacon.log(loss=1.0, perplexity=4.0)
        box = box_of(tmp_path)
    assert (1, 2.0) == (box.identity.rank, box.number("training_world_size"))
    assert (1.0, 1.0) == (box.number("training_steps_total"), box.number("training_loss", "train"))
    of_run = {metric.name for metric in catalogue.ALL if metric.level == "run"}
    assert set() == of_run & {name for name, _ in (*box.infos, *box.values)}
    assert "training_rank_info" in {name for name, _ in box.infos}


def test_group_that_comes_after_the_first_step_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Series keep their rank while they are recorded."""
    with trainbeacon.start(**SETTINGS, directory=str(tmp_path)) as beacon:
        with beacon.step():
            pass
        monkeypatch.setattr(group, "place_in_group", lambda: Place(1, 2))
        beacon.watch()
        assert 0 == box_of(tmp_path).identity.rank


def test_rank_without_torch_distributed_is_the_launchers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script may never initialise torch.distributed."""
    launched_as(monkeypatch, 3, 4)
    with trainbeacon.start(**SETTINGS, directory=str(tmp_path)) as beacon:
        beacon.watch(torch.nn.Linear(1, 1))
        assert 3 == box_of(tmp_path).identity.rank


WORKER = """
import os, sys, time
import trainbeacon
agent = os.getppid()
with trainbeacon.start(serve="off", directory=sys.argv[1], gpu=False):
    while os.getppid() == agent:
        time.sleep(0.05)
"""


class Elastic:
    """Agents of one elastic torchrun job for one or two nodes, all on this machine."""

    def __init__(self, folder: Path) -> None:
        self.boxes = folder / "boxes"
        self.boxes.mkdir()
        self._script = folder / "worker.py"
        self._script.write_text(WORKER)
        self._log = folder / "agents.log"
        self._endpoint = f"127.0.0.1:{free_port()}"
        self._agents: list[subprocess.Popen[bytes]] = []

    def agent(self) -> None:
        """Start one more node."""
        options = ["--nnodes=1:2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-id=e"]
        options += [f"--rdzv-endpoint={self._endpoint}", "--rdzv-conf=last_call_timeout=1"]
        options += ["--local-addr=127.0.0.1", "--monitor-interval=0.2", "--max-restarts=3"]
        env = {name: value for name, value in environment().items() if not name.startswith("TORCHELASTIC_")}
        # With one store for all, torch 2.13's agents wait in vain for each other after a node has joined.
        env |= {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, "-m", "torch.distributed.run", *options, self._script, self.boxes]
        with self._log.open("ab") as log:
            self._agents.append(subprocess.Popen(command, env=env, stdout=log, stderr=log))

    def close(self) -> None:
        for agent in self._agents:
            agent.terminate()
        for agent in self._agents:
            with contextlib.suppress(subprocess.TimeoutExpired):
                agent.wait(PATIENCE)
            agent.kill()
            agent.wait()


@pytest.fixture
def elastic(tmp_path: Path) -> Iterator[Elastic]:
    job = Elastic(tmp_path)
    yield job
    job.close()


def test_elastic_job_grows(elastic: Elastic) -> None:
    """A node that joins restarts rank 0 with the new world size: a later start of the same run and job."""
    descriptor = open_directory(str(elastic.boxes))
    directory = BoxDirectory(descriptor)

    def newest(ranks: int) -> list[Box]:
        """The newest box of each rank, once they all know of that many."""
        found = {}
        for box in sorted(directory.scan(), key=lambda box: box.identity.start):
            found[box.identity.rank] = box
        whole = [box for box in found.values() if box.number("training_world_size") == ranks]
        return sorted(whole, key=lambda box: box.identity.rank) if len(whole) == ranks else []

    elastic.agent()
    [before] = wait_for(lambda: newest(1), what="first rank")
    elastic.agent()
    after = wait_for(lambda: newest(2), what="second rank; see agents.log")
    os.close(descriptor)

    assert [0, 1] == [box.identity.rank for box in after]
    assert {"worker-e"} == {box.identity.run for box in (before, *after)}
    assert before.identity.start < after[0].identity.start
    assert before.identity.pid != after[0].identity.pid
    assert run_info(before) == run_info(after[0])


def run_info(box: Box) -> tuple[str, str]:
    """The run_id and the launcher of a box of rank 0."""
    [labels] = [labels for name, labels in box.infos if name == "training_run_info"]
    return labels[0], labels[3]


def test_rank_that_turns_out_to_be_the_first_keeps_the_accounts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It speaks for the run: its goodput, its thresholds and what else only rank 0 says."""
    launched_as(monkeypatch, 1, 2)
    settings = {**SETTINGS, "thresholds": {"loss_max": 3.0}, "state_file": str(tmp_path / "state.json")}
    with trainbeacon.start(**settings, directory=str(tmp_path / "boxes")) as beacon:
        assert box_of(tmp_path / "boxes").number("training_goodput_seconds_total", "init") is None
        monkeypatch.setattr(group, "place_in_group", lambda: Place(0, 2))
        for _ in range(3):
            with beacon.step():
                pass
    box = box_of(tmp_path / "boxes")
    assert (0, 3.0) == (box.identity.rank, box.number("training_threshold", "loss_max"))
    assert 0.0 < (box.number("training_goodput_seconds_total", "init") or 0.0)
    assert (tmp_path / "state.json").exists()


def test_evidence_is_named_by_the_rank_of_the_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks that all start as rank 0 keep their files apart."""
    settings = {**SETTINGS, "evidence_dir": str(tmp_path / "evidence"), "evidence_seconds": 0.5}
    with trainbeacon.start(**settings, directory=str(tmp_path / "boxes")) as beacon:
        monkeypatch.setattr(group, "place_in_group", lambda: Place(3, 4))
        with beacon.step():
            pass
        (found,) = wait_for(lambda: store.read(str(tmp_path / "evidence")), what="evidence")
    assert (3, True) == (found["rank"], Path(found["path"]).name.startswith(f"{SETTINGS['run']}.3."))
