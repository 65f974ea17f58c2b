"""The parts of a training loop that a beacon stands around: phases, evaluations, checkpoints, batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Generic, TypeVar

from trainbeacon.recorder.core.timeline import DATA_WAIT, EVALUATE, OTHER

if TYPE_CHECKING:
    from trainbeacon.recorder.api.beacon import Beacon

Batch = TypeVar("Batch")


class Span:
    """A context that is a phase of its own, or none; what goes wrong in ours never shows in the body."""

    __slots__ = ("_after", "_beacon", "_before", "_entered", "_failed", "_phase")

    def __init__(
        self,
        beacon: Beacon,
        phase: int | None,
        *,
        before: Callable[[], None] | None = None,
        after: Callable[[], None] | None = None,
        failed: Callable[[], None] | None = None,
    ) -> None:
        self._beacon = beacon
        self._phase = phase
        self._before = before
        self._after = after
        self._failed = failed
        self._entered = False

    def __enter__(self) -> None:
        beacon = self._beacon
        if not beacon.recording:
            return
        self._entered = True
        if self._phase is not None:
            beacon.timeline.enter(self._phase)
        if self._before is not None:
            beacon.recorder.guard("value", self._before)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        beacon = self._beacon
        if not self._entered or not beacon.recording:
            return
        finish = self._after if error is None else self._failed
        if finish is not None:
            beacon.recorder.guard("value", finish)
        if self._phase is not None:
            beacon.timeline.leave()


class PhaseSpan:
    """A declared phase; one object for each name, entered as often and as deep as one likes."""

    __slots__ = ("_beacon", "_phase", "_timeline")

    def __init__(self, beacon: Beacon, phase: int) -> None:
        self._beacon = beacon
        self._timeline = beacon.timeline
        self._phase = phase

    def __enter__(self) -> None:
        if self._beacon.recording:
            self._timeline.enter(self._phase)

    def __exit__(self, *_: object) -> None:
        if self._beacon.recording:
            self._timeline.leave()


class Batches(Generic[Batch]):
    """The batches of a loader, with the waiting for them recorded; as long as the loader."""

    def __init__(
        self,
        beacon: Beacon,
        loader: Iterable[Batch],
        samples: Callable[[Batch], int],
        tokens: Callable[[Batch], int] | None,
    ) -> None:
        self._beacon = beacon
        self._loader = loader
        self._samples = samples
        self._tokens = tokens

    def __len__(self) -> int:
        return len(self._loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Batch]:
        beacon = self._beacon
        if not beacon.recording or beacon.timeline.declared == EVALUATE:
            yield from self._loader
            return
        see, count, error = beacon.timeline.see, self._count, beacon.recorder.error
        see(DATA_WAIT)
        iterator = iter(self._loader)
        for batch in iterator:
            see(OTHER)
            try:
                count(batch)
            except Exception as problem:  # noqa: BLE001 - as `guard`, without its calls
                error("value", problem)
            try:
                yield batch
            except GeneratorExit:  # the loop ended by break: the step was done all the same
                heard, beacon.timeline.after_step = beacon.timeline.after_step, None
                self._batch_is_over()  # a stop could be caught by nobody here: at the next step then
                beacon.timeline.after_step = heard
                raise
            self._batch_is_over()
            see(DATA_WAIT)
        see(OTHER)
        beacon.recorder.guard("value", self._epoch_is_over)

    def _count(self, batch: Batch) -> None:
        timeline = self._beacon.timeline
        timeline.pending_samples += self._samples(batch)
        if self._tokens is not None:
            timeline.pending_tokens += self._tokens(batch)

    def _batch_is_over(self) -> None:
        if self._beacon.recording:
            self._beacon.steps.batch_is_over()

    def _epoch_is_over(self) -> None:
        self._beacon.recorder.add("training_epochs_total", 1.0)
