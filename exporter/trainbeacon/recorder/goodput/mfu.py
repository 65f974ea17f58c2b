"""How much of the device's peak becomes training: the FLOPs of a step, and the MFU.

The FLOPs are given by the user, or counted once, on request, over the forward and backward passes of a
whole step: see docs/goodput.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from trainbeacon.recorder.core.pace import StepPace
from trainbeacon.recorder.core.recorder import Recorder, log
from trainbeacon.recorder.goodput.gpu_peaks import peak_of


class Flops:
    """The FLOPs of one rank's steps. `poll` is for the background thread, once a second."""

    def __init__(self, recorder: Recorder, clock: Callable[[], float] = time.monotonic) -> None:
        self._recorder = recorder
        self._pace = StepPace(recorder.timeline, clock)
        self._peak = recorder.config.peak_flops
        self._a_step = recorder.config.model_flops_per_step
        self._wanted = recorder.config.count_flops and self._a_step is None
        if self._a_step is not None:
            recorder.set("training_model_flops_per_step", self._a_step)

    def watch(self, model: Any) -> bool:
        """Learn the device of the model. Returns whether its first whole step is to be counted."""
        if self._peak is None:
            self._peak = _peak_under(model)
        if not self._wanted:
            return False
        self._wanted = False
        if _is_compiled(model):
            log.warning(
                "FLOPs are not counted: torch's counter does not see into compiled modules. "
                "Set model_flops_per_step, or count a run without torch.compile."
            )
            return False
        return True

    def counted(self, flops: float) -> None:
        """A whole step was counted."""
        self._a_step = flops
        self._recorder.set("training_model_flops_per_step", flops)

    def poll(self) -> None:
        """Bring the MFU up to date: of whole steps (`StepPace`)."""
        pace, a_step, peak = self._pace.poll(), self._a_step, self._peak
        if pace is not None and a_step is not None and peak is not None:
            self._recorder.set("training_mfu_ratio", a_step * pace.steps / pace.seconds / peak)


def _is_compiled(model: Any) -> bool:
    """Whether the model or a module in it is compiled, by `torch.compile` or by `module.compile`."""
    return any(
        hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )


def _peak_under(model: Any) -> float | None:
    """The peak of the GPU that the first parameter is on."""
    parameter = next(iter(model.parameters()), None)
    if parameter is None or parameter.device.type != "cuda":
        return None
    import torch

    return peak_of(torch.cuda.get_device_name(parameter.device))
