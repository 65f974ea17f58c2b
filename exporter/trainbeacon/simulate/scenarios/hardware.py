"""Faults of GPUs, of memory, and of the exporter itself."""

from __future__ import annotations

from trainbeacon.simulate.model.gpus import MEMORY_BYTES, memory_of
from trainbeacon.simulate.model.run import Run
from trainbeacon.simulate.model.trouble import GpuTrouble

from .base import Fault


class Xid(Fault):
    """A GPU falls off the bus: the driver reports it, the GPU is gone, and its rank with it."""

    name = "xid"
    summary = "XID 79: a GPU falls off the bus; its rank fails; the run is over"

    def _strike(self, run: Run) -> None:
        gpu = self.node_of(run).gpus[run.ranks[self.victim].place.gpu]
        gpu.report_xid(79, "gpu_lost")
        gpu.recovery = 2
        run.trouble.gpus[self.victim] = GpuTrouble(lost=True)
        run.fail(self.victim, "AcceleratorError", "other", None)

    def _heal(self, run: Run) -> None:
        run.trouble.gpus.pop(self.victim, None)
        self.node_of(run).gpus[run.ranks[self.victim].place.gpu].recovery = 0
        run.relaunch()


class Ecc(Fault):
    """A GPU's memory goes bad: corrected errors, one that is contained, and rows to be remapped."""

    name = "ecc"
    summary = "corrected memory errors by the second, one uncorrected, and a row remapping that is pending"

    def _strike(self, run: Run) -> None:
        gpu = self.node_of(run).gpus[run.ranks[self.victim].place.gpu]
        run.trouble.gpus[self.victim] = GpuTrouble(corrected_a_second=self.between(0.5, 3.0))
        gpu.ecc["uncorrected"] += 1
        gpu.rows["pending"] = 1.0
        gpu.report_xid(63, "memory_contained")
        gpu.recovery = 1

    def _heal(self, run: Run) -> None:
        gpu = self.node_of(run).gpus[run.ranks[self.victim].place.gpu]
        gpu.rows |= {"pending": 0.0, "uncorrected": gpu.rows["uncorrected"] + 1}
        gpu.recovery = 0
        run.trouble.gpus.pop(self.victim, None)


class Throttling(Fault):
    """A GPU gets too hot: its clocks go down, and all ranks wait for its passes."""

    name = "throttling"
    summary = "one GPU is held at 60 % of its clock by its temperature; its rank is slower"
    CLOCK = 0.6

    def _strike(self, run: Run) -> None:
        run.trouble.gpus[self.victim] = GpuTrouble("hardware_thermal", self.CLOCK, heat_celsius=38.0)
        slower = 1.0 / self.CLOCK - 1.0
        passes = ("forward", "backward")
        run.trouble.extra[self.victim] = {phase: slower * run.workload.step[phase] for phase in passes}

    def _heal(self, run: Run) -> None:
        run.trouble.gpus.pop(self.victim, None)
        run.trouble.extra.pop(self.victim, None)


class MemoryLeak(Fault):
    """One training process grows."""

    name = "memory-leak"
    summary = "the memory of one training process grows by about 100 MB a second"

    def _strike(self, run: Run) -> None:
        run.trouble.leaks[self.victim] = (run.now, self.between(7e7, 1.3e8) * self.fleet.speed)

    def _heal(self, run: Run) -> None:
        run.trouble.leaks.pop(self.victim, None)
        run.relaunch()


class GpuMemoryLeak(Fault):
    """Tensors of one rank are kept: the allocator takes more and more of its GPU."""

    name = "gpu-memory-leak"
    summary = "the GPU memory of one rank grows by about 25 MB a second until it is full, then it fails"

    def _strike(self, run: Run) -> None:
        rate = self.between(2e7, 3e7) * self.fleet.speed
        run.trouble.gpu_leaks[self.victim] = (run.now, rate)
        room = MEMORY_BYTES - memory_of(run, self.victim)
        run.scenarios.append(_Full(self, run.now + room / rate))

    def _heal(self, run: Run) -> None:
        run.trouble.gpu_leaks.pop(self.victim, None)
        run.relaunch()


class _Full:
    """The end of a leak: no room is left."""

    in_training = True

    def __init__(self, leak: GpuMemoryLeak, begins: float) -> None:
        self.begins, self.ends = begins, leak.ends
        self._victim = leak.victim

    def begin(self, run: Run) -> None:
        """The next allocation fails, unless the leak was mended before."""
        if self._victim in run.trouble.gpu_leaks:
            run.fail(self._victim, "OutOfMemoryError", "cuda_oom", None)

    def end(self, run: Run) -> None:
        """Nothing more comes of it."""


class ExporterLoss(Fault):
    """The exporter of one node is gone; its ranks go on."""

    name = "exporter-loss"
    summary = "one node is not served any more; the training goes on"
    in_training = False

    def _strike(self, run: Run) -> None:
        self._node = self.node_of(run)
        self._node.is_down = True

    def _heal(self, run: Run) -> None:
        self._node.is_down = False
