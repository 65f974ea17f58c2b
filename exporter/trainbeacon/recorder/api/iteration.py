"""Going through the batches of a loader: waits, samples, and the steps that they make."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

from trainbeacon.recorder.core.recorder import Recorder
from trainbeacon.recorder.core.steps import StepCount
from trainbeacon.recorder.core.timeline import DATA_WAIT, EVALUATE, OTHER

Batch = TypeVar("Batch")


def iterate(
    recorder: Recorder, steps: StepCount, loader: Iterable[Batch], count: Callable[[Batch], None]
) -> Iterator[Batch]:
    """The batches of a loader. Inside `evaluate` they are passed on, and nothing is counted.

    Args:
        recorder: where the samples go.
        steps: counts the steps.
        loader: any iterable of batches.
        count: adds the samples and tokens of a batch to the step under way; may raise.
    """
    timeline = recorder.timeline
    if not recorder.recording or timeline.declared == EVALUATE:
        yield from loader
        return
    observe = timeline.observe
    observe(DATA_WAIT)
    iterator = iter(loader)
    # Handed out of a list that is empty then: a variable would keep the batch when the script lets go of it.
    while held := list(islice(iterator, 1)):
        observe(OTHER)
        try:
            count(held[0])
        except Exception as problem:  # as in `guard`, without its calls
            if not recorder.takes("value", problem):
                raise
        try:
            yield held.pop()
        except GeneratorExit:  # the loop ended by break: the step was done all the same
            heard, timeline.after_step = timeline.after_step, None
            _batch_is_over(recorder, steps)  # a stop could be caught by nobody here: at the next step then
            timeline.after_step = heard
            raise
        _batch_is_over(recorder, steps)
        observe(DATA_WAIT)
    observe(OTHER)
    recorder.guard("value", recorder.add, "training_epochs_total", 1.0)


def _batch_is_over(recorder: Recorder, steps: StepCount) -> None:
    if recorder.recording:
        steps.batch_is_over()
