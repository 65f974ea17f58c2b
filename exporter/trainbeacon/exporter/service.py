"""The exporter's life: elected by a lock, serving a directory, gone soon after its last live box."""

from __future__ import annotations

import atexit
import contextlib
import errno
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from functools import partial

from trainbeacon._version import __version__
from trainbeacon.blackbox import files, textfile
from trainbeacon.blackbox.box import latest_started
from trainbeacon.blackbox.directory import BOX_SUFFIX, default_directory, open_directory
from trainbeacon.blackbox.election import ExporterLock, ExporterNote
from trainbeacon.blackbox.reader import Box, BoxDirectory
from trainbeacon.blackbox.retention import Ended, most_ended, surplus
from trainbeacon.config.settings import Config, ConfigError
from trainbeacon.exporter.collectors.ranks import select
from trainbeacon.exporter.discovery import DiscoveryFiles
from trainbeacon.exporter.health import Health
from trainbeacon.exporter.http.pages import Application
from trainbeacon.exporter.http.server import Server
from trainbeacon.exporter.http.webconfig import WebConfigFile
from trainbeacon.exporter.registry import collectors, new_registry

log = logging.getLogger("trainbeacon")

TURN_SECONDS = 1.0
CLEANING_SECONDS = 30.0
#: On SIGTERM: how many scrapes must have seen the end, and how long to wait for them at most.
LAST_SCRAPES = 2
DRAIN_SECONDS = 30.0
_MOST_SAID = 20


