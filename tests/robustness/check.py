"""What the checks of robustness share: their sizes, their figures, memory, and children of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.serving import REPOSITORY, environment

PROGRAMS = Path(__file__).with_name("programs")
#: Memory that an allocator may take without anything leaking.
SLACK_BYTES = 6 << 20


class CannotTryError(Exception):
    """This machine does not permit what the check needs; the text says what."""


@dataclass(frozen=True)
class Size:
    """How much of everything: one set for the suite, one for the campaign."""

    boxes: int
    live_boxes: int
    junk_files: int
    requests: int
    slow_connections: int
    scrape_seconds: float
    steps: int
    workers: int
    runs: int
    run_processes: int
    stop_exporter: bool


SHORT = Size(
    boxes=300,
    live_boxes=60,
    junk_files=500,
    requests=300,
    slow_connections=40,
    scrape_seconds=5,
    steps=20_000,
    workers=1,
    runs=60,
    run_processes=3,
    stop_exporter=False,
)
FULL = Size(
    boxes=10_000,
    live_boxes=3_000,
    junk_files=100_000,
    requests=10_000,
    slow_connections=200,
    scrape_seconds=180,
    steps=864_000,
    workers=2,
    runs=200,
    run_processes=200,
    stop_exporter=True,
)


@dataclass(frozen=True)
class Check:
    """One attack: `run` raises AssertionError where the promise breaks, and returns what was measured."""

    name: str
    promise: str
    run: Callable[[Path, Size], str]


def memory(pid: int) -> int:
    """Resident bytes of a process."""
    return int(psutil.Process(pid).memory_info().rss)


def assert_flat(before: int, after: int) -> str:
    """That memory did not grow beyond slack; says both in MiB."""
    assert after - before < SLACK_BYTES, f"grew from {before >> 10} to {after >> 10} KiB"
    return f"{before / 2**20:.1f} MiB before, {after / 2**20:.1f} MiB after"


def program(name: str, *arguments: object, wrap: Sequence[str] = (), seconds: float = 120, **env: str) -> str:
    """Run one of `programs/` to its end and return what it printed. Raises AssertionError if it fails."""
    done = subprocess.run(
        [*wrap, sys.executable, str(PROGRAMS / f"{name}.py"), *map(str, arguments)],
        env={**environment(), **env},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def in_namespace(script: str, name: str, *arguments: object, **env: str) -> str:
    """The same after a shell script in a mount namespace of its own."""
    probe = subprocess.run(["unshare", "-rm", "true"], capture_output=True)
    if probe.returncode:
        raise CannotTryError("unshare -rm is not permitted here")
    shell = f'set -e\n{script}\nexec "$@"'
    return program(name, *arguments, wrap=["unshare", "-rm", "sh", "-c", shell, "sh"], **env)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of the values do not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def shared_memory(prefix: str) -> set[str]:
    """Entries of /dev/shm that begin so."""
    return {name for name in os.listdir("/dev/shm") if name.startswith(prefix)}
