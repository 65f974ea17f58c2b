"""`python runs.py FOLDER`: three runs in one process; prints each box, then threads and files left over."""

from __future__ import annotations

import os
import sys
import threading
import time

import psutil

import trainbeacon
from trainbeacon.blackbox.reader import BoxDirectory


def begin(name: str, steps: int) -> trainbeacon.Beacon:
    beacon = trainbeacon.start(run=name, serve="off", directory=sys.argv[1])
    for _ in range(steps):
        with beacon.step():
            beacon.log(loss=1.0)
    return beacon


def usage() -> tuple[int, int]:
    return threading.active_count(), psutil.Process().num_fds()


with begin("one", 3):
    first = usage()
begin("two", 5)
begin("three", 7)
deadline = time.monotonic() + 10
while usage()[0] > first[0] and time.monotonic() < deadline:
    time.sleep(0.05)  # the threads of the first two end by themselves
last = usage()
for box in sorted(BoxDirectory(os.open(sys.argv[1], os.O_RDONLY)).scan(), key=lambda box: box.identity.start):
    print(box.identity.run, box.state, box.number("training_steps_total"))
print(last[0] - first[0], last[1] - first[1])
