"""`python day.py FOLDER STEPS`: as many steps as a day has, at speed; prints what became of them."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import psutil

import trainbeacon
from trainbeacon.blackbox.reader import BoxDirectory

folder, steps = Path(sys.argv[1]), int(sys.argv[2])
begun = time.monotonic()
before = 0
with trainbeacon.start(run="day", serve="off", directory=str(folder)) as beacon:
    for number in range(steps):
        with beacon.step(samples=8, tokens=1024):
            with beacon.phase("forward"):
                pass
            beacon.log(loss=1.0 / (number + 1), accuracy=0.5, perplexity=float(number))
        if number == steps // 10:
            before = psutil.Process().memory_info().rss
    after = psutil.Process().memory_info().rss
    (box,) = BoxDirectory(os.open(folder, os.O_RDONLY)).scan(ring=True)
    assert box.number("training_samples_total") == 8.0 * steps
    assert len(box.ring) <= 1024
    sizes = [path.stat().st_size for path in folder.iterdir()]
    print(box.number("training_steps_total"), before, after, len(sizes), sum(sizes), time.monotonic() - begun)
