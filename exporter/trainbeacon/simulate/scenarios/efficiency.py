"""Faults that cost time, and legitimate pauses that look like them."""

from __future__ import annotations

from trainbeacon.simulate.model.run import Run

from .base import Fault


class InputBound(Fault):
    """Storage or preparation is too slow for all ranks: the GPUs wait for data."""

    name = "input-bound"
    summary = "every rank waits for data for as long as it computes"
    whole_run = True

    def _strike(self, run: Run) -> None:
        run.trouble.data_wait = self.between(0.8, 1.4) * run.step_duration()

    def _heal(self, run: Run) -> None:
        run.trouble.data_wait = 0.0


class SlowCheckpoint(Fault):
    """The storage of the checkpoints is slow."""

    name = "slow-checkpoint"
    summary = "checkpoints take twenty times as long"
    whole_run = True

    def _strike(self, run: Run) -> None:
        run.trouble.checkpoint_factor = 20.0

    def _heal(self, run: Run) -> None:
        run.trouble.checkpoint_factor = 1.0


class FailingCheckpoint(Fault):
    """The storage of the checkpoints is full."""

    name = "failing-checkpoint"
    summary = "every checkpoint raises; the last good one grows old"
    whole_run = True

    def _strike(self, run: Run) -> None:
        run.trouble.checkpoint_fails = True

    def _heal(self, run: Run) -> None:
        run.trouble.checkpoint_fails = False


class Pauses(Fault):
    """A control: the run is healthy, with a compilation in the middle, and long but rare evaluations."""

    name = "pauses"
    summary = "healthy: a compilation of 3 minutes; evaluations take twelve times as long, a sixth as often"
    whole_run = True
    COMPILATION_SECONDS = 180.0

    def _strike(self, run: Run) -> None:
        run.trouble.evaluate_factor, run.trouble.evaluate_one_in = 12.0, 6
        run.recompile(self.COMPILATION_SECONDS / self.fleet.speed)

    def _heal(self, run: Run) -> None:
        run.trouble.evaluate_factor, run.trouble.evaluate_one_in = 1.0, 1
