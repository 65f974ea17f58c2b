"""Processes and programs around a run: loaders' workers, several runs in one process, a notebook."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.robustness.check import Size, program
from tests.serving import REPOSITORY, environment

CONTEXTS = ("fork", "spawn", "forkserver")
CELLS = """
import trainbeacon
beacon = trainbeacon.start(run="first", serve="off", directory=FOLDER)
with beacon.step(samples=2):
    beacon.log(loss=1.0)

raise ValueError("an exception in a cell")
with beacon.step(samples=2):
    beacon.log(loss=0.5)

print("first", *boxes(FOLDER))
beacon = trainbeacon.start(run="second", serve="off", directory=FOLDER)
with beacon.step():
    undefined_name

with beacon.step():
    beacon.log(loss=0.25)

print("second", *boxes(FOLDER))
exit()
"""
HELPERS = '''
import os
from trainbeacon.blackbox.reader import BoxDirectory
def boxes(folder):
    """Run, state and steps of each box."""
    descriptor = os.open(folder, os.O_RDONLY)
    for box in BoxDirectory(descriptor).scan():
        yield f"{box.identity.run}:{box.state}:{box.number('training_steps_total'):.0f}"
    os.close(descriptor)
'''


def loaders(folder: Path, size: Size) -> str:
    """Workers that log, step and start a phase with the beacon that they were given."""
    folder.mkdir(parents=True)
    said = program("loader", folder, size.workers, *CONTEXTS).splitlines()
    for number, context in enumerate(CONTEXTS, 1):
        expected = (
            f"{context}: boxes=1 state=running steps={4 * number} samples={16 * number} loss=0.5 left=0"
        )
        assert said[number - 1] == expected, said
    return f"{', '.join(CONTEXTS)}: the parent's numbers alone, no process and no box left over"


def spawned_ranks(folder: Path, size: Size) -> str:
    """Ranks that multiprocessing starts are no workers: each records, whatever the start method."""
    folder.mkdir(parents=True)
    said = program("ranks", folder, *CONTEXTS).splitlines()
    assert said == [f"{context}-{rank} finished 3.0" for context in sorted(CONTEXTS) for rank in range(2)], (
        said
    )
    return f"two ranks each by {', '.join(CONTEXTS)}: every one in a box of its own"


def three_runs(folder: Path, size: Size) -> str:
    """One after the other in one process, the second started without finishing the first."""
    folder.mkdir(parents=True)
    said = program("runs", folder).splitlines()
    assert said[-4:-1] == ["one finished 3.0", "two finished 5.0", "three running 7.0"], said
    threads, files = said[-1].split()
    return f"each box has its own numbers; {threads} threads and {files} open files more than for one run"


def notebook(folder: Path, size: Size) -> str:
    """Cells at an interactive prompt: an exception in a cell does not end the run, a second start does."""
    folder.mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-i", "-q", "-c", f"FOLDER = {str(folder)!r}{HELPERS}"],
        input=CELLS,
        env=environment(),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
    )
    said = done.stdout.splitlines()
    assert said == [
        "first first:running:2",
        "second first:exited:2 second:running:1",
    ], (said, done.stderr)
    assert "ValueError: an exception in a cell" in done.stderr
    return "an exception in a cell leaves the run running; a second start closes the first run"
