"""Statistics of the input data: those of torch and NumPy, seldom, bounded, and drift where there is drift."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

import trainbeacon
from tests.device import device_tensor
from trainbeacon.blackbox.directory import open_directory
from trainbeacon.blackbox.reader import BoxDirectory
from trainbeacon.recorder.probes import inputs
from trainbeacon.recorder.probes.inputs import LEAST_INTERVAL, REFERENCE_BATCHES, InputProbe
from trainbeacon.testing import FakeClock

Gauges = dict[tuple[str, ...], float]


def probe() -> tuple[InputProbe, Gauges, FakeClock, list[int]]:
    """A probe with what it sets and how often it drops something."""
    gauges: Gauges = {}
    dropped: list[int] = []
    clock = FakeClock()

    def set_gauge(metric: str, value: float, *labels: str) -> None:
        gauges[(metric, *labels)] = value

    return InputProbe(set_gauge, lambda: dropped.append(1), clock), gauges, clock, dropped


@pytest.mark.parametrize("kind", ["torch", "numpy", "bfloat16"])
def test_the_statistics_are_those_of_the_batch(kind: str) -> None:
    """Mean, standard deviation and share of NaN of each column are what torch works out of it."""
    made = torch.randn(200, 2, generator=torch.Generator().manual_seed(3)) * 3 + 5
    made[:50, 1] = math.nan
    if kind == "bfloat16":
        made = made.bfloat16()
    looked, gauges, _, _ = probe()
    looked.take(made.numpy() if kind == "numpy" else made, "raw", None)
    for column in range(2):
        present = made[:, column][~made[:, column].isnan()].double()
        assert gauges["training_input_mean", str(column), "raw"] == pytest.approx(present.mean().item())
        assert gauges["training_input_stddev", str(column), "raw"] == pytest.approx(
            present.std(correction=0).item()
        )
    assert gauges["training_input_missing_ratio", "1", "raw"] == 0.25
    assert gauges["training_input_missing_ratio", "0", "raw"] == 0.0


def test_columns_of_images_are_their_channels() -> None:
    """Of a batch of images each channel is a feature, over all pixels, also where only some are read."""
    images = torch.zeros(64, 3, 32, 64)
    images[:, 1] = 2.0
    looked, gauges, _, _ = probe()
    looked.take(images, "prepared", None)
    assert [gauges["training_input_mean", str(channel), "prepared"] for channel in range(3)] == [
        0.0,
        2.0,
        0.0,
    ]


def test_drift_is_told_in_deviations_of_the_first_batches() -> None:
    """Data like the first have a drift near 0; a shift by two deviations is reported as two."""
    looked, gauges, clock, _ = probe()
    generator = numpy.random.default_rng(1)
    for _ in range(REFERENCE_BATCHES):
        looked.take({"age": generator.normal(40.0, 5.0, 500)}, "prepared", None)
    assert ("training_input_drift", "age") not in gauges
    for shift, expected in ((0.0, 0.0), (10.0, 2.0)):
        for _ in range(40):
            clock.advance(100)
            looked.take({"age": generator.normal(40.0 + shift, 5.0, 500)}, "prepared", None)
        assert gauges["training_input_drift", "age"] == pytest.approx(expected, abs=0.1)


def test_classes_are_shares_of_the_samples_of_late() -> None:
    """The share of each class is that of the labels, and follows them; a class that is gone falls to 0."""
    looked, gauges, clock, _ = probe()
    for _ in range(20):
        clock.advance(100)
        looked.take({}, "prepared", torch.tensor([0, 0, 0, 1]))
    assert gauges["training_class_ratio", "0"] == pytest.approx(0.75)
    for _ in range(80):
        clock.advance(100)
        looked.take({}, "prepared", numpy.array([1, 1, 2, 2]))
    assert [round(gauges["training_class_ratio", name], 3) for name in "012"] == [0.0, 0.5, 0.5]


def test_names_are_bounded_and_counted() -> None:
    """Four features and ten classes are served; each further one is counted once."""
    looked, gauges, clock, dropped = probe()
    for _ in range(3):
        clock.advance(100)
        looked.take({f"f{n}": torch.ones(5) for n in range(6)}, "raw", torch.arange(12))
    assert {labels[1] for labels in gauges if labels[0] == "training_input_mean"} == {"f0", "f1", "f2", "f3"}
    assert len([labels for labels in gauges if labels[0] == "training_class_ratio"]) == 10
    assert len(dropped) == 4


def test_after_the_first_batches_it_looks_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample that takes long comes seldom, and never more often than once a second."""
    looked, gauges, clock, _ = probe()
    for _ in range(REFERENCE_BATCHES + 1):
        looked.take(torch.ones(5), "prepared", None)
    looked.take(torch.full((5,), 9.0), "prepared", None)
    assert gauges["training_input_mean", "0", "prepared"] == 1.0
    clock.advance(LEAST_INTERVAL)
    original = inputs._summary
    monkeypatch.setattr(inputs, "_summary", lambda values: clock.advance(0.01) or original(values))
    looked.take(torch.full((5,), 9.0), "prepared", None)
    assert gauges["training_input_mean", "0", "prepared"] == 9.0
    clock.advance(19.0)
    looked.take(torch.full((5,), 3.0), "prepared", None)
    assert gauges["training_input_mean", "0", "prepared"] == 9.0
    clock.advance(1.5)
    looked.take(torch.full((5,), 3.0), "prepared", None)
    assert gauges["training_input_mean", "0", "prepared"] == 3.0


