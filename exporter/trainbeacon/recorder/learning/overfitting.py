"""Counting the evaluations in which a run overfits: validation worse than it was, training better."""

from __future__ import annotations

from math import isfinite

#: As shares of the losses: how far validation must be above its best, and training below what it was then.
WORSE, BETTER = 0.02, 0.01
#: And in mean absolute deviations of single training losses. So much are four standard errors of the
#: difference between two means of 32 losses of a normal distribution: sqrt(pi / 2) * sqrt(2 / 32) each. A run
#: whose losses scatter is asked at many evaluations; with less, chance alone makes one of them seem better.
SCATTER = 1.25


class Overfitting:
    """Judges the evaluations of one run, in their order.

    Training is compared with what it was when validation was last as good as ever, not when it was best:
    where neither has moved for long, the best evaluation may be one of the first.

    Attributes:
        evaluations: how many in a row, up to the last one, the run overfitted in.
    """

    def __init__(self) -> None:
        self.evaluations = 0
        self._training_then = 0.0

    def judge(self, validation: float, best: float, training: float, scatter: float) -> int:
        """Take one evaluation.

        Args:
            validation: its loss.
            best: the lowest of any so far, this one included.
            training: the mean training loss of the last 32 steps before it.
            scatter: mean absolute deviation of single training losses.

        Returns:
            `evaluations`.
        """
        if not isfinite(validation):  # another fault, which is reported as such
            self.evaluations = 0
        elif validation <= best + WORSE * abs(best):
            self.evaluations, self._training_then = 0, training
        elif training < self._training_then - max(BETTER * abs(self._training_then), SCATTER * scatter):
            self.evaluations += 1
        else:
            self.evaluations = 0
        return self.evaluations
