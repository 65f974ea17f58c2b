"""What happens between the steps: evaluations, which know the best one."""

from __future__ import annotations

from contextvars import ContextVar
from functools import partial
from threading import get_ident

from trainbeacon.recorder.core.recorder import Recorder
from trainbeacon.recorder.learning.overfitting import Overfitting


class Evaluations:
    """The evaluations of a run.

    Of nested ones the outermost is the evaluation. Threads: one that a thread or a task opens is its own;
    one of the training thread is also that of the threads which help it.

    Attributes:
        open: how many are under way.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.open = 0
        self._open_in_training = 0
        self._depth = ContextVar("trainbeacon_evaluations", default=0)
        self._recorder = recorder
        self._logged: set[str] = set()
        self._best: dict[str, float] = {}
        self._since_best: dict[str, int] = {}
        self._last: dict[str, float] = {}
        self._rises: dict[str, int] = {}
        self._overfitting = Overfitting()

    @property
    def split(self) -> str:
        """What `log` takes a value to be of if the caller does not say."""
        return "validation" if self.here else "train"

    @property
    def here(self) -> bool:
        """Whether an evaluation is under way for the calling thread or task."""
        if not self.open:
            return False
        return self._depth.get() > 0 or (self._open_in_training > 0 and not self._in_training())

    def _in_training(self) -> bool:
        return get_ident() == self._recorder.timeline.thread

    def begin(self) -> None:
        """What is logged from here on is of the validation data."""
        self._depth.set(self._depth.get() + 1)
        if not self.open:
            self._logged.clear()
        self.open += 1
        self._open_in_training += self._in_training()

    def took(self, split: str) -> None:
        """A loss of that split was logged in the evaluation under way."""
        self._logged.add(split)

    def end(self) -> None:
        """The evaluation is done: hold its losses, once they are known, against the best ones."""
        self.abandon()
        if self._depth.get() == 0:
            logged, self._logged = self._logged, set()
            for split in logged:
                self._recorder.after_losses(split, partial(self._judge, split))

    def abandon(self) -> None:
        """The evaluation is over; what it logged is not judged."""
        self._depth.set(max(0, self._depth.get() - 1))
        self.open = max(0, self.open - 1)
        left = max(0, self._open_in_training - self._in_training())
        self._open_in_training = left if self.open else 0

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