class Exporter:
    """Serves one directory. `start` takes the lock and the port; `turn` is called once a second.

    Raises ConfigError if the web configuration file cannot be used.
    """

    def __init__(self, config: Config, mode: str) -> None:
        self._config = config
        self._mode = mode
        self._web = WebConfigFile(config.web_config)
        self._health = Health()
        self._discovery = DiscoveryFiles(config)
        self._folder = -1
        self._boxes: BoxDirectory | None = None
        self._lock: ExporterLock | None = None
        self._server: Server | None = None
        self._is_announced = False
        self._said: set[str] = set()
        self._last_live = time.monotonic()
        self._next_cleaning = 0.0
        self._scrapes_of_the_end = 0
        self._stopped = self._at_once = False
        # Not an Event: setting one in a signal handler can wait for ever for the thread it interrupted.
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()

    @property
    def is_serving(self) -> bool:
        """Whether this exporter holds the directory's lock."""
        return self._lock is not None

    @property
    def url(self) -> str:
        """Where the metrics are, once started."""
        assert self._server is not None
        host = "127.0.0.1" if self._server.host in ("0.0.0.0", "::", "") else self._server.host  # noqa: S104
        authority = f"{f'[{host}]' if ':' in host else host}:{self._server.port}"
        return f"{self._web.current.scheme}://{authority}/metrics"

    def start(self) -> bool:
        """Take the lock and serve; False if another exporter has the lock.

        All or nothing: where it fails or returns False, no port, thread or descriptor is left. Only a place
        to say where it serves may be missing, as in a directory that is full; that is tried again.

        Raises:
            OSError: no directory, port or thread, or no such address; the text names the settings.
        """
        with contextlib.ExitStack() as undo:
            self._folder = open_directory(self._config.directory)
            undo.callback(self.close)
            self._lock = ExporterLock.take(self._folder)
            if self._lock is None:
                return False
            self._boxes = BoxDirectory(self._folder)
            self._last_live = time.monotonic()
            self._scrapes_of_the_end = 0
            self._server = self._open_port(self._boxes)
            try:
                self._boxes.releases.start()
            except RuntimeError as error:
                raise OSError(errno.EAGAIN, "no more threads can be had") from error
            self._server.start()
            self._stopped = self._at_once = False
            undo.pop_all()
        self._say_where()
        self._announce()
        return True

    def _open_port(self, boxes: BoxDirectory) -> Server:
        config = self._config
        listed = collectors(
            boxes,
            self._health,
            linger_seconds=config.linger_seconds,
            gpu=config.gpu,
            mode=self._mode,
        )
        registry = new_registry(listed, self._health, boxes)
        application = Application(registry, self._health, self._served, self._scraped, self._web)
        return Server(application, self._health, config.host, config.port, self._web)

    def _say_where(self) -> None:
        assert self._server is not None
        if self._server.moved:
            log.warning("port %d is taken by another program; serving %s", self._config.port, self.url)
        else:
            log.info("serving %s", self.url)
        for warning in self._web.current.warnings:
            log.warning("web_config: %s: %s", self._config.web_config, warning)

    def _announce(self) -> None:
        """Write down where it serves; `turn` tries it again where that failed."""
        lock, server = self._lock, self._server
        if lock is None or server is None:
            return
        note = ExporterNote(os.getpid(), self.url, __version__)
        scheme = self._web.current.scheme
        written = (
            self._attempt("its own note", partial(lock.publish, note)),
            self._attempt("service discovery", partial(self._discovery.write, server.port, scheme)),
        )
        self._is_announced = all(written)

    def _attempt(self, what: str, work: Callable[[], None]) -> bool:
        """Do something that may fail without an end of serving; counted and logged once a kind."""
        try:
            work()
        except OSError as error:
            kind = f"{what}: {error.strerror or error}"
            if kind not in self._said and len(self._said) < _MOST_SAID:
                self._said.add(kind)
                self._health.error("discovery")
                log.warning("%s", kind)
            return False
        return True

    # Its life

    def turn(self) -> None:
        """Look after the directory; once a second. Raises OSError, and does the rest the next time."""
        now = time.monotonic()
        self._stay_in_place()
        if self._lock is None or self._boxes is None:
            return
        self._lock.beat()
        if not self._is_announced:
            self._announce()
        boxes = self._boxes.scan()
        if any(box.alive for box in boxes):
            self._last_live = now
            self._scrapes_of_the_end = 0
        ended = sum(not box.alive for box in boxes)
        if now >= self._next_cleaning or ended > most_ended(self._folder):
            self._next_cleaning = now + CLEANING_SECONDS
            clean(self._folder, boxes, time.time(), self._config.retention_seconds)

    def _stay_in_place(self) -> None:
        """Be in the directory that the ranks use and hold its lock, though either may have been removed."""
        assert self._lock is not None
        path = self._config.directory or default_directory()
        if _is_at(self._folder, path):
            if not self._lock.is_in(self._folder):
                self._take_again(self._folder)
            return
        folder = open_directory(self._config.directory)  # made again
        try:
            if self._take_again(folder):
                # The same number, so that all that reads the directory reads this one from now on.
                os.dup2(folder, self._folder, inheritable=False)
        finally:
            os.close(folder)

    def _take_again(self, folder: int) -> bool:
        """Take the lock that is in the folder now, in place of the one that went; else give way."""
        lock = ExporterLock.take(folder)
        if lock is None:
            log.warning("another exporter serves %s now; this one ends", self._config.directory or "it")
            self.stop()
            return False
        old, self._lock = self._lock, lock
        if old is not None:
            old.release()
        log.warning("the directory or its lock was removed; it was made again, and is served on")
        self._announce()
        return True

    @property
    def is_idle(self) -> bool:
        """Whether no rank has been alive for as long as the linger."""
        return time.monotonic() - self._last_live > self._config.linger_seconds

    @property
    def is_watching(self) -> bool:
        """Whether a rank was alive a moment ago."""
        return time.monotonic() - self._last_live <= TURN_SECONDS * 1.5

    @property
    def end_was_seen(self) -> bool:
        """Whether nothing is alive and enough scrapes have seen the last state since."""
        return not self.is_watching and (self._scrapes_of_the_end >= LAST_SCRAPES or not self._served())

    def living(self) -> list[int]:
        """The processes of the ranks that are alive, as this machine numbers them."""
        boxes = self._boxes.scan() if self._boxes is not None else []
        return [box.identity.pid for box in boxes if box.alive and box.identity.pid]

    def run(self, until_idle: bool) -> None:
        """Serve until `stop`, or, with `until_idle`, until the linger is over."""
        while not self._stopped:
            self._guarded_turn()
            if until_idle and self.is_idle:
                return
            self._wait(TURN_SECONDS)

    def drain(self, seconds: float = DRAIN_SECONDS) -> None:
        """Serve on until two scrapes saw the end, so long at most, or `stop` is called again: for SIGTERM."""
        deadline = time.monotonic() + seconds
        while not self._at_once and time.monotonic() < deadline and not self.end_was_seen:
            self._guarded_turn()
            self._wait(0.2)

    def _wait(self, seconds: float) -> None:
        with contextlib.suppress(queue.Empty):
            self._wake.get(timeout=seconds)

    def run_in_thread(self) -> None:
        """Serve in a thread of this process until the linger is over, then give up the lock.

        Raises:
            OSError: no thread can be had; nothing is served then.
        """
        atexit.register(self._discovery.remove)  # all else goes with the process by itself
        thread = threading.Thread(target=self._run_and_close, name="trainbeacon-exporter", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._end()
            raise OSError(errno.EAGAIN, "no more threads can be had") from error

    def _run_and_close(self) -> None:
        try:
            self.run(until_idle=True)
        finally:
            self._end()

    def _end(self) -> None:
        atexit.unregister(self._discovery.remove)
        self.close()

    def stop(self, *, at_once: bool = True) -> None:
        """Have `run` return soon, and `drain` too with `at_once`; may be called from a signal handler."""
        self._stopped = True
        self._at_once |= at_once
        self._wake.put(None)

    def close(self) -> None:
        """Close the port, give up the lock and leave nothing open; it may be started again."""
        self._discovery.remove()
        if self._server is not None:
            self._server.stop()
            self._server = None
        if self._boxes is not None:
            self._boxes.releases.stop()
            self._boxes = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1
        self._is_announced = False

    def _guarded_turn(self) -> None:
        try:
            self.turn()
        except OSError as error:
            self._health.error("exporter")
            log.warning("looking after the directory: %s", error)
        try:
            if self._web.reload():
                log.info("web_config: %s was read again", self._config.web_config)
        except ConfigError as error:
            self._health.error("server")
            log.warning("%s The settings from before stay.", error)

    def _served(self) -> list[Box]:
        boxes = self._boxes.scan() if self._boxes is not None else []
        return select(boxes, time.time(), self._config.linger_seconds)

    def _scraped(self) -> None:
        if self.is_watching:  # it may have seen a live rank
            return
        if self._boxes is not None and any(box.alive for box in self._boxes.scan()):
            self._last_live = time.monotonic()  # one that began after the last turn
        else:
            self._scrapes_of_the_end += 1


def clean(folder: int, boxes: list[Box], now: float, retention_seconds: float) -> None:
    """Remove boxes that are dead and old, superseded or too many, and what a start that was killed left.

    Files that are no boxes are let be: the directory may be somebody else's too.
    """
    latest = latest_started(boxes, now)
    ended = []
    for box in boxes:
        superseded = latest[box.identity.run, box.identity.rank] is not box
        if not box.alive and (superseded or box.silence(now) > retention_seconds):
            _remove(folder, box.name)
        elif not box.alive:
            ended.append(Ended(box.name, box.identity.run, now - box.silence(now)))
    for name in surplus(ended, most_ended(folder)):
        _remove(folder, name)
    _clean_leftovers(folder, now, retention_seconds)


def _remove(folder: int, box: str) -> None:
    files.remove(folder, box)
    files.remove(folder, textfile.beside(box))


def _is_at(folder: int, path: str) -> bool:
    """Whether the folder with that descriptor is the one that the path leads to."""
    own = os.fstat(folder)
    try:
        found = os.stat(path)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino)


def _clean_leftovers(folder: int, now: float, retention_seconds: float) -> None:
    """Old files of a start that was killed, and old texts whose box is gone."""
    names = set(files.names(folder))
    for name in names:
        is_orphan = (
            name.endswith(textfile.SUFFIX) and name.removesuffix(textfile.SUFFIX) + BOX_SUFFIX not in names
        )
        if name.startswith(files.TEMPORARY_PREFIX) or is_orphan:
            status = files.status(folder, name)
            if status is not None and now - status.st_mtime > retention_seconds:
                files.remove(folder, name)
