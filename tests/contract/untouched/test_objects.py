"""Model, optimizer, scaler and schedule: whatever a script does with them comes out as without a beacon."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import trainbeacon
from trainbeacon.blackbox.directory import open_directory
from trainbeacon.blackbox.reader import BoxDirectory

torch = pytest.importorskip("torch")

from tests.contract.untouched.objects import USES, Training, Use, outward  # noqa: E402 - needs torch


def _run(use: Use, folder: Path, beacon: trainbeacon.Beacon | None) -> tuple[Any, Any]:
    """Train, make the use, train on: the result of the use, and all that was trained."""
    torch.manual_seed(0)
    training = Training(folder, use.model(), use.scaler())
    if beacon is not None:
        beacon.watch(training.model, training.optimizer, scaler=training.scaler)
    training.steps()
    result = use.do(training)
    training.steps()
    trained = (training.model, training.optimizer, training.scaler, training.schedule)
    return result, [outward(each.state_dict()) for each in trained]


@pytest.mark.filterwarnings("ignore")  # torch's own, about what it will not do for ever
@pytest.mark.parametrize("name", USES)
def test_use_of_a_watched_object(name: str, tmp_path: Path) -> None:
    """The result is the same, weights end bit-identical, and no step is counted but the training's own."""
    use = USES[name]
    expected = _run(use, tmp_path, None)
    with trainbeacon.start(run="untouched", directory=str(tmp_path / "boxes"), serve="off") as beacon:
        actual = _run(use, tmp_path, beacon)
    assert expected == actual
    folder = open_directory(str(tmp_path / "boxes"))
    (box,) = BoxDirectory(folder).scan()
    os.close(folder)
    assert 0.0 == box.number("trainbeacon_errors_total", "hooks")
    assert (2.0 if name == "freed" else 4.0 + use.steps) == box.number("training_steps_total")
