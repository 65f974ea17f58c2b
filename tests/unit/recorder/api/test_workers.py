"""Helpers of a training process: loaders' workers and copies of a beacon, which record nothing."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
from multiprocessing.connection import Connection
from pathlib import Path

import trainbeacon
from trainbeacon.blackbox.reader import BoxDirectory


def _start_in_a_daemon(folder: str, said: Connection) -> None:
    beacon = trainbeacon.start(run="worker", serve="off", directory=folder)
    said.send(beacon.recording)


def test_nothing_is_recorded_in_a_daemon_of_multiprocessing(tmp_path: Path) -> None:
    """A loader's worker that calls `start` makes no box: it would take the place of the rank's own."""
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("fork")
    worker = context.Process(target=_start_in_a_daemon, args=(str(tmp_path), there), daemon=True)
    worker.start()
    assert here.recv() is False
    worker.join(20)
    assert [] == list(tmp_path.glob("*.box"))


def test_a_copy_of_a_beacon_does_nothing(tmp_path: Path) -> None:
    """A model that holds the beacon can be copied or pickled; the copy records nothing and breaks nothing."""
    with trainbeacon.start(run="r", serve="off", directory=str(tmp_path)) as beacon:
        beacon.log(loss=1.0)
        for copied in (copy.deepcopy(beacon), pickle.loads(pickle.dumps(beacon))):
            with copied.step(samples=5), copied.phase("forward"):
                copied.log(loss=99.0)
            copied.finish()
        (box,) = BoxDirectory(os.open(tmp_path, os.O_RDONLY)).scan()
        assert (1.0, 0.0) == (box.number("training_loss", "train"), box.number("training_steps_total"))
        assert beacon.recording
