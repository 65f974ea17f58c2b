"""`python loader.py FOLDER WORKERS CONTEXT...`: loaders whose workers call the beacon; prints the boxes.

The beacon is started where scripts do it, at the top, so that a spawned worker's import comes by it too.
"""

from __future__ import annotations

import os
import sys

import psutil
import torch
from torch.utils.data import DataLoader, Dataset

import trainbeacon
from trainbeacon.blackbox.reader import Box, BoxDirectory

beacon = trainbeacon.start(run="loader", serve="off", directory=sys.argv[1])


class Examples(Dataset[torch.Tensor]):
    def __init__(self, given: trainbeacon.Beacon) -> None:
        self.given = given

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> torch.Tensor:
        for each in (self.given, beacon):
            with each.step(samples=1000), each.phase("forward"):
                each.log(loss=99.0, epoch=99, of_a_worker=1.0)
        return torch.zeros(2)


def main() -> None:
    for context in sys.argv[3:]:
        loader = DataLoader(
            Examples(beacon),
            batch_size=4,
            num_workers=int(sys.argv[2]),
            multiprocessing_context=context,
            timeout=60,
        )
        for _ in beacon.batches(loader):
            beacon.log(loss=0.5)
        del loader
        print(f"{context}: {_found()}", flush=True)
    beacon.finish()


def _found() -> str:
    boxes = _look()
    # The fork server and the resource tracker are multiprocessing's own and end with us.
    own = ("forkserver", "resource_tracker")
    children = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    left = [child for child in children if not any(name in " ".join(child.cmdline()) for name in own)]
    numbers = {
        "boxes": len(boxes),
        "state": boxes[0].state,
        "steps": f"{boxes[0].number('training_steps_total'):.0f}",
        "samples": f"{boxes[0].number('training_samples_total'):.0f}",
        "loss": boxes[0].number("training_loss", "train"),
        "left": len(left),
    }
    return " ".join(f"{name}={value}" for name, value in numbers.items())


def _look() -> list[Box]:
    descriptor = os.open(sys.argv[1], os.O_RDONLY)
    try:
        return BoxDirectory(descriptor).scan()
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    main()
