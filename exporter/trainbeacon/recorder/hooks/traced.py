"""What `torch.compile` may meet in a user's graph: it has to be traced, to return at once.

Everything else of the recorder is skipped by the compiler (`compiler`), which would break the graph here.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

from trainbeacon.recorder.core.patch import Inert, Observers, reporting
from trainbeacon.recorder.core.recorder import Recorder


class Hook(Inert):
    """A hook for one object of the user's: a model or an optimizer.

    Of a copy of that object it reports nothing: it is bound to the object itself, and is `Inert`.

    Args:
        watched: what it is registered on. It is not kept alive.
        recorder: takes the errors of `report`; where it does not record, nothing is reported.
        report: called with what torch gives to the hook, the object first; what it returns goes to torch.
        compiled: called when the hook is compiled into a graph, in which it will say nothing.
    """

    def __init__(
        self,
        watched: Any,
        recorder: Recorder,
        report: Callable[..., Any],
        compiled: Callable[[], None] | None = None,
    ) -> None:
        from torch.compiler import is_compiling

        self.__name__ = "trainbeacon_hook"
        self._is_compiling = is_compiling
        self._watched = weakref.ref(watched)
        self._recorder = recorder
        self._report = report
        self._compiled = _once_traced(compiled) if compiled is not None else None

    def __call__(self, *given: Any) -> Any:
        """Torch calls it."""
        if self._is_compiling():
            if self._compiled is not None:
                self._compiled()
            return None
        recorder = self._recorder
        if not recorder.recording or self._watched() is not given[0]:
            return None
        try:
            return self._report(*given)
        except Exception as error:  # as `Recorder.guard`, without its call
            if not recorder.takes("hooks", error):
                raise
            return None


def _once_traced(report: Callable[[], None]) -> Callable[[], bool]:
    """A function that the compiler calls once, as it traces it, in place of having it in the graph."""

    def traced() -> bool:
        report()
        return True

    traced._dynamo_marked_constant = True  # type: ignore[attr-defined]  # torch.compiler's mark for that
    return traced


def reporting_outside_graphs(original: Callable[..., Any], observers: Observers) -> Callable[..., Any]:
    """`original`, with its calls reported but for those in a graph. For `patch.observe`."""
    from torch.compiler import is_compiling

    reported = reporting(original, observers)

    @functools.wraps(original)
    def call(*args: Any, **keywords: Any) -> Any:
        return (original if is_compiling() else reported)(*args, **keywords)

    return call
