"""How the ranks see to it that somebody serves their boxes."""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from trainbeacon._version import __version__
from trainbeacon.blackbox.directory import default_directory, open_directory
from trainbeacon.blackbox.election import Holder, depose, holder_of, read_note
from trainbeacon.config.settings import Config
from trainbeacon.recorder.background.launch import (
    StartedExporter,
    can_start_exporter,
    log_path,
    start_exporter,
)

log = logging.getLogger("trainbeacon")

# Of our own: the script may seed the global one, and expects its numbers.
_random = random.Random()  # noqa: S311 - jitter

#: How long the end of a run waits for an exporter that is being started: the script wants to go on.
CLOSE_SECONDS = 5.0
#: An exporter of ours that has said nothing for so long is ended, and another one starts.
HUNG_SECONDS = 15.0
#: The same of an exporter in a thread of a training process, or of somebody else's: it loses its lock.
HUNG_ELSEWHERE_SECONDS = 60.0


class ExporterSupervisor(Protocol):
    """Sees to it that the directory is served.

    Threads: `poll` belongs to the background thread; `close` may come from another one at any time.
    """

    def poll(self) -> None:
        """Start an exporter if none is there, or none that works; called about once a second."""

    def close(self) -> None:
        """Watch no more, and close what is open; the exporter lives on for its linger."""


