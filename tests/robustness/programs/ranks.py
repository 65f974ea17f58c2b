"""`python ranks.py FOLDER CONTEXT...`: two ranks of each start method; prints what is in the boxes."""

from __future__ import annotations

import multiprocessing
import os
import sys

import trainbeacon
from trainbeacon.blackbox.reader import BoxDirectory


def train(folder: str, name: str) -> None:
    with trainbeacon.start(run=name, serve="off", directory=folder) as beacon:
        for _ in range(3):
            with beacon.step():
                beacon.log(loss=1.0)


def main() -> None:
    folder, *contexts = sys.argv[1:]
    for name in contexts:
        context = multiprocessing.get_context(name)
        ranks = [context.Process(target=train, args=(folder, f"{name}-{rank}")) for rank in range(2)]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join(30)
            assert rank.exitcode == 0
    boxes = BoxDirectory(os.open(folder, os.O_RDONLY)).scan()
    for box in sorted(boxes, key=lambda box: box.identity.run):
        print(box.identity.run, box.state, box.number("training_steps_total"))


if __name__ == "__main__":
    main()
