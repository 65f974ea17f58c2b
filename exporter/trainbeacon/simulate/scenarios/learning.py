"""Faults of what is learned."""

from __future__ import annotations

from trainbeacon.simulate.model.run import Run

from .base import Fault


class Nan(Fault):
    """One rank computes a NaN; with averaged gradients all others have it one step later, for good."""

    name = "nan"
    summary = "a NaN on one rank, on all ranks one step later"

    def _strike(self, run: Run) -> None:
        first = run.step + 1
        run.trouble.nonfinite_from[self.victim] = first
        run.trouble.nonfinite_everywhere_from = first + 1

    def _heal(self, run: Run) -> None:
        run.trouble.nonfinite_from.clear()
        run.trouble.nonfinite_everywhere_from = None
        run.relaunch()


class Spike(Fault):
    """Now and then a bad batch: the loss leaps for a step, with the gradients, and comes back."""

    name = "spike"
    summary = "the loss leaps for single steps"
    whole_run = True
    EVERY = 40

    def _strike(self, run: Run) -> None:
        self._first, self._last = run.step, float("inf")
        self._height = self.between(2.5, 4.0)
        self._add(run)
        run.trouble.reshapes.append(self._reshape)
        run.trouble.norm = lambda step: 9.0 if self._is_bad(step) else 1.0

    def _heal(self, run: Run) -> None:
        self._last = run.step

    def _add(self, run: Run) -> None:
        run.trouble.spikes.append(lambda step: max(0, int(min(step, self._last) - self._first) // self.EVERY))

    def _is_bad(self, step: int) -> bool:
        return self._first < step <= self._last and (step - self._first) % self.EVERY == 0

    def _reshape(self, split: str, step: int, loss: float) -> float:
        return loss * self._height if split == "train" and self._is_bad(step) else loss


class Divergence(Fault):
    """The learning rate is too high: from some step on the loss rises, and the gradients with it."""

    name = "divergence"
    summary = "training and validation loss rise from step to step"
    whole_run = True

    def _strike(self, run: Run) -> None:
        self._first = run.step
        self._pace = 60.0 / run.step_duration()
        self._most = 1.6 * run.workload.loss_first
        run.trouble.reshapes.append(self._reshape)
        run.trouble.norm = lambda step: 1.0 + 5.0 * min(6.0, self._minutes(step))

    def _heal(self, run: Run) -> None:
        run.trouble.reshapes.clear()
        run.trouble.norm = lambda step: 1.0
        run.relaunch()

    def _minutes(self, step: int) -> float:
        """Since it began, as steps go in a healthy run."""
        return max(0, step - self._first) / self._pace

    def _reshape(self, split: str, step: int, loss: float) -> float:
        rise = 0.25 * self._minutes(step) ** 1.3
        return float(min(loss * (1.0 + rise), self._most * (0.97 + 0.03 * loss / self._most)))


class Overfitting(Fault):
    """The model learns its training data by heart: validation gets worse from one evaluation to the next."""

    name = "overfitting"
    summary = "validation loss rises while training loss falls"
    whole_run = True

    def _strike(self, run: Run) -> None:
        self._first, self._every = run.step, run.workload.evaluate_every
        run.trouble.reshapes.append(self._reshape)

    def _heal(self, run: Run) -> None:
        run.trouble.reshapes.remove(self._reshape)

    def _reshape(self, split: str, step: int, loss: float) -> float:
        evaluations = max(0, step - self._first) / self._every
        if split == "train":
            return loss * (0.35 + 0.65 / (1.0 + 0.12 * evaluations))
        return loss * (1.0 + 0.05 * min(evaluations, 30.0))


class Plateau(Fault):
    """The loss stays where it is, at a level that is no good."""

    name = "plateau"
    summary = "the loss stays above where it should be"
    whole_run = True

    def _strike(self, run: Run) -> None:
        self._first = run.step
        self._level = {split: run.learning.loss(split, run.step) for split in ("train", "validation")}
        self._healthy = run.learning.healthy_loss
        run.trouble.reshapes.append(self._reshape)

    def _heal(self, run: Run) -> None:
        run.trouble.reshapes.remove(self._reshape)

    def _reshape(self, split: str, step: int, loss: float) -> float:
        if step < self._first:
            return loss
        return self._level.get(split, loss) * loss / self._healthy(split, step)
