"""Work on files that must hold up neither the training thread nor the background thread's heartbeat.

A checkpoint's file system may block for minutes. Whatever touches it runs in a daemon thread of its own,
started with the first job.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from trainbeacon.recorder.core.threads import NoThreadError, start_thread

MOST_WAITING = 100


class FileWorker:
    """Runs what it is given, in order; the oldest ones are forgotten where a hundred wait.

    Args:
        on_error: called with each exception.
    """

    def __init__(self, on_error: Callable[[Exception], None]) -> None:
        self._on_error = on_error
        self._jobs: deque[Callable[[], None]] = deque(maxlen=MOST_WAITING)
        self._something = threading.Event()
        self._thread: threading.Thread | None = None
        self._over = False

    def submit(self, job: Callable[[], None]) -> None:
        """Have something done soon; from any thread, without waiting. Nothing after `finish`."""
        if self._over:
            return
        self._jobs.append(job)
        self._something.set()
        if self._thread is None:
            try:
                self._thread = start_thread("trainbeacon-files", self._run)
            except NoThreadError as error:  # the next job tries again
                self._on_error(error)

    def finish(self, seconds: float) -> bool:
        """Take no more, and wait until all is done, but not longer than that. Returns whether it is."""
        self._over = True
        self._something.set()
        if self._thread is not None:
            self._thread.join(seconds)
        return not self._jobs if self._thread is None else not self._thread.is_alive()

    def _run(self) -> None:
        while not self._over or self._jobs:
            self._something.wait()
            self._something.clear()
            while self._jobs:
                try:
                    self._jobs.popleft()()
                except Exception as error:  # noqa: BLE001 - reported, and the next one is due
                    self._on_error(error)
