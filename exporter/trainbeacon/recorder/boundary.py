"""Whose an exception is that comes up in code of ours: what a signal handler of the script's raises is not.

Python runs a signal handler between two instructions of whatever the main thread is doing, which may be a
call of ours. A handler raises to tell the script something (a time-out, that the job will be preempted): it
has to reach the script, and is no error of ours.
"""

from __future__ import annotations

import inspect
from types import FrameType

#: Raises in whatever code it steps through, to end the session.
_DEBUGGER = "bdb"


def is_of_the_script(error: BaseException) -> bool:
    """Whether an exception was raised by a signal handler or a debugger, not by what we did or called.

    A handler is the one kind of function that is given the very frame that it interrupts.
    """
    if type(error).__module__ == _DEBUGGER:
        return True
    trace = error.__traceback__
    while trace is not None:
        if _is_handler(trace.tb_frame):
            return True
        trace = trace.tb_next
    return False


def _is_handler(frame: FrameType) -> bool:
    interrupted, code = frame.f_back, frame.f_code
    if interrupted is None:
        return False
    count = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & inspect.CO_VARARGS)
    given = [frame.f_locals.get(name) for name in code.co_varnames[:count]]
    if code.co_flags & inspect.CO_VARARGS and isinstance(given[-1], tuple):
        given += given[-1]
    return any(value is interrupted for value in given)
