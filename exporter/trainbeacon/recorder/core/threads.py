"""Threads of ours in the script's process: they take none of its signals, and it goes on without them."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

#: What the kernel sends to the very thread that caused it: blocked, it would end the process without a word.
_FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGTRAP}


class NoThreadError(RuntimeError):
    """The system gives this process no further thread."""


def start_thread(name: str, work: Callable[[], None]) -> threading.Thread:
    """Start a daemon thread that blocks every signal.

    The kernel gives a signal to any thread that does not block it: one that the script has blocked, to wait
    for it with `sigwait`, would be taken by ours. What is started from the thread inherits that: a program
    unblocks what it needs.

    Raises:
        NoThreadError: no thread can be started.
    """
    thread = threading.Thread(target=work, name=name, daemon=True)
    # Blocked here and inherited: the thread itself would be too late by some microseconds.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - _FAULTS)
    try:
        thread.start()
    except RuntimeError as error:
        raise NoThreadError(f"no thread {name}: {error}") from None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return thread


def greenlets() -> str | None:
    """The library that has put greenlets in the place of threads in this process, if one has."""
    gevent: Any = sys.modules.get("gevent.monkey")
    if hasattr(gevent, "is_module_patched") and gevent.is_module_patched("threading"):
        return "gevent"
    eventlet: Any = sys.modules.get("eventlet.patcher")
    if hasattr(eventlet, "is_monkey_patched") and eventlet.is_monkey_patched("thread"):
        return "eventlet"
    return None
