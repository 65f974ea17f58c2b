"""Seeing `torch.compile` at work, by its own callbacks, so that its minutes are the phase `compile`.

They are torch's private names, so they are looked for and done without where they are not. Dynamo is not
loaded for this, which would take seconds: the background thread looks whether the script has.
"""

from __future__ import annotations

import sys
from threading import get_ident
from typing import Any

from trainbeacon.recorder.core.timeline import PHASE, Declared, Timeline

_COMPILE = PHASE["compile"]


class CompileWatch:
    """Of the beacon that records now; made in the thread that trains."""

    def __init__(self, timeline: Timeline) -> None:
        global _watch
        self._timeline = timeline
        self._open: Declared | None = None
        _watch = self

    def poll(self) -> None:
        """Be called by the compiler from now on, if it is loaded; a reset of Dynamo forgets it again."""
        handler = getattr(sys.modules.get("torch._dynamo.callback"), "callback_handler", None)
        starts, ends = getattr(handler, "start_callbacks", None), getattr(handler, "end_callbacks", None)
        if isinstance(starts, list) and isinstance(ends, list) and _begins not in starts:
            ends.append(_ends)
            starts.append(_begins)

    def begin(self) -> None:
        """The training thread begins to compile; what other threads compile holds up nobody."""
        if self._open is None:
            self._open = self._timeline.push_phase(_COMPILE)

    def end(self) -> None:
        """It has compiled."""
        if get_ident() == self._timeline.thread:
            self._timeline.pop_phase(self._open)
            self._open = None


_watch: CompileWatch | None = None


def _begins(*_: Any) -> None:
    if _watch is not None:
        _watch.begin()


def _ends(*_: Any) -> None:
    if _watch is not None:
        _watch.end()
