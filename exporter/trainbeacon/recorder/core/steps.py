"""What counts the steps of a run: each step once, however many ways report it.

A loop may report a step by a watched optimizer, by `step()`, by its batches and by `log(step=)`, in any
mixture. What is more explicit counts, and what is less explicit counts only where that is silent:

    step()       its end is a step, whatever happens inside; an optimizer's step right before or after it,
                 outside of all `step()`, is the same step reported twice
    optimizer    a step of the watched optimizer
    batches      the end of a batch in which no step ended; with a watched optimizer that is accumulation
    log(step=)   a greater number than before, where nothing else has counted since; after a smaller one see
                 `_is_apart`

An optimizer whose hooks are silent, as in a compiled step, is known by its weights: see `look`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trainbeacon.recorder.core.recorder import log
from trainbeacon.recorder.core.timeline import Timeline
from trainbeacon.recorder.device.scalars import on_device, to_float, whole

#: Batches whose steps were seen by the weights alone, after which a watched optimizer that has never made a
#: step is taken for one that is not used.
MOST_SILENT = 8
#: Batches without `step()`, after which a script that once called it is taken to count by batches.
MOST_BATCHES_A_STEP = 256


class Cursor:
    """One iteration over a loader: how many steps had been made when its present batch began."""

    __slots__ = ("steps",)

    def __init__(self) -> None:
        self.steps: int | None = None


class StepCount:
    """Ends the steps of a timeline. For the training thread.

    Attributes:
        hidden: whether the watched optimizer was compiled, so that its steps are seen by `look` only.
        model: gives the first watched model, if it is still there.
        versions: gives a number that changes whenever the weights of the watched optimizer do.
    """

    def __init__(self, timeline: Timeline) -> None:
        self.hidden = False
        self.versions: Callable[[], int] | None = None
        self.model: Callable[[], Any] | None = None
        self._timeline = timeline
        self._expects_optimizer = False
        self._optimizer_seen = False
        self._version: int | None = None
        self._on_hidden_step: Callable[[], None] | None = None
        self._silent = 0  # batches with a change of weights that no hook reported
        # step()
        self._depth = 0
        self._outermost: Callable[[], object] | None = None
        self._used = False
        self._inside = False  # whether the optimizer stepped inside of the present one
        self._samples = self._tokens = 0
        self._told_by_step = False  # the next optimizer's step outside is the one that `step()` counted
        self._told_by_optimizer = False  # and the other way round
        # batches
        self._open: Cursor | None = None
        self._held = 0  # batches without a step
        # log(step=)
        self._logged: int | None = None
        self._interval = 1  # between the last two numbers
        self._lower: int | None = None  # one that is lower, of which the next number says what it means
        self._first_logged: int | None = None
        self._steps_logged = 0  # made when the last number was logged

    @property
    def steps(self) -> int:
        """How many were counted."""
        return self._timeline.step_end[0]

    def evaluates(self) -> bool:
        """Whether the watched model is in evaluation mode."""
        model = self.model() if self.model is not None else None
        return model is not None and not model.training

    @property
    def sees_computing(self) -> bool:
        """Whether what is computed of a batch is seen: by a watched model, whose optimizer has made steps."""
        return self.model is not None and self._optimizer_seen and not self.hidden and not self._depth

    # The optimizer

    def expect_optimizer(self, versions: Callable[[], int] | None = None) -> None:
        """An optimizer is watched from now on: its steps count.

        Args:
            versions: gives a number that changes with its weights.
        """
        self._expects_optimizer = True
        if versions is not None:
            self.versions = versions
            self._version = versions()

    def hide(self, on_step: Callable[[], None]) -> None:
        """The watched optimizer is compiled: its hooks are silent from now on.

        Args:
            on_step: called as a step of it is seen by its weights.
        """
        if not self.hidden and self.versions is not None:
            self._version = self.versions()
        self.hidden = True
        self._on_hidden_step = on_step

    def optimizer_stepped(self) -> None:
        """The watched optimizer made a step."""
        self._optimizer_seen = True
        self._held = 0
        if self.hidden and self.versions is not None:  # else nobody compares them any more
            self._version = self.versions()
        if self._depth:
            self._inside = True
        elif self._told_by_step:
            self._told_by_step = False
        else:
            self._told_by_optimizer = True
            self._timeline.end_step()

    def look(self) -> bool:
        """Whether the weights have changed since the last step and no hook reported it: then a step ended.

        For a compiled optimizer, between its steps; asks no device.
        """
        if self.versions is None:
            return False
        version = self.versions()
        if version == self._version:
            return False
        if self._on_hidden_step is not None:
            self._on_hidden_step()
        self.optimizer_stepped()
        return True

    # step()

    def step_begins(self, context: Callable[[], object] | None = None) -> None:
        """The script enters `step()`.

        Args:
            context: a weak reference to what the script entered. An outermost one that is gone was left by an
                interruption that its own end did not see: it is no longer open.
        """
        if self._depth and self._outermost is not None and self._outermost() is None:
            self._depth = 0
        if not self._depth:
            self._outermost = context
        self._depth += 1
        self._used = True
        if self._depth == 1:
            self._inside = False
            self._samples = self._tokens = 0
            self._timeline.begin_step()

    def step_is_over(self, samples: Any = 0, tokens: Any = 0) -> None:
        """The script leaves `step()`, or an integration reports the end of a step.

        Of nested ones the outermost is the step, and the largest numbers count.
        """
        self._used = True
        self._samples = max(self._samples, whole("samples", samples))
        self._tokens = max(self._tokens, whole("tokens", tokens))
        self._depth = max(0, self._depth - 1)
        if self._depth:
            return
        if self.hidden:
            self._depth = 1  # what shows now happened inside
            self.look()
            self._depth = 0
        samples, tokens = self._samples, self._tokens
        inside, self._samples, self._tokens = self._inside, 0, 0
        self._inside = False
        self._held = 0
        timeline = self._timeline
        if self._told_by_optimizer and not inside:
            self._told_by_optimizer = False
            timeline.add_to_last(samples, tokens)
            return
        self._told_by_step, self._told_by_optimizer = self._expects_optimizer and not inside, False
        timeline.pending_samples += samples
        timeline.pending_tokens += tokens
        timeline.end_step()

    def step_failed(self) -> None:
        """The script leaves `step()` by an exception: no step, unless the optimizer had made its own."""
        self._depth = max(0, self._depth - 1)
        if not self._depth and self._inside:
            self._inside = False
            self._timeline.end_step()

    # Batches

    def batch_begins(self, cursor: Cursor) -> None:
        """A batch is handed to the loop."""
        cursor.steps = self._timeline.step_end[0]
        self._open = cursor

    def batch_is_over(self, cursor: Cursor) -> None:
        """The loop asks for the next batch, or is over."""
        begun, cursor.steps = cursor.steps, None
        if self._open is cursor:
            self._open = None
        timeline = self._timeline
        if begun is None or self._depth or timeline.step_end[0] != begun:
            return
        if self._expects_optimizer:
            self._batch_without_step()
        elif not self._used:
            timeline.end_step()
        else:
            self._held += 1
            if self._held >= MOST_BATCHES_A_STEP:
                self._used = False
                timeline.end_step(self._held)

    def _batch_without_step(self) -> None:
        """A batch ended and the watched optimizer made no step that its hooks saw."""
        if self.hidden:
            self.look()
        elif not self._optimizer_seen and self.versions is not None:
            version = self.versions()
            if version != self._version:
                self._version = version
                self._silent += 1
            if self._silent >= MOST_SILENT:
                log.warning(
                    "the weights change but the watched optimizer makes no step: another one is used, or it "
                    "is compiled; steps are counted by the weights. Give `watch` the optimizer that is used"
                )
                self.hidden = True
                self._optimizer_seen = True
                self._timeline.end_step(self._silent)

    def abandon(self, cursor: Cursor) -> None:
        """The iteration is over in the middle of a batch that was not trained on."""
        cursor.steps = None
        if self._open is cursor:
            self._open = None

    def close(self) -> None:
        """The run is over: a batch that was handed out last is done."""
        if self.hidden:
            self.look()
        if self._open is not None and self._timeline.warm:
            self.batch_is_over(self._open)

    # log(step=)

    def logged(self, step: Any) -> None:
        """The script says the number of a step: of the last completed one, or of the one under way.

        Raises:
            TypeError, ValueError: no number, or one that lies on a device.
        """
        if on_device(step):
            raise TypeError("step is a tensor on a device, and reading it would wait for it: give an int")
        number = int(to_float("step", step))
        if self.hidden:
            self.look()
        if self._is_apart(number):
            return
        before, self._logged = self._logged, number
        self._interval = max(1, number - before) if before is not None else 1
        if self._counts(number, before):
            self._count_logged(number, before)
        else:
            self._follow(number)
        self._steps_logged = self._timeline.step_end[0]

    def _is_apart(self, number: int) -> bool:
        """Whether a number does not count the steps of the training, as that of an epoch does not.

        After a lower one than the last the next one tells: the script has gone back and counts on from there,
        or what it logs goes by two numbers, such as steps and epochs. The greater one is that of the steps.
        """
        last, lower = self._logged, self._lower
        if last is None or number > last:
            self._lower = None
            return False
        if lower is not None and lower < number and (number < last or number <= lower + self._interval):
            self._lower = None
            self._logged = lower - (number - lower)  # the lower one was of as many steps
            return False
        if number < last:
            self._lower = number
            return True
        self._lower = None
        return False

    def _counts(self, number: int, before: int | None) -> bool:
        """Whether a number that is logged counts steps: nothing else does."""
        if self._depth or self._used or self._expects_optimizer:
            return False
        moved = self._timeline.step_end[0] != self._steps_logged
        if self._open is None:
            return not moved or number == self._timeline.step + 1
        # A loop that logs number after number in one batch does not count by its batches.
        return before is not None and not moved and number > before

    def _count_logged(self, number: int, before: int | None) -> None:
        timeline = self._timeline
        if before is None or self._first_logged is None:
            self._first_logged = number
            known, made = timeline.resumed, timeline.step_end[0]
            timeline.numbers_step_under_way(number)
            timeline.end_step(1 if known is None or made else max(1, number - known))
        elif number != before:
            gap = max(1, number - before)
            timeline.numbers_step_under_way(number)
            timeline.end_step(gap)
            first, self._first_logged = self._first_logged, -1
            if gap > 1 and first in (gap, gap - 1) and timeline.resumed == first - 1:
                timeline.made_before(gap - 1)  # every n-th step is logged, and the first n were made before

    def _follow(self, number: int) -> None:
        """Take the script's number for the step that it means: the one under way, or the last one."""
        timeline = self._timeline
        if timeline.last is not None and not self._depth and timeline.phase_start == timeline.last[0]:
            timeline.resume_at(number)
        elif number != timeline.step or not timeline.warm:
            timeline.numbers_step_under_way(number)
