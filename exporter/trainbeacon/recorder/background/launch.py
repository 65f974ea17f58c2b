"""Starts the exporter as a process of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

from trainbeacon.blackbox import files
from trainbeacon.blackbox.directory import default_directory
from trainbeacon.config.settings import Config

EXPORTER_LOG = "exporter.log"
_LOG_LIMIT = 1 << 20
#: What the file of an interpreter is called; that of a program with one in it is called otherwise.
_INTERPRETER_NAMES = ("python", "pypy")
#: How this interpreter was started, as far as the exporter's has to be started so too.
_FLAGS = {"isolated": "-I", "ignore_environment": "-E", "no_user_site": "-s", "no_site": "-S"}
_PACKAGE_PARENT = os.path.abspath(os.path.join(os.path.dirname(__file__), *[os.pardir] * 3))
#: How long a Python may take to start, on a machine with much else to do.
START_SECONDS = 60.0
#: Run with all found where this process finds it, whatever made it importable here. The first process
#: ends as soon as it has started the second, and says its id; the second says the status that it ends with.
_BOOT = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_SETMASK, [])
end = int(sys.argv.pop(1))
pid = os.fork()
if pid:
    os.write(end, b"pid %d\\n" % pid)
    os._exit(0)
sys.path += [folder for folder in sys.argv.pop(1).split(os.pathsep) if folder not in sys.path]
status = 1
try:
    from trainbeacon.cli import main
    status = main()
finally:
    try:
        os.write(end, b"status %d\\n" % status)
    except OSError:
        pass
sys.exit(status)
"""


#: Ids of the exporters that this process has started, until they end: they are no work of the script's.
exporters_started: set[int] = set()


class StartedExporter:
    """An exporter process that this one has started, and that is not its child.

    A child would be found by a script that waits for its own children, and would stay as a zombie where the
    script goes on for long after the run. So it is a grandchild, and says by a pipe how it ended.
    """

    def __init__(self, end: int) -> None:
        """Take the pipe, once the id of the process is in it. Raises ValueError without one."""
        self._said = os.read(end, 64)
        self.pid = self._told(b"pid")
        self._end = end
        os.set_blocking(end, False)
        exporters_started.add(self.pid)

    def status(self) -> int | None:
        """Its exit status once it has ended, 0 if it was killed; None while it lives."""
        if b"status" not in self._said:
            answer = bytearray(64)
            try:
                length = os.readv(self._end, [answer])  # `os.read` waits under eventlet
            except BlockingIOError:
                return None
            self._said += bytes(answer[:length]) or b"status 0\n"
        return self._told(b"status")

    def _told(self, what: bytes) -> int:
        """A number that came by the pipe. Raises ValueError if it did not."""
        words = self._said.split()
        return int(words[words.index(what) + 1])

    def close(self) -> None:
        """Hear no more of it."""
        os.close(self._end)
        exporters_started.discard(self.pid)  # the kernel may give the id to another process


def start_exporter(config: Config, directory: int) -> StartedExporter:
    """Start the exporter as a process that outlives this one; takes as long as a Python needs to start.

    A new session and no inherited streams: else it would die with the rank's process group, and a
    pipe that the job's output goes through would not close before the exporter ends.

    Args:
        config: its settings.
        directory: an open descriptor of the directory that it serves, where its log lies.

    Raises:
        OSError: it cannot be started.
    """
    reads, writes = os.pipe()
    log = _open_log(directory)
    try:
        flags = [flag for name, flag in _FLAGS.items() if getattr(sys.flags, name)]
        child = subprocess.Popen(
            [sys.executable, *flags, "-c", _BOOT, str(writes), _found_in(), *_arguments(config)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
            pass_fds=[writes],
        )
    except BaseException:
        os.close(reads)
        raise
    finally:
        os.close(writes)
        os.close(log)
    try:
        child.wait(START_SECONDS)  # it ends as soon as it has started the exporter
        return StartedExporter(reads)
    except (subprocess.TimeoutExpired, ValueError) as error:
        child.kill()
        child.wait()
        os.close(reads)
        raise OSError(f"the exporter could not be started: see {log_path(config)}") from error


def can_start_exporter() -> bool:
    """Whether this is a Python to start another one with, and not a program that has one in it.

    A program that is frozen (PyInstaller) or embeds Python would start itself again, and train again.
    """
    name = os.path.basename(sys.executable or "").lower()
    return not getattr(sys, "frozen", False) and name.startswith(_INTERPRETER_NAMES)


def _found_in() -> str:
    """Where this process finds modules, with the package first; whole paths."""
    return os.pathsep.join([_PACKAGE_PARENT, *(os.path.abspath(folder) for folder in sys.path if folder)])


def _open_log(directory: int) -> int:
    """The exporter's log, to append to; where another user's file or a trap has its name, one of our own."""
    for name in (EXPORTER_LOG, f"exporter-{os.geteuid()}.log"):
        with contextlib.suppress(OSError):
            descriptor = files.open_for_appending(directory, name)
            if os.fstat(descriptor).st_size > _LOG_LIMIT:
                os.ftruncate(descriptor, 0)
            return descriptor
    return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


def log_path(config: Config) -> str:
    """Where the exporter's log is, as a rule."""
    return os.path.join(config.directory or default_directory(), EXPORTER_LOG)


def _arguments(config: Config) -> list[str]:
    arguments = ["agent", "--started-by-rank", f"--host={config.host}", f"--port={config.port}"]
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
