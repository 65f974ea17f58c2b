"""How a run ends that its script does not finish: by an exception that leaves it, or with its process.

What is not known is not claimed: a script that ends without `finish` has `exited`, well or not. What is
known is used: an exception that passes through the `finally` in which `finish` is called, one that a
replaced `sys.excepthook` has shown, and one that ends a child of `multiprocessing`, which runs no `atexit`.
"""

from __future__ import annotations

import atexit
import sys
import time
from collections.abc import Callable
from opcode import opname
from types import CodeType, FrameType, TracebackType
from typing import Any

from trainbeacon.recorder.core.failures import kind_of
from trainbeacon.recorder.core.recorder import Recorder

#: What an exception goes on by at the end of a `finally` or `with`, or of a clause that raises it again.
_PASSED_ON = {"RERAISE", "RAISE_VARARGS"}
_HANDLED = "POP_EXCEPT"


class Failure:
    """The exception by which the run ends here, if it does.

    It is reported before the process ends, which may be killed before it can end by itself. A script that
    caught the exception and trains on has not failed: the next steps say so.

    Attributes:
        stands: whether a failure was reported and not taken back.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._steps = 0
        self.stands = False

    def record(self, error: BaseException) -> None:
        """The run ends by that exception; the first one counts, until it is taken back."""
        recorder, now = self._recorder, time.time()
        self.look_again()
        if self.stands:
            return
        named = error
        if isinstance(error, SystemExit) and error.__context__ is not None:
            named = error.__context__  # `except ...: sys.exit(1)`
        recorder.writer.info("training_failure_info", [type(named).__name__[:128], kind_of(error)])
        recorder.set("training_failure_timestamp_seconds", now)
        recorder.set("training_end_timestamp_seconds", now)
        recorder.writer.end("failed")
        self._steps = recorder.timeline.step_end[0]
        self.stands = True

    def look_again(self) -> None:
        """Take the failure back if steps were made since; for the background thread, and at the end."""
        recorder = self._recorder
        if not self.stands or recorder.timeline.step_end[0] == self._steps:
            return
        self.stands = False
        recorder.writer.info("training_failure_info", [])
        for name in ("training_failure_timestamp_seconds", "training_end_timestamp_seconds"):
            recorder.writer.unset(recorder.at(name))
        recorder.writer.go_on()


class ProcessEnd:
    """Watches over the end of the process for one run: puts itself in place, until `remove`.

    Args:
        failed: called with an exception that ends the run on this rank.
        end: called with the state that the run ends in, once the process ends.
    """

    def __init__(self, failed: Callable[[BaseException], None], end: Callable[[str], None]) -> None:
        self._failed = failed
        self._end = end
        self._handled = id(sys.exc_info()[1])
        self._shown = id(_last_shown())
        self._excepthook = sys.excepthook
        sys.excepthook = self._on_uncaught
        atexit.register(self._at_exit)
        self._child = _before_a_child_exits(self._child_exits)

    def remove(self) -> None:
        """The run is over."""
        if sys.excepthook == self._on_uncaught:
            sys.excepthook = self._excepthook
        atexit.unregister(self._at_exit)
        if self._child is not None:
            self._child.cancel()

    def passing(self) -> BaseException | None:
        """The exception that leaves the code which calls `finish`; None if none does.

        One that was being handled as the run began is of no interest.
        """
        error = sys.exc_info()[1]
        return error if error is not None and id(error) != self._handled and _passes_on(error) else None

    def superseded(self) -> tuple[str, BaseException | None]:
        """The state in which another start ends this run, and the exception that made it fail.

        After an exception at a prompt nobody knows whether it was the run's.
        """
        error = sys.exc_info()[1]
        if error is not None and id(error) != self._handled:
            return "failed", error
        shown = _last_shown()
        return "finished" if shown is None or id(shown) == self._shown else "exited", None

    def _on_uncaught(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        if not _at_a_prompt():  # there the session goes on, and the run may too
            self._failed(error)
        self._excepthook(kind, error, trace)

    def _at_exit(self) -> None:
        error = _last_shown()
        # A hook that was put over ours has shown it: of the whole program, not of a prompt within it.
        if error is not None and id(error) != self._shown and not _at_a_prompt() and _ends_the_program(error):
            self._failed(error)
        self._end("exited")

    def _child_exits(self) -> None:
        error = sys.exc_info()[1]
        if error is not None and not is_orderly(error):
            self._failed(error)
        self._end("exited")


def is_orderly(error: BaseException) -> bool:
    """Whether an exception ends something well: `sys.exit()`, a generator that is closed."""
    return isinstance(error, GeneratorExit) or (isinstance(error, SystemExit) and error.code in (None, 0))


def _last_shown() -> BaseException | None:
    """The last exception that the interpreter, or a notebook, has shown as uncaught."""
    shown: BaseException | None = getattr(sys, "last_value", None)
    return shown


def _at_a_prompt() -> bool:
    return hasattr(sys, "ps1")


def _ends_the_program(error: BaseException) -> bool:
    """Whether it went through all of the stack."""
    trace = error.__traceback__
    return trace is not None and trace.tb_frame.f_back is None


def _passes_on(error: BaseException) -> bool:
    """Whether the code that an exception has interrupted, and that we are called from, lets it go on."""
    through, trace = set(), error.__traceback__
    while trace is not None:
        through.add(trace.tb_frame)
        trace = trace.tb_next
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame not in through:
        frame = frame.f_back
    return frame is not None and _goes_on(frame.f_code, frame.f_lasti)


def _goes_on(code: CodeType, at: int) -> bool:
    for place in range(at + 2, len(code.co_code), 2):
        doing = opname[code.co_code[place]]
        if doing in _PASSED_ON:
            return True
        if doing == _HANDLED:
            return False
    return False


def _before_a_child_exits(work: Callable[[], None]) -> Any:
    """Have that called as a child of `multiprocessing` ends; None in another process.

    It is called while the exception that ends the child is being handled.
    """
    for name in ("multiprocessing", "multiprocess"):
        process: Any = sys.modules.get(f"{name}.process")
        util: Any = sys.modules.get(f"{name}.util")
        if process is not None and util is not None and process.parent_process() is not None:
            return util.Finalize(None, work, exitpriority=0)
    return None
