"""Counting the evaluations in which a run overfits: validation worse than it was, training better."""

from __future__ import annotations

from math import isfinite

#: As shares of the losses: how far validation must be above its best, and training below what it was then.
WORSE, BETTER = 0.02, 0.01


class Overfitting:
    """Judges the evaluations of one run, in their order.

    Training is compared with what it was when validation was last as good as ever, not when it was best:
    where both have long stood still, the best evaluation may be one of the first.

    Attributes:
        evaluations: how many in a row, up to the last one, the run overfitted in.
    """

    def __init__(self) -> None:
        self.evaluations = 0
        self._training_then = 0.0

    def judge(self, validation: float, best: float, training: float) -> int:
        """Take one evaluation.

        Args:
            validation: its loss.
            best: the lowest of any so far, this one included.
            training: the training loss of its time, without the scatter of single steps.

        Returns:
            `evaluations`.
        """
        if not isfinite(validation):  # another trouble, which is told as such
            self.evaluations = 0
        elif validation <= best + WORSE * abs(best):
            self.evaluations, self._training_then = 0, training
        elif training < self._training_then - BETTER * abs(self._training_then):
            self.evaluations += 1
        else:
            self.evaluations = 0
        return self.evaluations
