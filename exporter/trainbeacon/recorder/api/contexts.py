"""The contexts that a script opens around parts of its loop, and the batches that it iterates over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Generic, TypeVar

from trainbeacon.recorder.core.recorder import Recorder
from trainbeacon.recorder.core.steps import StepCount
from trainbeacon.recorder.core.timeline import DATA_WAIT, EVALUATE, OTHER

Batch = TypeVar("Batch")


class StepContext:
    """A context that is a phase of its own, or none; what goes wrong in ours never shows in the body."""

    __slots__ = ("_after", "_before", "_entered", "_failed", "_phase", "_recorder")

    def __init__(
        self,
        recorder: Recorder,
        phase: int | None,
        *,
        before: Callable[[], None] | None = None,
        after: Callable[[], None] | None = None,
        failed: Callable[[], None] | None = None,
    ) -> None:
        self._recorder = recorder
        self._phase = phase
        self._before = before
        self._after = after
        self._failed = failed
        self._entered = False

    def __enter__(self) -> None:
        recorder = self._recorder
        if not recorder.recording:
            return
        self._entered = True
        if self._phase is not None:
            recorder.timeline.push_phase(self._phase)
        if self._before is not None:
            recorder.guard("value", self._before)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        recorder = self._recorder
        if not self._entered or not recorder.recording:
            return
        finish = self._after if error is None else self._failed
        if finish is not None:
            recorder.guard("value", finish)
        if self._phase is not None:
            recorder.timeline.pop_phase()


class PhaseContext:
    """A declared phase; one object for each name, entered as often and as deep as one likes."""

    __slots__ = ("_phase", "_recorder", "_timeline")

    def __init__(self, recorder: Recorder, phase: int) -> None:
        self._recorder = recorder
        self._timeline = recorder.timeline
        self._phase = phase

    def __enter__(self) -> None:
        if self._recorder.recording:
            self._timeline.push_phase(self._phase)

    def __exit__(self, *_: object) -> None:
        if self._recorder.recording:
            self._timeline.pop_phase()


class Batches(Generic[Batch]):
    """The batches of a loader, with the waiting for them recorded; as long as the loader."""

    def __init__(
        self,
        recorder: Recorder,
        steps: StepCount,
        loader: Iterable[Batch],
        samples: Callable[[Batch], int],
        tokens: Callable[[Batch], int] | None,
    ) -> None:
        self._recorder = recorder
        self._steps = steps
        self._loader = loader
        self._samples = samples
        self._tokens = tokens

    def __len__(self) -> int:
        return len(self._loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Batch]:
        recorder, timeline = self._recorder, self._recorder.timeline
        if not recorder.recording or timeline.declared == EVALUATE:
            yield from self._loader
            return
        observe, count, error = timeline.observe, self._count, recorder.error
        observe(DATA_WAIT)
        iterator = iter(self._loader)
        for batch in iterator:
            observe(OTHER)
            try:
                count(batch)
            except Exception as problem:  # noqa: BLE001 - as `guard`, without its calls
                error("value", problem)
            try:
                yield batch
            except GeneratorExit:  # the loop ended by break: the step was done all the same
                heard, timeline.after_step = timeline.after_step, None
                self._batch_is_over()  # a stop could be caught by nobody here: at the next step then
                timeline.after_step = heard
                raise
            self._batch_is_over()
            observe(DATA_WAIT)
        observe(OTHER)
        recorder.guard("value", self._epoch_is_over)

    def _count(self, batch: Batch) -> None:
        timeline = self._recorder.timeline
        timeline.pending_samples += self._samples(batch)
        if self._tokens is not None:
            timeline.pending_tokens += self._tokens(batch)

    def _batch_is_over(self) -> None:
        if self._recorder.recording:
            self._steps.batch_is_over()

    def _epoch_is_over(self) -> None:
        self._recorder.add("training_epochs_total", 1.0)
