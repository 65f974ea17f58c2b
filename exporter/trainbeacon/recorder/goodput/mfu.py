"""How much of the device's peak becomes training: the FLOPs of a step, and the MFU.

The FLOPs are given by the user, or counted once, on request, over the forward and backward passes of a
whole step: see docs/goodput.md.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from trainbeacon.recorder.core.recorder import Recorder, log
from trainbeacon.recorder.goodput.gpu_peaks import peak_of

WINDOW_SECONDS = 10.0
WINDOW_STEPS = 5
MOST_SAMPLES = 600


class Flops:
    """The FLOPs of one rank's steps. `poll` is for the background thread, once a second."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._timeline = recorder.timeline
        self._peak = recorder.config.peak_flops
        self._a_step = recorder.config.model_flops_per_step
        self._wanted = recorder.config.count_flops and self._a_step is None
        self._history: deque[tuple[float, int]] = deque(maxlen=MOST_SAMPLES)
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
        """Bring the MFU up to date."""
        steps, a_step, peak = self._timeline.step_end[0], self._a_step, self._peak
        if not steps:  # warming up
            return
        now, history = time.monotonic(), self._history
        history.append((now, steps))
        while len(history) > 2 and _is_enough(history[1], history[-1]):
            history.popleft()
        then, before = history[0]
        if a_step is not None and peak is not None and now > then:
            self._recorder.set("training_mfu_ratio", a_step * (steps - before) / (now - then) / peak)


def _is_enough(one: tuple[float, int], other: tuple[float, int]) -> bool:
    return other[0] - one[0] >= WINDOW_SECONDS and other[1] - one[1] >= WINDOW_STEPS


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
