"""The same training through every adapter is served as the same numbers, and is the same training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path

import pytest

from tests.integrations import job
from tests.serving import REPOSITORY, environment
from trainbeacon.blackbox.directory import open_directory
from trainbeacon.blackbox.reader import Box, BoxDirectory

SERIES: dict[str, tuple[str, ...]] = {
    "steps": ("training_steps_total",),
    "samples": ("training_samples_total",),
    "epochs": ("training_epochs_total",),
    "planned": ("training_steps_planned",),
    "loss": ("training_loss", "train"),
    "norm": ("training_gradient_norm",),
    "clipped": ("training_gradient_clipped_total",),
    "rate": ("training_learning_rate", "0"),
    "validation_loss": ("training_loss", "validation"),
    "accuracy": ("training_accuracy_ratio", "validation"),
    "checkpoints": ("training_checkpoints_total",),
}
#: What an adapter cannot know, or knows otherwise, and why. The table of docs/integrations.md says the same.
GAPS: dict[str, dict[str, str]] = {
    "lightning": {},
    "transformers": {},
    "accelerate": {},
    "deepspeed": {},
    "keras": {
        "loss": "of the last batch of a step, where batches are accumulated",
        "norm": "sampled, not of every step, and of the accumulated batches' last one",
        "clipped": "Keras clips inside its optimizer",
        "checkpoints": "Keras has no event for them",
    },
}


def test_table_of_gaps_is_that_of_the_documentation() -> None:
    """docs/integrations.md names the gaps that the tests allow, and no others."""
    page = (REPOSITORY / "docs/integrations.md").read_text()
    table = page.partition("<!-- gaps")[2].partition("<!-- end of gaps -->")[0]
    rows = [f"| {adapter} | {name} | {why} |" for adapter, gaps in GAPS.items() for name, why in gaps.items()]
    assert rows == table.splitlines()[3:]


@cache
def expected() -> dict[str, float]:
    """What a plain loop measures."""
    return asdict(job.expected())


def settings(folder: Path) -> dict[str, str]:
    """The environment of a process that records into that folder, and is no rank of a launcher's."""
    of_a_launcher = ("RANK", "WORLD_SIZE", "LOCAL_", "TORCHELASTIC")
    return {
        **{name: value for name, value in environment().items() if not name.startswith(of_a_launcher)},
        "TRAINBEACON_RUN": "contract",
        "TRAINBEACON_SERVE": "off",
        "TRAINBEACON_DIRECTORY": str(folder / "boxes"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONWARNINGS": "default",  # of the frameworks there are many
    }


def run(framework: str, folder: Path, *options: str, command: tuple[str, ...] = ()) -> list[str]:
    """Run the job in a process of its own; returns the bits of its weights."""
    line = [sys.executable, "-m", *command, "tests.integrations.job", framework, str(folder), *options]
    done = subprocess.run(line, env=settings(folder), capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[str] = json.loads(done.stdout.splitlines()[-1])["weights"]
    return found


@pytest.fixture(scope="module")
def plain_weights(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    """The weights of a framework's job without a recording; it is run once."""
    return cache(lambda framework: run(framework, tmp_path_factory.mktemp("plain")))


def box_of(folder: Path) -> Box:
    """What the one rank has recorded."""
    descriptor = open_directory(str(folder / "boxes"))
    try:
        (box,) = BoxDirectory(descriptor).scan()
    finally:
        os.close(descriptor)
    return box


def served(box: Box) -> dict[str, float | None]:
    """The numbers of the contract, as they would be served."""
    return {name: box.number(*series) for name, series in SERIES.items()}


def agree(box: Box, gaps: dict[str, str]) -> None:
    """Hold what a box says against what a plain loop measured."""
    found = served(box)
    wanted = {name: value for name, value in expected().items() if name not in gaps}
    assert wanted == pytest.approx({name: found[name] for name in wanted}, rel=1e-4)
    assert 0.0 == sum(value for (name, _), value in box.values.items() if name == "trainbeacon_errors_total")
    assert "finished" == box.state


@pytest.mark.parametrize("framework", job.FRAMEWORKS)
def test_adapter_serves_what_a_plain_loop_measures(
    framework: str, plain_weights: Callable[[str], list[str]], tmp_path: Path
) -> None:
    """Steps, samples, loss, norm and the rest are those of the training, and its weights are its own."""
    recorded = run(framework, tmp_path, "--record")
    agree(box_of(tmp_path), GAPS[framework])
    assert plain_weights(framework) == recorded


_TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m")
#: What starts two ranks: Lightning does it itself; of the others torchrun: their own launchers are not tried.
LAUNCHERS: dict[str, tuple[str, ...]] = {
    "lightning": (),
    "transformers": _TORCHRUN,
    "accelerate": _TORCHRUN,
    "deepspeed": _TORCHRUN,
}


@pytest.mark.parametrize("framework", LAUNCHERS)
def test_two_ranks_serve_what_each_of_them_does(framework: str, tmp_path: Path) -> None:
    """Half of the samples each, all steps, the joint norm before clipping, and who they are."""
    line = [sys.executable, "-m", *LAUNCHERS[framework], "tests.integrations.job", framework]
    done = subprocess.run(
        [*line, str(tmp_path), "--record"],
        env={**settings(tmp_path), "JOB_RANKS": "2", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    descriptor = open_directory(str(tmp_path / "boxes"))
    try:
        boxes = {box.identity.rank: box for box in BoxDirectory(descriptor).scan()}
    finally:
        os.close(descriptor)
    assert [0, 1] == sorted(boxes)
    plain = expected()
    wanted = {name: plain[name] for name in ("steps", "epochs", "norm", "clipped", "rate")}
    wanted |= {"samples": plain["samples"] / 2}
    for box in boxes.values():
        found = served(box)
        assert wanted == pytest.approx({name: found[name] for name in wanted}, rel=1e-4)
        assert (2.0, "finished") == (box.number("training_world_size"), box.state)
        errors = [v for (name, _), v in box.values.items() if name == "trainbeacon_errors_total"]
        assert 0.0 == sum(errors)


def test_stages_of_zero_are_served_alike(tmp_path: Path) -> None:
    """DeepSpeed's partitioned optimizers and gradients: the same numbers, and nothing changed."""
    plain = run("zero", tmp_path / "plain")
    recorded = run("zero", tmp_path / "recorded", "--record")
    for stage in ("1", "2"):
        agree(box_of(tmp_path / "recorded" / stage), GAPS["deepspeed"])
    assert plain == recorded


@pytest.mark.parametrize("framework", ["lightning", "transformers", "keras"])
def test_without_a_line_of_code_the_adapter_is_used(
    framework: str, plain_weights: Callable[[str], list[str]], tmp_path: Path
) -> None:
    """`trainbeacon run` finds the framework, and its adapter records the same numbers."""
    recorded = run(framework, tmp_path, command=("trainbeacon", "run", "-m"))
    agree(box_of(tmp_path), GAPS[framework])
    assert plain_weights(framework) == recorded
