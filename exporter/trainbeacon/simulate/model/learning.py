"""What a simulated run learns: its losses and norms by step, with what scenarios make of them."""

from __future__ import annotations

import math

from trainbeacon.recorder.learning.loss_spikes import LossJudge
from trainbeacon.recorder.learning.overfitting import Overfitting

from . import course
from .trouble import Trouble
from .workload import Workload

#: Training losses whose mean an evaluation is held against.
_MEAN_STEPS = 50


class Learning:
    """The course of one run, over all attempts.

    Attributes:
        losses: loss and accuracy of the last evaluation, by split.
        best: the lowest loss of any evaluation, by split.
        rises: how many times in a row the loss rose, by split.
        since_best: evaluations since that of the lowest validation loss.
        overfitting: counts the evaluations in which the run overfits.
    """

    def __init__(self, workload: Workload, seed: int, trouble: Trouble) -> None:
        self._workload = workload
        self._seed = seed
        self._trouble = trouble
        self.losses: dict[str, tuple[float, float]] = {}
        self.best: dict[str, float] = {}
        self.rises: dict[str, int] = {}
        self.overfitting = Overfitting()
        self.since_best = 0
        self._judge = LossJudge()

    def loss(self, split: str, step: int, rank: int = 0) -> float:
        """The loss at a step."""
        first = self._trouble.first_nonfinite(rank)
        if first is not None and step >= first:
            return math.nan
        loss = course.loss(self._workload, self._seed, step, split, rank)
        for reshape in self._trouble.reshapes:
            loss = reshape(split, step, loss)
        return loss

    def healthy_loss(self, split: str, step: int) -> float:
        """The loss at a step if nothing were amiss, without scatter."""
        return course.smooth_loss(self._workload, step, split)

    def gradient_norm(self, step: int) -> float:
        """The norm of the gradients of a step, which all ranks see."""
        first = self._trouble.nonfinite_everywhere_from
        if first is not None and step >= first:
            return math.nan
        return course.gradient_norm(self._workload, self._seed, step) * self._trouble.norm(step)

    def evaluated(self, step: int) -> None:
        """An evaluation has ended."""
        loss = self.loss("validation", step)
        before, _ = self.losses.get("validation", (loss, 0.0))
        self.losses["validation"] = (loss, course.accuracy(self._workload, loss))
        self.rises["validation"] = self.rises.get("validation", 0) + 1 if loss > before else 0
        if loss < self.best.get("validation", math.inf):
            self.best["validation"], self.since_best = loss, 0
        else:
            self.since_best += 1
        best = self.best.get("validation", loss)
        self.overfitting.judge(loss, best, self._mean(step), self._judge.deviation)

    def trained(self, step: int) -> None:
        """A step has ended: its loss is judged as a run's own is."""
        self._judge.is_spike(self.loss("train", step))
        self.rises["train"] = self._judge.rises

    def _mean(self, step: int) -> float:
        """The mean training loss of the last steps, of which one in ten is looked at."""
        steps = range(max(0, step - _MEAN_STEPS), step, 10)
        return sum(self.loss("train", each) for each in steps) / max(1, len(steps))
