"""The trainer's container of the sidecar rehearsal: PID 1 starts two ranks, which train until killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time


def train() -> None:
    import trainbeacon

    with trainbeacon.start(run="rehearsal") as beacon:  # all settings from the environment, as in a pod
        while True:
            with beacon.step(samples=8):
                time.sleep(0.05)
            beacon.log(loss=1.0)


def main() -> None:
    assert os.getpid() == 1, "not in a pid namespace of its own"
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, "rank"],
            env={**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
            | {"LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"},
        )
        for rank in range(2)
    ]
    for rank in ranks:
        rank.wait()


if __name__ == "__main__":
    train() if sys.argv[1:] else main()