@pytest.mark.parametrize(
    ("features", "stage", "error"),
    [
        (device_tensor([1.0]), "raw", "features is on a device.*before the batch moves"),
        ({"age": [1.0]}, "raw", "age must be a tensor or a NumPy array, not list"),
        (torch.ones(1), "cooked", "stage='cooked' is not one of raw, prepared"),
    ],
)
def test_misuse_is_told_at_the_desk(tmp_path: Path, features: Any, stage: str, error: str) -> None:
    """What cannot be read raises before the first step, with the fix, and reads no device."""
    beacon = trainbeacon.start(run="r", directory=str(tmp_path), serve="off")
    with beacon, pytest.raises((TypeError, ValueError), match=error):
        beacon.inputs(features, stage=stage)


def test_a_beacon_serves_what_it_was_given(tmp_path: Path) -> None:
    """Numbers of the run: rank 0 has them in its box, under their names."""
    with trainbeacon.start(run="r", directory=str(tmp_path), serve="off") as beacon:
        beacon.inputs({"age": torch.tensor([1.0, 3.0])}, classes=torch.tensor([0, 1]))
        (box,) = BoxDirectory(open_directory(str(tmp_path))).scan()
    assert box.number("training_input_mean", "age", "prepared") == 2.0
    assert box.number("training_input_stddev", "age", "prepared") == 1.0
    assert box.number("training_class_ratio", "1") == 0.5


def test_an_infinity_among_the_first_batches_is_no_drift_for_good() -> None:
    """Nothing can be compared with an infinity: that batch is left out."""
    drift = inputs._Drift("prepared")
    for number in range(inputs.REFERENCE_BATCHES + 1):
        drift.take(math.inf if number == 3 else 1.0 + number % 2, 0.5)
    assert 2.0 > (drift.take(1.0, 0.5) or 0.0)


def test_a_constant_feature_that_moves_a_little_has_not_drifted_far() -> None:
    """Without a spread to measure by, a hundredth of the mean stands for it."""
    drift = inputs._Drift("prepared")
    for _ in range(inputs.REFERENCE_BATCHES):
        drift.take(1.0, 0.0)
    assert 0.1 > (drift.take(1.0001, 0.0) or 0.0)
