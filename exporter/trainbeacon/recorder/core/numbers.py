"""The numbers that `Beacon.log` takes, each to its place. Raises TypeError or ValueError for what is none."""

from __future__ import annotations

from functools import partial
from typing import Any

from trainbeacon.recorder.core.evaluations import Evaluations
from trainbeacon.recorder.core.recorder import Recorder
from trainbeacon.recorder.core.timeline import EVALUATE


class Numbers:
    """Takes the numbers of one rank that are more than a slot to fill."""

    def __init__(self, recorder: Recorder, evaluations: Evaluations) -> None:
        self._recorder = recorder
        self._evaluations = evaluations

    def loss(self, loss: Any, split: str) -> None:
        """A loss; inside an evaluation, one that the evaluation is judged by."""
        self._recorder.loss(loss, split)
        if split != "train" and self._recorder.timeline.declared == EVALUATE:
            self._evaluations.took(split)

    def accuracy(self, accuracy: Any, split: str) -> None:
        """An accuracy, 0 to 1."""
        recorder = self._recorder
        if accuracy.__class__ is float and not recorder.late.used:
            self._take_accuracy(split, accuracy)
        else:
            at = recorder.at("training_accuracy_ratio", split)
            recorder.take(at, "accuracy", accuracy, partial(self._take_accuracy, split))

    def _take_accuracy(self, split: str, number: float) -> None:
        if number < 0.0 or number > 1.0:
            raise ValueError(f"accuracy={number:g} is no ratio from 0 to 1: divide a percentage by 100")
        self._recorder.set("training_accuracy_ratio", number, split)

    def epoch(self, epoch: Any) -> None:
        """The number of the present epoch."""
        self._recorder.gauge(self._recorder.at("training_epoch"), "epoch", epoch)

    def value(self, name: str, value: Any, known: dict[str, int]) -> None:
        """A number under a name of the user's own; `known` has the slots by name."""
        number = self._recorder.late.number(name, value)  # first: what is no number takes no name
        self._recorder.gauge(known[name], name, value if number is None else number)
