"""Groups of three processes over gloo, of which one goes wrong: prints fault and kind for each survivor.

`python failing_peers.py PORT`: that port and the next ones, one for each fault: `kill` (rank 1 is
killed), `sleep` (rank 1 does not join any more), `store` (rank 0, which has the store, is killed).
"""

from __future__ import annotations

import datetime
import os
import signal
import sys
import time

import torch
from torch import distributed

from trainbeacon.recorder.core.failures import kind_of

FAULTS = ("kill", "sleep", "store")
WORLD = 3


def rank_of(fault: str, rank: int, port: int) -> None:
    store = distributed.TCPStore("127.0.0.1", port, WORLD, rank == 0, datetime.timedelta(seconds=60))
    distributed.init_process_group(
        "gloo", store=store, rank=rank, world_size=WORLD, timeout=datetime.timedelta(seconds=60)
    )
    value = torch.ones(1)
    distributed.all_reduce(value)
    if rank == (0 if fault == "store" else 1):
        if fault == "sleep":
            time.sleep(4)
            return
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        if fault == "store":
            store.get("nothing of that name")
        distributed.all_reduce(value, async_op=True).wait(datetime.timedelta(seconds=1))
    except RuntimeError as error:
        os.write(1, f"{fault} {kind_of(error)}\n".encode())


def main(port: int) -> None:
    """PyTorch is imported once, before the forks: it has started no threads yet."""
    children = []
    for number, fault in enumerate(FAULTS):
        for rank in range(WORLD):
            child = os.fork()
            if child == 0:
                rank_of(fault, rank, port + number)
                os._exit(0)
            children.append(child)
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
