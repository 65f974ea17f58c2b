"""`python train.py SERVE`: 500 steps into the default folder; prints whether and where they can be seen."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
import urllib.request

import trainbeacon
from trainbeacon.blackbox.directory import open_directory
from trainbeacon.blackbox.election import read_note


class Keep(logging.Handler):
    """Counts warnings."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += record.levelno >= logging.WARNING


def served() -> float:
    """The steps that /metrics shows."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        note = read_note(open_directory(None))
        with contextlib.suppress(OSError):
            page = urllib.request.urlopen(note.url, timeout=5).read().decode() if note else ""
            for line in page.splitlines():
                if line.startswith("training_steps_total{"):
                    return float(line.split()[-1])
        time.sleep(0.1)
    return -1.0


keep = Keep()
logging.getLogger("trainbeacon").addHandler(keep)
with trainbeacon.start(
    run="t", serve=sys.argv[1], host="127.0.0.1", port=0, gpu=False, linger_seconds=1
) as beacon:
    for _ in range(500):
        with beacon.step(samples=1):
            beacon.log(loss=1.0)
    if beacon.recorder.boxed:
        folder = os.path.dirname(os.path.dirname(str(beacon.recorder.writer.path)))
        print("boxed", f"served={served():.0f}" if sys.argv[1] == "process" else "", folder)
    else:
        print("unboxed", f"steps={beacon.timeline.step}", f"warnings={keep.count}")
