"""What `watch` takes as a model."""

from __future__ import annotations

from pathlib import Path

import pytest

import trainbeacon
from tests.boxes import only_box

torch = pytest.importorskip("torch")


def test_several_models_are_watched_by_one_call(tmp_path: Path) -> None:
    """As a GAN's two networks: the first optimizer counts the steps, nothing goes wrong."""
    models = [torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    with trainbeacon.start(run="r", directory=str(tmp_path), serve="off") as beacon:
        beacon.watch(models, optimizers)
        for _ in range(3):
            for model, optimizer in zip(models, optimizers, strict=True):
                model(torch.ones(1, 2)).sum().backward()
                optimizer.step()
        box = only_box(tmp_path)
    assert 3.0 == box.number("training_steps_total")
    assert 0.0 < (box.number("training_phase_seconds_total", "forward") or 0.0)


def test_what_is_no_model_is_told_in_one_sentence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The type that was given is named, and training goes on."""
    with trainbeacon.start(run="r", directory=str(tmp_path), serve="off") as beacon:
        beacon.watch("resnet50")
    (said,) = [each.getMessage() for each in caplog.records if "torch.nn.Module" in each.getMessage()]
    assert "model=str(...) is no torch.nn.Module, nor a list of them" in said
