"""A small training run for tests, which goes on until a file is there: `trained.py STOP`."""

from __future__ import annotations

import os
import sys
import time

import torch

import trainbeacon


def main(stop: str) -> None:
    model = torch.nn.Linear(64, 64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with trainbeacon.start(run="small", serve="off") as beacon:
        beacon.watch(model, optimizer)
        print("ready", flush=True)
        while not os.path.exists(stop):
            optimizer.zero_grad()
            model(torch.ones(8, 64)).sum().backward()
            optimizer.step()
            time.sleep(0.02)


if __name__ == "__main__":
    main(sys.argv[1])
