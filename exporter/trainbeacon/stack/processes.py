"""Child processes that are ended for certain, each by its own process id."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import psutil

from trainbeacon.stack import tether


def start(
    line: Sequence[str], log: Path, variables: Mapping[str, str] | None = None, *, piped: bool = False
) -> subprocess.Popen[str]:
    """Start a tethered child whose standard error (and output, unless `piped`) goes to the file `log`.

    `variables` are added to its environment. The child is a session of its own: Ctrl-C at the terminal
    reaches this process only, which then ends its children in order.
    """
    with log.open("ab") as file:
        return subprocess.Popen(
            tether.command(line, variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if piped else file,
            stderr=file,
            text=True,
            errors="replace",
            start_new_session=True,
        )


def stop(children: Iterable[subprocess.Popen[str]], patience: float = 5.0) -> None:
    """End children: SIGTERM to all, after `patience` seconds SIGKILL. Stopped ones (SIGSTOP) too."""
    children = [child for child in children if child.poll() is None]
    for child in children:
        child.terminate()
        child.send_signal(signal.SIGCONT)
    deadline = time.monotonic() + patience
    for child in children:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(max(0.0, deadline - time.monotonic()))
    for child in children:
        if child.poll() is None:
            child.kill()
            child.wait()


def stop_descendants(patience: float = 2.0) -> None:
    """End whatever this process and its children have started and left behind, the exporter above all.

    Only after `tether.adopt_orphans()` does that include the children of children that are gone.
    """
    descendants = psutil.Process().children(recursive=True)
    for process in descendants:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
            process.resume()
    _gone, left = psutil.wait_procs(descendants, timeout=patience)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=patience)


def wait_until(condition: Callable[[], bool], seconds: float, every: float = 0.05) -> bool:
    """Wait for a condition; returns whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(every)
    return True


def last_lines(log: Path, count: int = 5) -> str:
    """The end of a log file, for an error message."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join(lines[-count:]) or "(it wrote nothing)"
