"""What made a checkpoint, in the file beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import trainbeacon
from tests.serving import wait_for
from trainbeacon.recorder.checkpoints.archive import SUFFIX, beside


def read(checkpoint: Path) -> dict[str, Any]:
    """The file, once it is there."""
    path = Path(beside(str(checkpoint)))
    wait_for(path.exists)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def beacon(folder: Path, **settings: Any) -> trainbeacon.Beacon:
    (folder / "boxes").mkdir(mode=0o700)
    return trainbeacon.start(run="best", directory=str(folder / "boxes"), serve="off", **settings)


def test_a_checkpoint_says_what_made_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code, command, settings, versions, seed, environment, and how good the run was at that step."""
    monkeypatch.setenv("NCCL_DEBUG", "WARN")
    monkeypatch.setenv("CUDA_API_KEY", "sk-0123456789abcdef0123456789abcdef")
    monkeypatch.setattr("sys.orig_argv", ["python", "train.py", "--lr=0.1"])
    torch.manual_seed(7)
    given = {"lr": 0.1, "dataset": "c4-v2", "wandb_key": "0123456789abcdef"}
    with beacon(tmp_path, hyperparameters=given, tags={"team": "nlp"}) as running:
        for _ in range(3):
            with running.step():
                running.log(loss=0.5)
        with running.checkpoint(tmp_path / "model.pt"):
            torch.save({}, tmp_path / "model.pt")
        found = read(tmp_path / "model.pt")
    assert ("best", "model.pt", 3, 7) == tuple(found[key] for key in ("run", "checkpoint", "step", "seed"))
    assert {"lr": 0.1, "dataset": "c4-v2"} == found["hyperparameters"]
    assert {"team": "nlp"} == found["tags"]
    assert 0.5 == found["numbers"]["loss/train"]
    assert torch.__version__ == found["packages"]["torch"]
    assert "WARN" == found["environment"]["NCCL_DEBUG"]
    assert "python train.py --lr=0.1" == found["command"]
    assert {"commit", "branch", "changed_files"} == set(found["git"] or ("commit", "branch", "changed_files"))
    for secret in ("sk-0123456789", "0123456789abcdef"):
        assert secret not in json.dumps(found)


def test_secrets_on_the_command_line_are_blanked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """People pass keys as options, and a checkpoint is shared."""
    monkeypatch.setattr(
        "sys.orig_argv", ["python", "train.py", "--hf-token", "hf_abcdefghijklmnop", "--lr=1"]
    )
    with beacon(tmp_path) as running, running.checkpoint(tmp_path / "model.pt"):
        (tmp_path / "model.pt").touch()
    command = read(tmp_path / "model.pt")["command"]
    assert "hf_abcdefghijklmnop" not in command
    assert "--lr=1" in command


def test_it_goes_when_its_checkpoint_does(tmp_path: Path) -> None:
    """A script that keeps its last two checkpoints is not left with a file of each step."""
    with beacon(tmp_path) as running:
        for number in range(4):
            path = tmp_path / f"step-{number}"
            with running.checkpoint(path):
                path.mkdir()
            read(path)
            if number > 1:
                (tmp_path / f"step-{number - 2}").rmdir()
    left = sorted(path.name for path in tmp_path.glob(f".*{SUFFIX}"))
    assert [f".step-{number}{SUFFIX}" for number in (1, 2, 3)] == left
    assert [f"step-{number}" for number in (2, 3)] == sorted(path.name for path in tmp_path.glob("step-*"))


def test_a_checkpoint_that_failed_or_went_elsewhere_has_none(tmp_path: Path) -> None:
    """Nothing describes what is not there; and an unwritable folder does not disturb the training."""
    with beacon(tmp_path) as running:
        with pytest.raises(OSError, match="full"), running.checkpoint(tmp_path / "model.pt"):
            raise OSError("full")
        with running.checkpoint("s3://bucket/model.pt"):
            pass
    assert [] == list(tmp_path.rglob(f".*{SUFFIX}"))
