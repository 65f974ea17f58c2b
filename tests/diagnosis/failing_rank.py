"""One rank of a small DistributedDataParallel job, of which one fails: started by torchrun.

`python failing_rank.py FAULT VICTIM STEP FOLDER`: before the fault the victim writes the time of it to
FOLDER/fault.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

import trainbeacon


class Broken(Dataset[int]):
    """One item that cannot be read."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        raise ValueError("not a JPEG")


def fail(fault: str) -> None:
    """Go wrong in that way; all but the memory of a GPU for real."""
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault == "raise":
        raise IndexError("a mistake of the script")
    elif fault == "host_oom":
        torch.empty(1 << 50)
    elif fault == "cuda_oom":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    elif fault == "storage":
        with open("/dev/full", "wb", buffering=0) as file:
            file.write(b"checkpoint")
    elif fault == "data":
        next(iter(DataLoader(Broken(), num_workers=1)))


def main(fault: str, victim: int, step: int, folder: Path) -> None:
    distributed.init_process_group("gloo")
    torch.set_num_threads(1)
    model = DistributedDataParallel(torch.nn.Linear(8, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with trainbeacon.start(run="failures", serve="off", directory=str(folder / "boxes")) as beacon:
        beacon.watch(model, optimizer)
        for number in range(100_000):
            if number == step and distributed.get_rank() == victim:
                (folder / "fault").write_text(str(time.time()))
                fail(fault)
            loss = model(torch.randn(4, 8)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            beacon.log(loss=loss)
            time.sleep(0.02)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
