"""Many runs, one after the other, in this process: what they leave in it. Folder, port, number of runs."""

from __future__ import annotations

import os
import sys
import threading

import psutil

import trainbeacon

folder, port, runs = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


def one(number: int) -> None:
    name = f"run-{os.getpid()}-{number}"
    with trainbeacon.start(
        run=name, directory=folder, port=port, host="127.0.0.1", gpu=False, linger_seconds=2
    ) as beacon:
        for _ in range(3):
            with beacon.step(samples=1):
                beacon.log(loss=0.5)


def footprint() -> tuple[int, int, int]:
    ours = [thread for thread in threading.enumerate() if thread.name.startswith("trainbeacon")]
    return len(os.listdir("/proc/self/fd")), len(ours), len(psutil.Process().children())


one(0)
before = footprint()
for number in range(1, runs):
    one(number)
for thread in threading.enumerate():
    if thread is not threading.current_thread():
        thread.join(30)  # those of a run that has ended are ending
print(*(after - first for after, first in zip(footprint(), before, strict=True)))