class NoSupervisor:
    """`serve="off"`: somebody else serves the directory."""

    def poll(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class _Watched:
    """The directory, and whether whoever holds the exporter's lock in it is at work."""

    def __init__(self, config: Config) -> None:
        self._named = config.directory
        self._path = config.directory or default_directory()
        self.descriptor = open_directory(config.directory)
        self._holder: Holder | None = None
        self._since = 0.0
        self._beats = False  # whether this holder was seen to beat

    def close(self) -> None:
        """Close the directory."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def is_served(self) -> bool:
        """Whether an exporter has the lock and works. One that is stopped or hangs is put out of the way."""
        self._follow()
        holder = holder_of(self.descriptor)
        now = time.monotonic()
        if holder is None or self._holder is None or holder != self._holder:
            self._beats = None not in (holder, self._holder) and _are_one(holder, self._holder)
            self._holder, self._since = holder, now
            return holder is not None
        ours = _is_started_by_a_rank(holder.pid)
        patience = HUNG_SECONDS if ours else HUNG_ELSEWHERE_SECONDS
        if now - self._since < patience or not (self._beats or self._should_beat()):
            return True
        log.warning("the exporter (process %d) does nothing any more: another takes its place", holder.pid)
        self._since = now
        if not (ours and _kill(self.descriptor, holder)):
            depose(self.descriptor, holder)
        return False

    def _follow(self) -> None:
        """Go on in the directory that has the name now: the one before may have been removed."""
        own = os.fstat(self.descriptor)
        try:
            found = os.stat(self._path)
            if (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino):
                return
        except FileNotFoundError:
            pass
        descriptor = open_directory(self._named)
        self.close()
        self.descriptor = descriptor

    def _should_beat(self) -> bool:
        """Whether the holder is of a version that says each second that it is at work."""
        note = read_note(self.descriptor)
        return note is not None and note.version == __version__


def _are_one(holder: Holder | None, other: Holder | None) -> bool:
    """Whether two looks saw the same holder, at two beats."""
    return holder is not None and other is not None and replace(holder, beat=0) == replace(other, beat=0)


def _is_started_by_a_rank(pid: int) -> bool:
    """Whether it is an exporter of this user's that is nothing else, and that a rank has started."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(64 * 1024).split(b"\0")
        return b"--started-by-rank" in words and os.stat(f"/proc/{pid}").st_uid == os.geteuid()
    except OSError:
        return False


def _kill(directory: int, holder: Holder) -> bool:
    """End a hung exporter process, if that is what still holds the lock; returns whether it was."""
    try:
        process = os.pidfd_open(holder.pid)
    except (OSError, AttributeError):  # gone, or not Linux
        return False
    try:
        # From here on the number cannot pass to another process.
        if holder_of(directory) != holder or not _is_started_by_a_rank(holder.pid):
            return False
        signal.pidfd_send_signal(process, signal.SIGKILL)
        return True
    except OSError:
        return False
    finally:
        os.close(process)


class ProcessSupervisor:
    """`serve="process"`: an exporter in a process of its own, started by whichever rank misses it first."""

    def __init__(self, config: Config, local_rank: int) -> None:
        self._config = config
        self._use = threading.Lock()
        self._is_closed = False
        self._directory = _Watched(config)
        self._started: StartedExporter | None = None
        self._failures = 0
        # The first rank of the node starts it; the others step in if that did not work.
        self._next_start = time.monotonic() + (_random.uniform(3.0, 5.0) if local_rank else 0.0)

    def poll(self) -> None:
        """Start an exporter if none works; at most one try in some seconds.

        Raises:
            OSError: the exporter that was started could not serve; the next try comes later each time.
        """
        with self._use:
            if not self._is_closed:
                self._poll()

    def close(self) -> None:
        """Watch no more; waits for a `poll` that is going on, for some seconds."""
        self._is_closed = True
        if self._use.acquire(timeout=CLOSE_SECONDS):
            try:
                self._directory.close()
                if self._started is not None:
                    self._started.close()
                    self._started = None
            finally:
                self._use.release()

    def _poll(self) -> None:
        failure = self._failure()
        if failure:
            self._failures += 1
            self._next_start = time.monotonic() + _pause(self._failures)
            raise OSError(f"the exporter ended with status {failure}: see {log_path(self._config)}")
        if self._directory.is_served():
            self._failures = 0
            return
        if time.monotonic() < self._next_start:
            return
        self._next_start = time.monotonic() + _pause(0)  # time for it to take the lock
        if self._started is None:
            self._started = start_exporter(self._config, self._directory.descriptor)

    def _failure(self) -> int:
        """The status of the exporter that was started, if it has ended by its own will since, else 0."""
        status = self._started.status() if self._started is not None else None
        if self._started is None or status is None:
            return 0
        self._started.close()
        self._started = None
        return status


def _pause(failures: int) -> float:
    """Seconds to the next try, with jitter; up to a minute where it fails again and again."""
    return _random.uniform(3.0, 5.0) * 2.0 ** min(failures, 4)


class ThreadExporter(Protocol):
    """An exporter that serves from a thread of this process."""

    @property
    def is_serving(self) -> bool:
        """Whether it answers."""

    def start(self) -> bool:
        """Begin to serve if nobody else does; returns whether it does."""

    def run_in_thread(self) -> None:
        """Go on in a thread of its own."""


_make_thread_exporter: Callable[[Config], ThreadExporter] | None = None


def serve_threads_with(factory: Callable[[Config], ThreadExporter]) -> None:
    """Have `serve="thread"` make its exporter so: the write side itself knows none."""
    global _make_thread_exporter
    _make_thread_exporter = factory


#: Exporters in threads of this process, by directory. There must not be two for one: the second would
#: get the lock too, and closing its file would free the lock of the first.
_threads: dict[str, ThreadExporter] = {}


class ThreadSupervisor:
    """`serve="thread"`: an exporter in a thread of the first process that gets the lock."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._use = threading.Lock()
        self._is_closed = False
        self._directory = _Watched(config)
        self._key = os.path.realpath(config.directory or default_directory())
        self._exporter: ThreadExporter | None = None
        self._failures = 0
        self._next_start = time.monotonic()

    def poll(self) -> None:
        """Serve, if nobody does. Raises OSError where that cannot be; the next try comes later each time."""
        with self._use:
            serving = _threads.get(self._key)
            is_ours = serving is not None and serving.is_serving
            if self._is_closed or is_ours or self._directory.is_served():
                return
            if time.monotonic() >= self._next_start:
                self._start()

    def close(self) -> None:
        """Watch no more; waits for a `poll` that is going on, for some seconds."""
        self._is_closed = True
        if self._use.acquire(timeout=CLOSE_SECONDS):
            try:
                self._directory.close()
            finally:
                self._use.release()

    def _start(self) -> None:
        if self._exporter is None:
            if _make_thread_exporter is None:
                raise OSError('serve="thread" has no exporter: import trainbeacon, not a part of it')
            self._exporter = _make_thread_exporter(self._config)
        try:
            if self._exporter.start():
                self._exporter.run_in_thread()
                _threads[self._key] = self._exporter
                self._failures = 0
        except OSError:
            self._failures += 1
            self._next_start = time.monotonic() + _pause(self._failures)
            raise


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.clear)  # the threads stay the parent's


def supervisor_for(config: Config, local_rank: int) -> ExporterSupervisor:
    """The supervisor that the setting `serve` asks for. Raises OSError if the directory cannot be used."""
    if config.serve == "off":
        return NoSupervisor()
    if config.serve == "process" and can_start_exporter():
        return ProcessSupervisor(config, local_rank)
    if config.serve == "process":
        log.warning(
            'serve="process" starts another Python, and %s cannot be one: /metrics is served from a thread',
            sys.executable or "this program",
        )
    return ThreadSupervisor(config)
