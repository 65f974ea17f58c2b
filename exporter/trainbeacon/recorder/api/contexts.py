"""The contexts that a script opens around parts of its loop."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from trainbeacon.recorder.core.recorder import Recorder


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
