"""What a script gives to another tracker is recorded, and the tracker's own files are what they would be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integrations.test_contract import box_of, settings
from trainbeacon.integrations.names import Recorded, meaning

HEAD = """
import sys, trainbeacon
folder = sys.argv[1]
"""
SCRIPTS = {
    "tensorboard": """
from torch.utils.tensorboard import SummaryWriter
writer = SummaryWriter(folder + "/events")
with trainbeacon.start(mirror=["tensorboard"]) as beacon:
    for step in range(3):
        with beacon.step():
            pass
        writer.add_scalar("train/loss", 3.0 - step, step)
        writer.add_scalar("Perplexity", 7.0, global_step=step)
        writer.add_scalars("eval", {"loss": 4.0, "acc": 0.5}, step)
writer.close()
""",
    "tensorboardX": """
from tensorboardX import SummaryWriter
with trainbeacon.start() as beacon:
    beacon.mirror("tensorboard")
    writer = SummaryWriter(folder + "/events")
    for step in range(3):
        writer.add_scalar("train/loss", 3.0 - step, step)
        writer.add_scalar("Perplexity", 7.0, global_step=step)
        writer.add_scalars("eval", {"loss": 4.0, "acc": 0.5}, step)
    writer.close()
""",
    "mlflow": """
import mlflow
mlflow.set_tracking_uri("sqlite:///" + folder + "/mlflow.db")
with trainbeacon.start(mirror=["mlflow"]) as beacon, mlflow.start_run():
    for step in range(3):
        mlflow.log_metric("train_loss", 3.0 - step, step=step)
        mlflow.log_metrics({"eval/loss": 4.0, "eval/acc": 0.5, "Perplexity": 7.0}, step=step)
""",
    "wandb": """
with trainbeacon.start(mirror=["wandb"]) as beacon:
    import wandb
    wandb.init(mode="offline", dir=folder, project="p")
    for step in range(3):
        wandb.log({"train/loss": 3.0 - step, "Perplexity": 7.0, "eval": {"loss": 4.0, "acc": 0.5}})
        wandb.log({"note": "text", "ok": True, "train/global_step": step})
    wandb.finish()
""",
}


@pytest.mark.parametrize("tracker", SCRIPTS)
def test_numbers_of_a_tracker_are_recorded(tracker: str, tmp_path: Path) -> None:
    """Names whose meaning is sure become the catalogue's metrics, the rest keep their names."""
    done = subprocess.run(
        [sys.executable, "-c", HEAD + SCRIPTS[tracker], str(tmp_path)],
        env={**settings(tmp_path), "WANDB_SILENT": "true"},
        capture_output=True,
        text=True,
        timeout=200,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    box = box_of(tmp_path)
    if tracker == "wandb":  # W&B flattens with dots what is nested
        assert 0.5 == box.number("training_accuracy_ratio", "validation")
    assert 1.0 == box.number("training_loss", "train")
    assert 4.0 == box.number("training_loss", "validation")
    assert 7.0 == box.number("training_metric", "Perplexity", "train")
    assert 0.0 == box.number("trainbeacon_errors_total", "value")
    assert set(os.listdir(tmp_path)) > {"boxes"}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("loss", 1.0, ("loss", "train")),
        ("train/loss", 1.0, ("loss", "train")),
        ("val_loss", 1.0, ("loss", "validation")),
        ("eval/accuracy", 0.5, ("accuracy", "validation")),
        ("eval/accuracy", 50.0, ("eval/accuracy", "validation")),
        ("test_acc", 0.5, ("accuracy", "test")),
        ("train/learning_rate", 0.1, ("learning_rate", "train")),
        ("val/learning_rate", 0.1, ("val/learning_rate", "validation")),
        ("rewards/mean", 0.1, ("rewards/mean", "train")),
        ("step", 3, ("step_logged", "train")),
        ("loss_scale_of_mine", 1.0, ("loss_scale_of_mine", "train")),
    ],
)
def test_meaning_of_a_name(name: str, value: float, expected: tuple[str, str]) -> None:
    """Only a name whose meaning is sure is taken for more than a name."""
    assert Recorded(expected[0], value, expected[1]) == meaning(name, value)
