"""The exporter's life: elected by a lock, serving a directory, gone soon after its last live box."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import queue
import threading
import time

from trainbeacon._version import __version__
from trainbeacon.blackbox import files, textfile
from trainbeacon.blackbox.attempts import latest_started
from trainbeacon.blackbox.directory import BOX_SUFFIX, open_directory
from trainbeacon.blackbox.election import ExporterLock, ExporterNote
from trainbeacon.blackbox.reader import Box, BoxDirectory
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


class Exporter:
    """Serves one directory. `start` takes the lock and the port; `turn` is called once a second.

    Raises ConfigError if the web configuration file cannot be used.
    """

    def __init__(self, config: Config, mode: str) -> None:
        self._config = config
        self._mode = mode
        self._web = WebConfigFile(config.web_config)
        self._folder = open_directory(config.directory)
        self._health = Health()
        self._boxes = BoxDirectory(self._folder)
        self._discovery = DiscoveryFiles(config)
        self._lock: ExporterLock | None = None
        self._server: Server | None = None
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

        Raises:
            OSError: no port, or no such address; the text names the settings.
        """
        self._lock = ExporterLock.take(self._folder)
        if self._lock is None:
            return False
        try:
            self._server = self._open_port()
        except OSError:
            self._lock.release()
            self._lock = None
            raise
        self._last_live = time.monotonic()
        self._scrapes_of_the_end = 0
        self._boxes.ends.start()
        self._server.start()
        self._lock.publish(ExporterNote(os.getpid(), self.url, __version__))
        self._announce()
        return True

    def _open_port(self) -> Server:
        config = self._config
        listed = collectors(
            self._boxes,
            self._health,
            linger_seconds=config.linger_seconds,
            gpu=config.gpu,
            mode=self._mode,
        )
        application = Application(
            new_registry(listed, self._health), self._health, self._served, self._scraped, self._web
        )
        return Server(application, self._health, config.host, config.port, self._web)

    def _announce(self) -> None:
        assert self._server is not None
        if self._server.moved:
            log.warning("port %d is taken by another program; serving %s", self._config.port, self.url)
        else:
            log.info("serving %s", self.url)
        for warning in self._web.current.warnings:
            log.warning("web_config: %s: %s", self._config.web_config, warning)
        try:
            self._discovery.write(self._server.port, self._web.current.scheme)
        except OSError as error:
            self._health.error("discovery")
            log.warning("service discovery: %s", error)

    # Its life

    def turn(self) -> None:
        """Look after the directory; once a second."""
        now = time.monotonic()
        boxes = self._boxes.scan()
        if any(box.alive for box in boxes):
            self._last_live = now
            self._scrapes_of_the_end = 0
        if now >= self._next_cleaning:
            self._next_cleaning = now + CLEANING_SECONDS
            clean(self._folder, boxes, time.time(), self._config.retention_seconds)

    @property
    def is_idle(self) -> bool:
        """Whether no rank has been alive for as long as the linger."""
        return time.monotonic() - self._last_live > self._config.linger_seconds

    @property
    def end_was_seen(self) -> bool:
        """Whether nothing is alive and enough scrapes have seen the last state since."""
        quiet = time.monotonic() - self._last_live > TURN_SECONDS * 1.5
        return quiet and (self._scrapes_of_the_end >= LAST_SCRAPES or not self._served())

    def run(self, until_idle: bool) -> None:
        """Serve until `stop`, or, with `until_idle`, until the linger is over."""
        while not self._stopped:
            self._guarded_turn()
            if until_idle and self.is_idle:
                return
            self._wait(TURN_SECONDS)

    def drain(self) -> None:
        """Serve on until two scrapes saw the end, 30 s at most, or `stop` is called again: for SIGTERM."""
        deadline = time.monotonic() + DRAIN_SECONDS
        while not self._at_once and time.monotonic() < deadline and not self.end_was_seen:
            self._guarded_turn()
            self._wait(0.2)

    def _wait(self, seconds: float) -> None:
        with contextlib.suppress(queue.Empty):
            self._wake.get(timeout=seconds)

    def run_in_thread(self) -> None:
        """Serve in a thread of this process until the linger is over, then give up the lock."""
        atexit.register(self._discovery.remove)  # all else goes with the process by itself
        threading.Thread(target=self._run_and_close, name="trainbeacon-exporter", daemon=True).start()

    def _run_and_close(self) -> None:
        self.run(until_idle=True)
        atexit.unregister(self._discovery.remove)
        self.close()

    def stop(self, *, at_once: bool = True) -> None:
        """Have `run` return soon, and `drain` too with `at_once`; may be called from a signal handler."""
        self._stopped = True
        self._at_once |= at_once
        self._wake.put(None)

    def close(self) -> None:
        """Close the port and give up the lock."""
        self._boxes.ends.stop()
        self._discovery.remove()
        if self._server is not None:
            self._server.stop()
            self._server = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

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
        return select(self._boxes.scan(), time.time(), self._config.linger_seconds)

    def _scraped(self) -> None:
        if time.monotonic() - self._last_live > TURN_SECONDS * 1.5:  # else it may have seen a live rank
            self._scrapes_of_the_end += 1


def clean(folder: int, boxes: list[Box], now: float, retention_seconds: float) -> None:
    """Remove boxes that are dead and old or superseded, and what a start that was killed left behind.

    Files that are no boxes are let be: the directory may be somebody else's too.
    """
    latest = latest_started(boxes, now)
    for box in boxes:
        superseded = latest[box.identity.run, box.identity.rank] is not box
        if not box.alive and (superseded or box.silence(now) > retention_seconds):
            files.remove(folder, box.name)
            files.remove(folder, textfile.beside(box.name))
    _clean_leftovers(folder, now, retention_seconds)


def _clean_leftovers(folder: int, now: float, retention_seconds: float) -> None:
    """Old files of a start that was killed, and old texts whose box is gone."""
    names = set(os.listdir(folder))
    for name in names:
        is_orphan = (
            name.endswith(textfile.SUFFIX) and name.removesuffix(textfile.SUFFIX) + BOX_SUFFIX not in names
        )
        if name.startswith(files.TEMPORARY_PREFIX) or is_orphan:
            status = files.look(folder, name)
            if status is not None and now - status.st_mtime > retention_seconds:
                files.remove(folder, name)
