"""What happens between the steps: evaluations, which know the best one."""

from __future__ import annotations

from functools import partial

from trainbeacon.recorder.core.recorder import Recorder
from trainbeacon.recorder.learning.overfitting import Overfitting


class Evaluations:
    """The evaluations of a run.

    Attributes:
        split: what `log` takes a value to be of if the caller does not say.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.split = "train"
        self._recorder = recorder
        self._logged: set[str] = set()
        self._best: dict[str, float] = {}
        self._since_best: dict[str, int] = {}
        self._last: dict[str, float] = {}
        self._rises: dict[str, int] = {}
        self._overfitting = Overfitting()

    def begin(self) -> None:
        """What is logged from here on is of the validation data."""
        self.split = "validation"
        self._logged.clear()

    def took(self, split: str) -> None:
        """A loss of that split was logged in the evaluation under way."""
        self._logged.add(split)

    def end(self) -> None:
        """The evaluation is done: hold its losses, once they are known, against the best ones."""
        self.abandon()
        for split in self._logged:
            self._recorder.after_losses(split, partial(self._judge, split))

    def abandon(self) -> None:
        """The evaluation raised."""
        self.split = "train"

    def _judge(self, split: str, loss: float) -> None:
        recorder = self._recorder
        best = self._best.get(split)
        if best is None or best != best or loss < best:
            self._best[split] = loss
            self._since_best[split] = 0
            recorder.set_of_run("training_best_loss", loss, split)
        else:
            self._since_best[split] += 1
        self._rises[split] = self._rises.get(split, 0) + 1 if loss > self._last.get(split, loss) else 0
        self._last[split] = loss
        recorder.set_of_run("training_loss_rises", self._rises[split], split)
        if split == "validation":
            training, scatter = recorder.latest_loss, recorder.loss_scatter
            count = self._overfitting.judge(loss, self._best[split], training, scatter)
            recorder.set_of_run("training_overfitting_evaluations", count)
        recorder.set("training_evaluations_since_best", self._since_best[split], split)
