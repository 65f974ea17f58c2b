"""When a process ended without reporting a state: the moment at which its life lock came free.

The order in which ranks end distinguishes the first failure from those that it caused, and a heartbeat
once a second is too coarse for that. So the exporter asks for the locks of live boxes 20 times a
second. It does not wait for a lock in a blocking call: to be given it would be to take it.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterable

from . import format as layout
from .own import own_boxes

INTERVAL_SECONDS = 0.05
#: Boxes that are watched at once; each takes a descriptor.
_MOST_WATCHED = 256

#: A file of the directory: its name and inode.
Key = tuple[str, int]


class Releases:
    """Notes the Unix time at which each box lost its owner. One thread; some 0.2 % of a core for 8 boxes.

    Args:
        directory: an open descriptor of the directory of the boxes.
    """

    def __init__(self, directory: int) -> None:
        self._directory = directory
        self._held: dict[Key, float] = {}  # when the lock was last seen held
        self._noted: dict[Key, float] = {}
        self._descriptors: dict[Key, int] = {}
        self._over = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to watch. Raises RuntimeError where no thread can be had."""
        self._over = False
        thread = threading.Thread(target=self._run, name="trainbeacon-releases", daemon=True)
        thread.start()
        self._thread = thread

    def stop(self) -> None:
        """Watch no more; waits for the thread, so that the directory's descriptor may be closed."""
        self._over = True
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def watch(self, held: Iterable[Key], present: Iterable[Key]) -> None:
        """What a look at the directory found: the boxes whose locks are held, and all that are there."""
        now = time.time()
        for key in held:
            if key in self._held or len(self._held) < _MOST_WATCHED:
                self._held.setdefault(key, now)
            self._noted.pop(key, None)  # a process that lost its lock by accident took it again
        kept = set(present)
        for known in (self._held, self._noted):
            for key in known.keys() - kept:
                known.pop(key, None)

    def time_of(self, key: Key) -> float | None:
        """Unix time at which the box lost its owner, at most 0.1 s off; None if that was not seen."""
        return self._noted.get(key)

    def poll(self) -> None:
        """Ask for every lock once; from one thread only."""
        for key in list(self._held):
            try:
                held = self._is_held(key)
            except OSError:  # the file is gone
                self._held.pop(key, None)
                continue
            now = time.time()
            if held:
                self._held[key] = now
            else:
                # It went since the last look. The earlier end of that time, so that what its peers say
                # of its going comes later; but no earlier than a look that came in time would tell.
                last = self._held.pop(key, now)
                self._noted[key] = max(last, now - INTERVAL_SECONDS)
        for key in self._descriptors.keys() - self._held.keys():
            os.close(self._descriptors.pop(key))

    def _is_held(self, key: Key) -> bool:
        descriptor = self._descriptors.get(key)
        if descriptor is None:
            descriptor = self._descriptors[key] = self._open(*key)
        return not layout.lock_is_free(fcntl.fcntl(descriptor, fcntl.F_GETLK, layout.lock_query()))

    def _open(self, name: str, inode: int) -> int:
        status = os.stat(name, dir_fd=self._directory, follow_symlinks=False)
        if status.st_ino != inode or (status.st_dev, inode) in own_boxes:
            # Of ours: to close any descriptor of it would free its lock.
            raise FileNotFoundError(name)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(name, flags, dir_fd=self._directory)

    def _run(self) -> None:
        while not self._over:
            self.poll()
            time.sleep(INTERVAL_SECONDS)  # an Event's wait takes twice the time of the processor
        self._held.clear()
        self.poll()
