"""Helpers for tests: of this package, of an integration, and of a job that records with a beacon.

`ScriptedJob` writes every number that a rank can write, in well under a second and always the same
ones; `read_exposition` turns what is served back into numbers.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from trainbeacon.recorder.api.beacon import Beacon
from trainbeacon.recorder.api.start import start


class FakeClock:
    """A clock that is set by hand: for whatever takes a `clock` argument."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """The time in seconds."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass."""
        self.now += seconds


class Series(NamedTuple):
    """What tells one served number from another: `series("training_loss", run="r", rank="0")`."""

    name: str
    labels: frozenset[tuple[str, str]]

    def label(self, name: str) -> str:
        """The value of a label, empty where the series has none of that name."""
        return dict(self.labels).get(name, "")


def series(name: str, /, **labels: object) -> Series:
    """The series of that name with those labels; ranks and the like may be given as numbers."""
    return Series(name, frozenset((label, str(value)) for label, value in labels.items()))


def read_exposition(text: str) -> dict[Series, float]:
    """Every served series with its value, from the classic text or from OpenMetrics.

    Raises:
        ValueError: the text is not valid, or shows one series twice.
    """
    is_openmetrics = text.rstrip().endswith("# EOF")
    parse = openmetrics.text_string_to_metric_families if is_openmetrics else text_string_to_metric_families
    found: dict[Series, float] = {}
    for family in parse(text):
        for sample in family.samples:
            key = series(sample.name, **sample.labels)
            if key in found:
                raise ValueError(f"{key} is there twice")
            found[key] = sample.value
    return found


