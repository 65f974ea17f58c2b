"""Two ranks: sharded models and optimizers, and what each of them waits for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest

from tests.serving import PATIENCE, REPOSITORY, environment
from trainbeacon.blackbox.directory import open_directory
from trainbeacon.blackbox.reader import Box, BoxDirectory

pytest.importorskip("torch")

from tests.contract.truth.job import STEPS


@dataclass(frozen=True)
class Ranks:
    """The boxes by run and rank, and what each rank measured."""

    boxes: dict[tuple[str, int], Box]
    measured: dict[int, dict[str, dict[str, float]]]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    folder = tmp_path_factory.mktemp("ranks")
    launcher = ("RANK", "LOCAL_", "WORLD_SIZE", "TORCHELASTIC")
    env = {name: value for name, value in environment().items() if not name.startswith(launcher)}
    line = [sys.executable, "-m", "tests.contract.truth.two_ranks", str(folder)]
    done = subprocess.run(
        line,
        env={**env, "PYTHONWARNINGS": "ignore", "GLOO_SOCKET_IFNAME": "lo"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    descriptor = open_directory(str(folder / "boxes"))
    try:
        boxes = BoxDirectory(descriptor).scan()
    finally:
        os.close(descriptor)
    return Ranks(
        {(box.identity.run, box.identity.rank): box for box in boxes},
        {rank: json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)},
    )


@pytest.mark.parametrize("run", ["fsdp2", "zero"])
@pytest.mark.parametrize("rank", [0, 1])
def test_numbers_of_a_rank(rank: int, run: str, ranks: Ranks) -> None:
    """Steps, samples, the norm over all shards before clipping, and the world are those of the job."""
    box, measured = ranks.boxes[run, rank], ranks.measured[rank][run]
    assert pytest.approx(measured["norm"], rel=1e-4) == box.number("training_gradient_norm")
    assert (float(STEPS), float(STEPS), 4.0 * STEPS, 2.0, 0.0, "finished") == (
        box.number("training_steps_total"),
        box.number("training_gradient_clipped_total"),
        box.number("training_samples_total"),
        box.number("training_world_size"),
        box.number("trainbeacon_errors_total", "hooks"),
        box.state,
    )


@pytest.mark.parametrize("run", ["fsdp2", "zero"])
def test_waits(run: str, ranks: Ranks) -> None:
    """The wait for data is the slow rank's, that for others is the fast one's; a save is in neither."""
    slow, fast = ranks.boxes[run, 1], ranks.boxes[run, 0]
    measured = ranks.measured[1][run]
    waited = slow.number("training_phase_seconds_total", "data_wait") or 0.0
    assert measured["data_wait"] <= waited + 0.01
    assert (fast.number("training_phase_seconds_total", "data_wait") or 0.0) < waited
    saved = slow.number("training_phase_seconds_total", "checkpoint") or 0.0
    assert pytest.approx(measured["checkpoint"], abs=0.1) == saved
    steps = slow.number("training_step_duration_seconds", "sum") or 0.0
    phases = {name[1][0]: v for name, v in slow.values.items() if name[0] == "training_phase_seconds_total"}
    assert steps <= sum(phases.values()) - phases["checkpoint"] + 0.01


def test_accounts_are_of_the_first_rank(ranks: Ranks) -> None:
    """Both ranks began as rank 0, before they joined: only the one that is speaks for the run."""
    for rank in (0, 1):
        kinds = [n for n in ranks.boxes["fsdp2", rank].values if n[0] == "training_goodput_seconds_total"]
        assert (rank == 0) == bool(kinds)
