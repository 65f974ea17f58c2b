"""Stacks on demand, by a signal: only where the user wants the handler, and the box says that it is there."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import threading
from dataclasses import dataclass

from trainbeacon.recorder.core.recorder import Recorder, log
from trainbeacon.recorder.hangs.store import ASKED_SUFFIX, Store
from trainbeacon.recorder.hangs.watchdog import DUMPS_ARE_SAFE

#: A slot with this name holds the number of the signal and has the file of the stacks as its label.
SIGNAL_SLOT = "_stacks_signal"
_LABEL_LIMIT = 256
_NAME_LENGTH = 96

#: Where the handler writes to: one of the process, as the handler is.
_descriptors: list[int] = []


@dataclass(frozen=True)
class StackSignal:
    """The handler of `Config.stacks_signal`: `faulthandler` writes the stacks of all threads to a file.

    It is C code that runs at once, also in a process whose main thread waits in a collective or holds
    the interpreter.
    """

    number: signal.Signals
    descriptor: int
    path: str

    @classmethod
    def install(cls, recorder: Recorder, store: Store) -> StackSignal | None:
        """Put the handler in place and say so in the box; None where it is not asked for, or taken."""
        name = recorder.config.stacks_signal
        if name is None or not hasattr(faulthandler, "register"):
            return None
        if not DUMPS_ARE_SAFE:
            log.warning(
                "stacks_signal=%s: left out, since it could end this process before Python 3.11", name
            )
            return None
        number = signal.Signals[name]
        in_main_thread = threading.current_thread() is threading.main_thread()
        if not in_main_thread or signal.getsignal(number) is not signal.SIG_DFL:
            log.warning("stacks_signal=%s: the script has a handler for it, so ours is left out", name)
            return None
        if len(store.directory) + _NAME_LENGTH > _LABEL_LIMIT:
            log.warning("stacks_signal=%s: the path of the evidence directory is too long for it", name)
            return None
        descriptor, path = store.create(ASKED_SUFFIX)
        faulthandler.register(number, file=descriptor, all_threads=True, chain=False)
        while _descriptors:  # of an earlier run of this process
            os.close(_descriptors.pop())
        _descriptors.append(descriptor)
        # Last: whoever reads it may send the signal this very moment.
        recorder.writer.slots[recorder.writer.declare(SIGNAL_SLOT, [path])] = float(number)
        return cls(number, descriptor, path)

    def remove(self) -> None:
        """Leave the handler in place, since a signal may be on its way and would end the process; no more."""
        if os.fstat(self.descriptor).st_size == 0:
            with contextlib.suppress(OSError):  # gone with its folder
                os.unlink(self.path)
