"""The contexts that a script opens around parts of its loop."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from threading import get_ident
from types import TracebackType

from trainbeacon.catalogue import PHASES
from trainbeacon.recorder.core.recorder import Recorder
from trainbeacon.recorder.core.timeline import Declared


class StepContext:
    """A context that is a phase of its own, or none; what goes wrong in ours never shows in the body."""

    __slots__ = (
        "__weakref__",
        "_after",
        "_before",
        "_declared",
        "_entered",
        "_failed",
        "_phase",
        "_recorder",
    )

    def __init__(
        self,
        recorder: Recorder,
        phase: int | None,
        *,
        before: Callable[[Callable[[], object]], None] | None = None,
        after: Callable[[], None] | None = None,
        failed: Callable[[], None] | None = None,
    ) -> None:
        self._recorder = recorder
        self._phase = phase
        self._before = before
        self._after = after
        self._failed = failed
        self._entered = False
        self._declared: Declared | None = None

    def __enter__(self) -> None:
        recorder = self._recorder
        if not recorder.recording:
            return
        self._entered = True
        if self._phase is not None:
            self._declared = recorder.timeline.push_phase(self._phase)
        if self._before is not None:
            recorder.guard("value", self._before, weakref.ref(self))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        recorder = self._recorder
        if not self._entered or not recorder.recording:
            return
        finish = self._after if error is None else self._failed
        if finish is not None:
            recorder.guard("value", finish)
        recorder.timeline.pop_phase(self._declared)


class PhaseContext:
    """A declared phase; one object for each name, entered as often and as deep as one likes."""

    __slots__ = ("_declared", "_phase", "_recorder", "_timeline")

    def __init__(self, recorder: Recorder, phase: int) -> None:
        self._recorder = recorder
        self._timeline = recorder.timeline
        self._phase = phase
        self._declared: list[Declared] = []

    def __enter__(self) -> None:
        if self._recorder.recording:
            declared = self._timeline.push_phase(self._phase)
            if declared is None:
                self._recorder.elsewhere(PHASES[self._phase])
            else:
                self._declared.append(declared)

    def __exit__(self, *_: object) -> None:
        if self._declared and self._recorder.recording and get_ident() == self._timeline.thread:
            self._timeline.pop_phase(self._declared.pop())
