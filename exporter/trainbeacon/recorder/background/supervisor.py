"""How the ranks see to it that somebody serves their boxes."""

from __future__ import annotations

import logging
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Protocol

from trainbeacon.blackbox.directory import default_directory, open_directory
from trainbeacon.blackbox.election import exporter_is_there
from trainbeacon.config.settings import Config

log = logging.getLogger("trainbeacon")

# Of our own: the script may seed the global one, and expects its numbers.
_random = random.Random()  # noqa: S311 - jitter

EXPORTER_LOG = "exporter.log"
_LOG_LIMIT = 1 << 20
_PACKAGE_PARENT = os.path.abspath(os.path.join(os.path.dirname(__file__), *[os.pardir] * 3))
# Run with the package found where this process has it, whatever made it importable here.
_BOOT = "import sys; sys.path.append(sys.argv.pop(1)); from trainbeacon.cli import main; sys.exit(main())"


def is_worker() -> bool:
    """Whether multiprocessing started this process to help another one, as a loader's worker is.

    Those are daemons. While a spawned process imports the main script it is none yet, but being set up.
    """
    multiprocessing = sys.modules.get("multiprocessing.process")
    if multiprocessing is None:
        return False
    process = multiprocessing.current_process()
    if process.daemon:
        log.warning(
            "nothing is recorded in %s: a daemon of multiprocessing is taken for a worker", process.name
        )
    return bool(process.daemon) or hasattr(process, "_inheriting")


class ExporterSupervisor(Protocol):
    """Sees to it that the directory is served."""

    def poll(self) -> None:
        """Look once, and start an exporter if none is there; called about once a second."""


class NoSupervisor:
    """`serve="off"`: somebody else serves the directory."""

    def poll(self) -> None:
        """Do nothing."""


#: Ids of the exporters that this process has started as children of its own, until they are reaped.
exporters_started: set[int] = set()


class ProcessSupervisor:
    """`serve="process"`: an exporter in a process of its own, started by whichever rank misses it first."""

    def __init__(self, config: Config, local_rank: int) -> None:
        self._config = config
        self._directory = open_directory(config.directory)
        self._child: int | None = None
        self._failures = 0
        # The first rank of the node starts it; the others step in if that did not work.
        self._next_start = time.monotonic() + (_random.uniform(3.0, 5.0) if local_rank else 0.0)

    def poll(self) -> None:
        """Start an exporter if none holds the lock; at most one try in some seconds.

        Raises:
            OSError: the exporter that was started could not serve; the next try comes later each time.
        """
        failure = self._reap()
        if failure:
            self._failures += 1
            self._next_start = time.monotonic() + _pause(self._failures)
            raise OSError(f"the exporter ended with status {failure}: see {_log_path(self._config)}")
        if time.monotonic() < self._next_start or exporter_is_there(self._directory):
            return
        self._next_start = time.monotonic() + _pause(0)  # time for it to take the lock
        if self._child is None:
            self._child = start_exporter(self._config)

    def _reap(self) -> int:
        """The status of the child if it has ended by its own will since the last look, else 0."""
        if self._child is None:
            return 0
        try:
            pid, status = os.waitpid(self._child, os.WNOHANG)
        except ChildProcessError:  # reaped by other code of the process
            pid, status = self._child, 0
        if not pid:
            return 0
        exporters_started.discard(pid)  # the kernel may give the id to another child
        self._child = None
        return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0


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
        self._key = os.path.realpath(config.directory or default_directory())
        self._exporter: ThreadExporter | None = None

    def poll(self) -> None:
        """Serve, if nobody does."""
        serving = _threads.get(self._key)
        if serving is not None and serving.is_serving:
            return
        if self._exporter is None:
            if _make_thread_exporter is None:
                raise OSError('serve="thread" has no exporter: import trainbeacon, not a part of it')
            self._exporter = _make_thread_exporter(self._config)
        if self._exporter.start():
            _threads[self._key] = self._exporter
            self._exporter.run_in_thread()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.clear)  # the threads stay the parent's


def supervisor_for(config: Config, local_rank: int) -> ExporterSupervisor:
    """The supervisor that the setting `serve` asks for. Raises OSError if the directory cannot be used."""
    if config.serve == "process":
        return ProcessSupervisor(config, local_rank)
    if config.serve == "thread":
        return ThreadSupervisor(config)
    return NoSupervisor()


def start_exporter(config: Config) -> int:
    """Start the exporter as a process that outlives this one, and return its id.

    A new session and no inherited streams: else it would die with the rank's process group, and a
    pipe that the job's output goes through would not close before the exporter ends.
    """
    with open(_log_path(config), "ab") as log:
        if log.tell() > _LOG_LIMIT:
            log.truncate(0)
        child = subprocess.Popen(
            [sys.executable, "-c", _BOOT, _PACKAGE_PARENT, "agent", "--started-by-rank", *_arguments(config)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
        )
    exporters_started.add(child.pid)
    child.returncode = 0  # it is meant to outlive us, of which Popen would warn at our end
    return child.pid


def _log_path(config: Config) -> str:
    return os.path.join(config.directory or default_directory(), EXPORTER_LOG)


def _arguments(config: Config) -> list[str]:
    arguments = [f"--host={config.host}", f"--port={config.port}"]
    arguments += [f"--linger={config.linger_seconds}", f"--retention={config.retention_seconds}"]
    paths = {
        "directory": config.directory,
        "web-config": config.web_config,
        "sd-file": config.sd_file,
        "sd-dir": config.sd_dir,
    }
    arguments += [f"--{name}={os.path.abspath(path)}" for name, path in paths.items() if path]
    if config.advertise:
        arguments.append(f"--advertise={config.advertise}")
    return arguments if config.gpu else [*arguments, "--no-gpu"]
