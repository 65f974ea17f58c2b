"""Going through the batches of a loader: waits, samples, and which of the batches were trained on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import islice
from opcode import opname
from typing import Any, TypeVar

from trainbeacon.recorder.core.recorder import Recorder
from trainbeacon.recorder.core.steps import Cursor, StepCount
from trainbeacon.recorder.core.timeline import DATA_WAIT, EVALUATE, OTHER, Timeline

Batch = TypeVar("Batch")

#: What a loop is at when it lets go of its iterator: after `break` or `return`, or as `islice` has enough.
_LEFT = {"POP_TOP", "POP_ITER", "END_FOR", "FOR_ITER"}
#: What a function is at when a variable lets go of it.
_RELEASED = {
    *("STORE_FAST", "STORE_NAME", "STORE_GLOBAL", "STORE_DEREF"),
    *("DELETE_FAST", "DELETE_NAME", "DELETE_GLOBAL", "DELETE_DEREF"),
    *("RETURN_VALUE", "RETURN_CONST"),
}
#: What a generator is at that is closed: tqdm's, say, around ours.
_CLOSED = {"YIELD_VALUE", "RESUME"}
_MOST_FRAMES = 8


def iterate(
    recorder: Recorder, steps: StepCount, loader: Iterable[Batch], count: Callable[[Batch], None]
) -> Iterator[Batch]:
    """The batches of a loader. Each is a step unless something more explicit counts (`StepCount`).

    Of an evaluation nothing is counted: inside `evaluate`, and where torch records no gradients, which is
    the phase `evaluate` then.

    Args:
        recorder: where the waits go.
        steps: takes each batch.
        loader: any iterable of batches.
        count: adds the samples and tokens of a batch to the step under way; may raise.
    """
    if not recorder.recording or recorder.in_evaluation():
        yield from loader
        return
    iterator = iter(loader)
    over = yield from _evaluated(recorder, iterator)
    if not over:
        yield from _trained(recorder, steps, iterator, count)


def _evaluated(recorder: Recorder, iterator: Iterator[Batch]) -> Generator[Batch, None, bool]:
    """The batches that are asked for while torch records no gradients.

    The iterator may be kept for the next evaluation: the phase ends as training goes on (`lend_phase`).
    Returns whether there are no more.
    """
    timeline = recorder.timeline
    lent = None
    try:
        while _records_no_gradients():
            lent = timeline.lend_phase(EVALUATE)
            if not (held := list(islice(iterator, 1))):
                return True
            yield held.pop()
        return False
    finally:
        timeline.pop_phase(lent)


def _trained(
    recorder: Recorder, steps: StepCount, loader: Iterable[Batch], count: Callable[[Batch], None]
) -> Iterator[Batch]:
    timeline, cursor = recorder.timeline, Cursor()
    observe = timeline.observe
    observe(DATA_WAIT)
    handed_out = kept = 0
    iterator = iter(loader)
    # Handed out of a list that is empty then: a variable would keep the batch when the script lets go of it.
    while held := list(islice(iterator, 1)):
        if timeline.pauses and _is_paused(timeline):
            yield held.pop()
            continue
        observe(OTHER)
        pending = timeline.pending_samples, timeline.pending_tokens
        tentative = steps.evaluates()
        try:
            count(held[0])
        except Exception as problem:  # as `guard`, without its calls
            if not recorder.takes("value", problem):
                raise
        steps.batch_begins(cursor)
        handed_out += 1
        begun = timeline.phase_start
        try:
            yield held.pop()
        except GeneratorExit:
            # Where steps are the optimizer's, what is left before anything is computed of it was not used.
            unused = steps.sees_computing and timeline.phase_start == begun
            done = not unused and _was_trained_on(handed_out)
            _end_abandoned(recorder, steps, cursor, pending if not done else None)
            raise
        if recorder.recording:
            if tentative and steps.evaluates() and steps.steps == cursor.steps:
                steps.abandon(cursor)
                timeline.pending_samples, timeline.pending_tokens = pending
            else:
                kept += 1
                steps.batch_is_over(cursor)
        observe(DATA_WAIT)
    observe(OTHER)
    if kept or not handed_out:
        recorder.guard("value", recorder.add, "training_epochs_total", 1.0)


def _is_paused(timeline: Timeline) -> bool:
    """Whether a batch of an iterator that is trained on is asked for inside an evaluation."""
    if not _records_no_gradients():
        timeline.end_lent()
    return timeline.pauses > 0


def _end_abandoned(
    recorder: Recorder, steps: StepCount, cursor: Cursor, pending: tuple[int, int] | None
) -> None:
    """The loop let go of the iterator; `pending` is what was there before a batch that was not trained on."""
    timeline = recorder.timeline
    if not recorder.recording:
        return
    if pending is not None:
        if steps.steps == cursor.steps:
            timeline.pending_samples, timeline.pending_tokens = pending
        steps.abandon(cursor)
        return
    heard, timeline.after_step = timeline.after_step, None
    steps.batch_is_over(cursor)  # a stop could be caught by nobody here: at the next step then
    timeline.after_step = heard


def _records_no_gradients() -> bool:
    torch: Any = sys.modules.get("torch")
    return hasattr(torch, "is_grad_enabled") and not torch.is_grad_enabled()


def _was_trained_on(handed_out: int) -> bool:
    """Whether the batch that was handed out last was trained on, as the iterator is let go of.

    It was if the loop was left on purpose, and not if it ends by an exception, or for a first look at a batch
    (`next(iter(...))`): recognised by what the code that lets go of it is at.
    """
    frame: Any = sys._getframe(1)
    for _ in range(_MOST_FRAMES):
        frame = frame.f_back
        if frame is None or frame.f_lasti < 0:
            break
        doing = opname[frame.f_code.co_code[frame.f_lasti]]
        if doing in _LEFT:
            return True
        if doing not in _CLOSED:
            return doing in _RELEASED and handed_out > 1
    return handed_out > 1
