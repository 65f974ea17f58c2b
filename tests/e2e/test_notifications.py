"""From the loss in a training process to the message that somebody reads, over real parts only.

Four real training jobs (DistributedDataParallel over gloo) run side by side under one Prometheus and
one Alertmanager with the shipped rules and routes: three have a fault, one is healthy for as long.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from trainbeacon.blackbox.directory import open_directory
from trainbeacon.blackbox.election import read_note
from trainbeacon.demo.launch import Ranks
from trainbeacon.stack import binaries
from trainbeacon.stack.ports import free_port
from trainbeacon.stack.processes import wait_until
from trainbeacon.stack.receiver import WATCHDOG, Notification
from trainbeacon.stack.stack import Stack

pytest.importorskip("torch")

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

#: The rank at fault; the others are its victims.
CULPRIT = 1
FAULTS = {"nan": "TrainingLossNotFinite", "crash": "TrainingRankLost", "hang": "TrainingRankLost"}
SECONDS_TO_MESSAGE = 240.0
HEALTHY_SECONDS = 60.0  # about as long as the faults take to be reported
TINY = ("--context=16", "--width=16", "--heads=2", "--layers=1", "--batch-size=2", "--text-bytes=200000")
PACE = ("--evaluate-every=200", "--checkpoint-every=300", "--validation-windows=16")


@dataclass
class Scene:
    """The jobs as they run, and the stack that watches them."""

    jobs: dict[str, Ranks]
    stack: Stack

    def message(self, run: str) -> Notification | None:
        """The first notification of the alert that the run's fault calls for."""
        wanted = FAULTS[run]
        return self.stack.wait_for(
            lambda each: each.alert == wanted and each.labels.get("run") == run, SECONDS_TO_MESSAGE
        )

    def about(self, run: str) -> list[str]:
        """All alerts about a run that reached somebody."""
        return [each.alert for each in self.stack.notifications if each.labels.get("run") == run]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Starts everything; afterwards nothing of it is left."""
    if not binaries.find().complete:
        pytest.skip("Prometheus and Alertmanager are not available here: `make tools`")
    folder = tmp_path_factory.mktemp("e2e")
    ports = {run: free_port() for run in (*FAULTS, "healthy")}
    with ExitStack() as closing:
        stack = closing.enter_context(Stack([f"127.0.0.1:{port}" for port in ports.values()], interval=1.0))
        jobs = {}
        for run, port in ports.items():
            home = folder / run
            home.mkdir()
            closing.callback(_end_exporter, home / "boxes")
            jobs[run] = closing.enter_context(
                Ranks(2 if run == "healthy" else 3, _line(run, port, home), home)
            )
        yield Scene(jobs, stack)


def _line(run: str, port: int, home: Path) -> list[str]:
    line = [f"--run={run}", f"--port={port}", f"--directory={home / 'boxes'}"]
    line += [f"--checkpoint={home / 'checkpoint.pt'}", *TINY, *PACE, "--steps=1000000"]
    if run == "healthy":
        return [*line, f"--seconds={HEALTHY_SECONDS}"]
    return [*line, "--seconds=3600", f"--fault={run}", f"--fault-rank={CULPRIT}", "--fault-step=300"]


def _end_exporter(boxes: Path) -> None:
    """End the exporter that a rank started, which would linger for a minute."""
    if not boxes.exists():
        return
    descriptor = open_directory(str(boxes))
    note = read_note(descriptor)
    os.close(descriptor)
    if note is not None:
        with suppress(ProcessLookupError):
            os.kill(note.pid, signal.SIGINT)


def test_a_nan_reaches_somebody_with_run_and_rank(scene: Scene) -> None:
    """One rank's NaN spreads to all by the averaged gradients; the message names the rank it began on."""
    message = scene.message("nan")
    assert message is not None, scene.about("nan")
    assert message.receiver == "team"
    assert "Run nan" in message.annotations["description"]
    assert re.search(rf"Look first at rank {CULPRIT}\b", message.annotations["description"])
    assert message.annotations["runbook_url"].endswith("/TrainingLossNotFinite.md")


def test_a_killed_rank_reaches_somebody_with_run_and_rank(scene: Scene) -> None:
    """The killed rank is named as crashed, not the ranks that failed because it was gone."""
    message = scene.message("crash")
    assert message is not None, scene.about("crash")
    assert message.labels["rank"] == str(CULPRIT)
    assert "crashed" in message.annotations["description"]
    lost = {each.labels["rank"] for each in scene.stack.notifications if each.labels.get("run") == "crash"}
    assert lost == {str(CULPRIT)}


def test_a_stopped_rank_reaches_somebody_with_run_and_rank(scene: Scene) -> None:
    """A process that was stopped, while all others wait for it, is named as silent."""
    message = scene.message("hang")
    assert message is not None, scene.about("hang")
    assert message.labels["rank"] == str(CULPRIT)
    assert "silent" in message.annotations["description"]
    assert "host " in message.annotations["description"]


def test_a_healthy_run_sends_nothing_but_the_watchdog(scene: Scene) -> None:
    """All that time, at its end and well after it, nobody is notified of anything about the healthy run."""
    for run in FAULTS:
        assert scene.message(run) is not None
    assert scene.jobs["healthy"].wait(SECONDS_TO_MESSAGE)
    assert scene.jobs["healthy"].results() == [0, 0]
    last_step = 'max(training_last_step_timestamp_seconds{run="healthy"})'
    assert wait_until(lambda: scene.stack.query(f"time() - {last_step} > 20"), SECONDS_TO_MESSAGE)
    finished = scene.stack.query('sum(training_state{run="healthy",state="finished"})')
    assert [value for _, value in finished] == [2.0]
    assert scene.about("healthy") == []
    without_run = {each.alert for each in scene.stack.notifications if "run" not in each.labels}
    assert without_run == {WATCHDOG}
