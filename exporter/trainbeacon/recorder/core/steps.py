"""What counts the steps of a run: the most explicit sign of them that the loop gives."""

from __future__ import annotations

from typing import Any

from trainbeacon.recorder.core.recorder import log
from trainbeacon.recorder.core.timeline import Timeline
from trainbeacon.recorder.device.scalars import on_device, to_float

#: Batches accumulated into one step at most; after so many without a step the hooks are taken for blind.
MOST_BATCHES_A_STEP = 256
_ORDER = ("", "log", "batches", "optimizer", "step")


class StepCount:
    """Ends the steps of a timeline. Of several sources the last of `_ORDER` that was ever heard counts."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._source = ""
        self._batches_without_step = 0

    def claim(self, source: str) -> bool:
        """Whether this source counts the steps."""
        if _ORDER.index(source) > _ORDER.index(self._source):
            self._source = source
        return self._source == source

    def optimizer_stepped(self) -> None:
        """A watched optimizer made a step."""
        if self._source == "optimizer" or self.claim("optimizer"):
            self._batches_without_step = 0
            self._timeline.end_step()

    def batch_is_over(self) -> None:
        """A batch is done: a step, unless a watched optimizer or the script counts them."""
        if self._source != "optimizer" and self.claim("batches"):
            self._timeline.end_step()
            return
        self._batches_without_step += 1
        if self._batches_without_step == MOST_BATCHES_A_STEP and not self._timeline.warm:
            log.warning("the optimizer's steps are not seen, as in a compiled step: batches count as steps")
            self._source = "batches"

    def step_is_over(self, samples: int, tokens: int) -> None:
        """The script ended a step of its own."""
        self.claim("step")
        timeline = self._timeline
        timeline.pending_samples += samples
        timeline.pending_tokens += tokens
        timeline.end_step()

    def logged(self, step: Any) -> None:
        """The script says the number of the last completed step.

        Raises:
            TypeError, ValueError: no number, or one that lies on a device.
        """
        if on_device(step):
            raise TypeError("step is a tensor on a device, and reading it would wait for it: give an int")
        number = int(to_float("step", step))
        if self.claim("log") and number > self._timeline.step:
            self._timeline.end_step()
        self._timeline.resume_at(number)
