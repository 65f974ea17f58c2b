"""`python -m tests.robustness.programs.shifted FILE train FOLDER`, or `... FILE agent ...`.

The wall clock of this process is that of the machine plus the seconds that the file says.
"""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path

import trainbeacon
from trainbeacon.cli import main


class Clock:
    """time.time, shifted; the file is looked at every time."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._real = time.time
        self._offset = 0.0

    def __call__(self) -> float:
        with contextlib.suppress(ValueError):  # in the middle of being written
            self._offset = float(self._file.read_text())
        return self._real() + self._offset


def train(folder: str) -> None:
    with trainbeacon.start(run="clock", serve="off", directory=folder) as beacon:
        print("ready", flush=True)
        while True:
            with beacon.step(samples=1), beacon.phase("forward"):
                time.sleep(0.02)
            beacon.log(loss=1.0)


if __name__ == "__main__":
    time.time = Clock(Path(sys.argv[1]))
    if sys.argv[2] == "train":
        train(sys.argv[3])
    sys.exit(main(sys.argv[2:]))