@dataclass(frozen=True)
class ScriptedJob:
    """A short job without a model that records something under every metric of a rank.

    It runs in this process, as the rank that the environment says; every rank writes the same numbers.

        job = ScriptedJob()
        with job.start(serve="off", directory=folder) as beacon:
            job.record(beacon, folder)
            ...  # look at what is served: at least what `job.expected()` says
    """

    run: str = "scripted"

    EPOCHS = 2
    STEPS_AN_EPOCH = 15
    SAMPLES_A_STEP = 8
    TOKENS_A_STEP = 512
    CHECKPOINT_BYTES = 4096

    @property
    def steps(self) -> int:
        """Steps that the job makes."""
        return self.EPOCHS * self.STEPS_AN_EPOCH

    def start(self, **settings: Any) -> Beacon:
        """Begin the run; `settings` go to `trainbeacon.start` beside the job's own."""
        own: dict[str, Any] = {
            "run": self.run,
            "project": "tests",
            "owner": "nobody",
            "tags": {"purpose": "test"},
            "hyperparameters": {"batch_size": self.SAMPLES_A_STEP, "schedule": "constant"},
            "thresholds": {"loss_max": 5.0, "metric:perplexity_max": 40.0},
            "steps_planned": 2 * self.steps,
        }
        return start(**{**own, **settings})

    def record(self, beacon: Beacon, folder: str | os.PathLike[str]) -> None:
        """Train and evaluate; `folder` gets a checkpoint, which must stay for a second to be measured."""
        for epoch in range(self.EPOCHS):
            self._train(beacon, epoch)
            with beacon.evaluate():
                beacon.log(loss=2.0 + epoch / 2, accuracy=0.5, perplexity=7.5)
        beacon.log(loss=2.25, accuracy=0.625, split="test")
        _save(beacon, os.path.join(folder, f"checkpoint-{beacon.identity.rank}"), self.CHECKPOINT_BYTES)

    def _train(self, beacon: Beacon, epoch: int) -> None:
        loader = [[0] * self.SAMPLES_A_STEP for _ in range(self.STEPS_AN_EPOCH)]
        for batch in beacon.batches(loader, tokens=lambda _: self.TOKENS_A_STEP):
            step = beacon.timeline.step + 1
            for phase in ("h2d", "forward", "backward", "communication", "optimizer"):
                with beacon.phase(phase):
                    len(batch)
            # What hooks would write: a norm, one above its limit, one that is not a number.
            norm = {26: 4.0, 27: float("nan")}.get(step, 0.5)
            beacon.recorder.gradient_norm(norm, limit=1.0)
            beacon.log(
                loss={25: 90.0, 27: float("nan")}.get(step, 3.0 - step / 20),
                accuracy=step / 100,
                epoch=epoch,
                learning_rate=0.0003,
                loss_scale=65536.0,
                parameter_norm=12.5,
                update_ratio=0.001,
                perplexity=float("nan"),
            )

    def expected(self, rank: int = 0) -> Mapping[Series, float]:
        """The series of that rank whose values follow from the script, with these values.

        With `rank` 0 the series of the run are among them. What depends on time or on the machine is not.
        """
        found = {
            series(name, run=self.run, rank=rank, **labels): value for name, labels, value in self._rank()
        }
        if rank == 0:
            found |= {series(name, run=self.run, **labels): value for name, labels, value in self._run()}
        return found

    def _rank(self) -> Iterator[tuple[str, dict[str, str], float]]:
        steps = float(self.steps)
        for split, loss, accuracy in (
            ("train", 3.0 - steps / 20, steps / 100),
            ("validation", 2.5, 0.5),
            ("test", 2.25, 0.625),
        ):
            yield "training_loss", {"split": split}, loss
            yield "training_accuracy_ratio", {"split": split}, accuracy
        yield "training_learning_rate", {"group": "0"}, 0.0003
        yield "training_evaluations_since_best", {"split": "validation"}, 1.0
        for name, value in {
            "training_loss_spikes_total": 1.0,
            "training_loss_nonfinite_total": 1.0,
            "training_gradient_norm": 0.5,
            "training_gradient_clipped_total": 1.0,
            "training_gradient_nonfinite_total": 1.0,
            "training_parameter_norm": 12.5,
            "training_update_ratio": 0.001,
            "training_loss_scale": 65536.0,
            "training_optimizer_steps_skipped_total": 0.0,
            "training_step": steps,
            "training_steps_total": steps,
            "training_step_duration_seconds_count": steps,
            "training_epoch": self.EPOCHS - 1.0,
            "training_epochs_total": float(self.EPOCHS),
            "training_samples_total": steps * self.SAMPLES_A_STEP,
            "training_tokens_total": steps * self.TOKENS_A_STEP,
            "training_checkpoints_total": 2.0,
            "training_checkpoint_failures_total": 1.0,
            "training_checkpoint_step": steps,
            "training_checkpoint_bytes": float(self.CHECKPOINT_BYTES),
        }.items():
            yield name, {}, value

    def _run(self) -> Iterator[tuple[str, dict[str, str], float]]:
        yield "training_metric", {"name": "perplexity", "split": "train"}, float("nan")
        yield "training_metric", {"name": "perplexity", "split": "validation"}, 7.5
        yield "training_steps_planned", {}, 2.0 * self.steps
        yield "training_run_tag_info", {"name": "purpose", "value": "test"}, 1.0
        yield "training_hyperparameter", {"name": "batch_size"}, float(self.SAMPLES_A_STEP)
        yield "training_hyperparameter_info", {"name": "batch_size", "value": str(self.SAMPLES_A_STEP)}, 1.0
        yield "training_hyperparameter_info", {"name": "schedule", "value": "constant"}, 1.0
        yield "training_threshold", {"name": "loss_max"}, 5.0
        yield "training_threshold", {"name": "metric:perplexity_max"}, 40.0


def _save(beacon: Beacon, path: str, size: int) -> None:
    """One checkpoint that works, and one on a disk that is full."""
    with beacon.checkpoint(path), open(path, "wb") as file:
        file.write(bytes(size))
    with contextlib.suppress(OSError), beacon.checkpoint(path):
        raise OSError("no space left on device")
