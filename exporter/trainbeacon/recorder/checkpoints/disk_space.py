"""Space on the file system that checkpoints are written to.

Asking for it may take minutes where that file system hangs: it is asked in the file worker's own thread,
and the last answer is unset when no further one comes.
"""

from __future__ import annotations

import os
import time
from functools import partial

from trainbeacon.blackbox import format as layout
from trainbeacon.recorder.core.file_worker import FileWorker
from trainbeacon.recorder.core.recorder import Recorder

INTERVAL_SECONDS = 15.0
#: An older answer is unset.
SILENT_SECONDS = 60.0

_FREE, _TOTAL = "training_checkpoint_disk_free_bytes", "training_checkpoint_disk_total_bytes"


class DiskSpace:
    """Records the space where the last checkpoint goes, for rank 0 of a run; does nothing on any other rank.

    Args:
        recorder: where the figures go.
        file_worker: has the file system asked.
    """

    def __init__(self, recorder: Recorder, file_worker: FileWorker) -> None:
        self._recorder = recorder
        self._file_worker = file_worker
        self._first = recorder.identity.rank == 0
        self._path: str | None = None
        self._due = 0.0
        self._answered: float | None = None

    def watch(self, path: str | os.PathLike[str]) -> None:
        """Checkpoints go there from now on; from any thread, without touching the file system."""
        text = os.fspath(path)
        if self._first and isinstance(text, str) and "://" not in text:  # an object store has no free space
            self._path = os.path.abspath(text)
            self._due = 0.0

    def poll(self) -> None:
        """Have the file system asked if it is time; called by the background thread in each turn."""
        now = time.monotonic()
        if self._answered is not None and now - self._answered > SILENT_SECONDS:
            self._answered = None
            self._record(layout.UNSET, layout.UNSET)
        if self._path is not None and now >= self._due:
            self._due = now + INTERVAL_SECONDS
            self._file_worker.submit(partial(self._ask, self._path))

    def _ask(self, path: str) -> None:
        space = _space_at(path)
        self._record(space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize)
        self._answered = time.monotonic()

    def _record(self, free: float, total: float) -> None:
        self._recorder.set_of_run(_FREE, free)
        self._recorder.set_of_run(_TOTAL, total)


def _space_at(path: str) -> os.statvfs_result:
    """Of a folder that is yet to be made, the space where its parent lies; not so if it cannot be reached."""
    while True:
        try:
            return os.statvfs(path)
        except (FileNotFoundError, NotADirectoryError):
            path = os.path.dirname(path)
