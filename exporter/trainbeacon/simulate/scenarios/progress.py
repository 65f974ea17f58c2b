"""Faults by which a run is stalled, dies, or is held up by one of its ranks."""

from __future__ import annotations

from typing import ClassVar

from trainbeacon.simulate.model.rank import Place
from trainbeacon.simulate.model.run import Run

from .base import Fault


class Hang(Fault):
    """One rank never comes to the next collective; all others wait for it there."""

    name = "hang"
    summary = "one rank stays in its forward pass; the others wait for it"
    phase: ClassVar[str] = "forward"

    def _strike(self, run: Run) -> None:
        run.hang(self.victim, self.phase)

    def _heal(self, run: Run) -> None:
        run.go_on()


class StuckLoader(Hang):
    """The data loader of one rank hands over no batch any more."""

    name = "stuck-loader"
    summary = "one rank waits for data that does not come; the others wait for it"
    phase = "data_wait"


class StuckCheckpoint(Hang):
    """The file system of one node does not answer in the middle of a checkpoint."""

    name = "stuck-checkpoint"
    summary = "one rank never finishes writing its checkpoint; the others wait for it"
    phase = "checkpoint"


class Straggler(Fault):
    """One rank needs longer for its part, so that all others wait for it in every step."""

    phase: ClassVar[str]
    least, most = 0.2, 0.5

    def _strike(self, run: Run) -> None:
        share = self.between(self.least, self.most)
        run.trouble.extra[self.victim] = {self.phase: share * run.step_duration()}

    def _heal(self, run: Run) -> None:
        run.trouble.extra.pop(self.victim, None)


class StragglerData(Straggler):
    """Its loader is slow, as with a bad disk."""

    name = "straggler-data"
    summary = "one rank waits longer for its data in every step"
    phase = "data_wait"


class StragglerCompute(Straggler):
    """Its GPU is slow without saying why."""

    name = "straggler-compute"
    summary = "one rank's forward passes take longer"
    phase = "forward"


class StragglerHost(Straggler):
    """Its host is busy with something else, as with a foreign process or garbage collection."""

    name = "straggler-host"
    summary = "one rank's host code between the passes takes longer"
    phase = "other"


class StageImbalance(Fault):
    """All ranks of one pipeline stage have more to do than those of the others."""

    name = "stage-imbalance"
    summary = "one pipeline stage takes a quarter to a half longer than the others"
    whole_run = True
    least, most = 0.25, 0.5

    def _strike(self, run: Run) -> None:
        share = self.between(self.least, self.most) * run.step_duration()
        stage = run.stage_of(self.victim)
        self._slow = [rank.number for rank in run.ranks if run.stage_of(rank.number) == stage]
        for number in self._slow:
            run.trouble.extra[number] = {"forward": share}

    def _heal(self, run: Run) -> None:
        for number in self._slow:
            run.trouble.extra.pop(number, None)


class Crash(Fault):
    """One process dies without a word; its peers fail, and nobody starts the run again."""

    name = "crash"
    summary = "one rank dies; its peers lose their connection; the run is over"
    restart_after: ClassVar[float | None] = None

    def _strike(self, run: Run) -> None:
        run.crash(self.victim, self.restart_after)

    def _heal(self, run: Run) -> None:
        if run.stage == "over":
            run.relaunch()


class CrashResume(Crash):
    """The same, and the launcher starts all ranks again from the last checkpoint."""

    name = "crash-resume"
    summary = "one rank dies; all ranks start again from the last checkpoint"
    restart_after = 45.0


class OutOfMemory(Crash):
    """One process ends by an exception of CUDA's."""

    name = "oom"
    summary = "one rank ends with torch.OutOfMemoryError; its peers lose their connection"

    def _strike(self, run: Run) -> None:
        run.fail(self.victim, "OutOfMemoryError", "cuda_oom", None)


class Moved(Fault):
    """One process dies, and its rank comes back on another node."""

    name = "moved"
    summary = "one rank dies, and all start again with that rank on a spare node"
    needs_spare = True

    def _strike(self, run: Run) -> None:
        run.crash(self.victim, 45.0)
        spare = self.fleet.nodes[-1]
        taken = {rank.place.gpu for _, rank in spare.ranks()}
        free = min(set(range(len(spare.gpus))) - taken, default=0)
        run.move(self.victim, Place(spare.number, free))
