"""A training script for the tests: ranks meet over gloo at each step, until a file says that it is enough.

    train.py FOLDER [--status N] [--ignore-term] [--step-seconds S]

On SIGTERM it writes FOLDER/checkpoint-<rank> and ends with 0, as a script does that minds the time limit. A
rank whose file FOLDER/eat-<rank> is there takes memory until somebody stops it.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

import trainbeacon

folder = Path(sys.argv[1])
status = int(sys.argv[sys.argv.index("--status") + 1]) if "--status" in sys.argv else 0
pause = float(sys.argv[sys.argv.index("--step-seconds") + 1]) if "--step-seconds" in sys.argv else 0.2
told: list[int] = []
signal.signal(signal.SIGTERM, signal.SIG_IGN if "--ignore-term" in sys.argv else lambda *_: told.append(1))

dist.init_process_group("gloo")
rank = dist.get_rank()
eaten: list[bytes] = []
with trainbeacon.start() as beacon:
    enough = torch.zeros(1)
    while not enough:
        with beacon.step(samples=1):
            while (folder / f"eat-{rank}").exists():
                eaten.append(b"x" * 16_000_000)
            enough[0] = float(bool(told) or (folder / "enough").exists())
            dist.all_reduce(enough, dist.ReduceOp.MAX)
            time.sleep(pause)
    if told:
        (folder / f"checkpoint-{rank}").write_text("saved")
dist.destroy_process_group()
sys.exit(status)
