"""What `torch.compile` may meet in a user's graph: it has to be traced, to return at once.

Everything else of the recorder is skipped by the compiler (`compiler`), which would break the graph here.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

from trainbeacon.recorder.core.patch import Inert, Observers


class Hook(Inert):
    """A hook for one object of the user's: a model or an optimizer.

    Of a copy of that object it reports nothing: it is bound to the object itself, and is `Inert`.

    Args:
        watched: what it is registered on. It is not kept alive.
        report: called with what torch gives to the hook, the object first. Must not raise.
    """

    def __init__(self, watched: Any, report: Callable[..., None]) -> None:
        from torch.compiler import is_compiling

        self.__name__ = "trainbeacon_hook"
        self._is_compiling = is_compiling
        self._watched = weakref.ref(watched)
        self._report = report

    def __call__(self, *given: Any) -> None:
        """Torch calls it."""
        if not self._is_compiling() and self._watched() is given[0]:
            self._report(*given)


def reporting_outside_graphs(original: Callable[..., Any], observers: Observers) -> Callable[..., Any]:
    """`original`, with its calls reported but for those in a graph. For `patch.observe`."""
    from torch.compiler import is_compiling

    @functools.wraps(original)
    def call(*args: Any, **keywords: Any) -> Any:
        if is_compiling():
            return original(*args, **keywords)
        ended = observers(args, keywords)
        if ended is None:
            return original(*args, **keywords)
        try:
            result = original(*args, **keywords)
        except BaseException as error:
            ended(None, error)
            raise
        ended(result, None)
        return result

    return call
