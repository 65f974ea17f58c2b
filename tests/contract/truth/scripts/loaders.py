"""Scripts that go about their batches in ways of their own."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from tests.contract.truth.job import STEPS
from tests.contract.truth.scripts.parts import Endless, make_loader, watched
from trainbeacon import Beacon


def adversarial(beacon: Beacon) -> None:
    generator, critic = watched(beacon), watched(beacon)
    for _ in beacon.batches(make_loader()):
        critic.iterate()
        generator.iterate()


def persistent_workers(beacon: Beacon) -> None:
    job = watched(beacon)
    loader = beacon.batches(make_loader(STEPS // 2, num_workers=1, persistent_workers=True))
    for _ in range(2):
        for _ in loader:
            job.iterate()


def endless_with_islice(beacon: Beacon) -> None:
    job = watched(beacon)
    for _ in itertools.islice(beacon.batches(DataLoader(Endless(), batch_size=4)), STEPS):
        job.iterate()


def endless_left_after_a_step(beacon: Beacon) -> None:
    job = watched(beacon)
    for number, _ in enumerate(beacon.batches(DataLoader(Endless(), batch_size=4)), start=1):
        job.iterate()
        if number == STEPS:
            break


def endless_left_before_a_step(beacon: Beacon) -> None:
    job = watched(beacon)
    for number, _ in enumerate(beacon.batches(DataLoader(Endless(), batch_size=4))):
        if number == STEPS:
            break
        job.iterate()


def left_before_a_step_in_each_epoch(beacon: Beacon) -> None:
    job = watched(beacon)
    for _ in range(2):
        for number, (_batch,) in enumerate(beacon.batches(make_loader())):
            if number == STEPS // 2:
                break
            job.iterate()


def next_by_hand(beacon: Beacon) -> None:
    job = watched(beacon)
    iterator = iter(beacon.batches(DataLoader(Endless(), batch_size=4)))
    for _ in range(STEPS):
        next(iterator)
        job.iterate()


def a_generator_that_cycles(beacon: Beacon) -> None:
    def cycle(loader: Any) -> Iterator[Any]:
        while True:
            yield from loader

    job, batches = watched(beacon), cycle(beacon.batches(make_loader(2)))
    for _ in range(STEPS):
        next(batches)
        job.iterate()


def a_loader_within(beacon: Beacon) -> None:
    job, inner = watched(beacon), make_loader(2)
    for _ in beacon.batches(make_loader()):
        for _ in inner:
            pass
        job.iterate()


def one_batch_ahead(beacon: Beacon) -> None:
    job, iterator = watched(beacon), iter(beacon.batches(make_loader()))
    following = next(iterator)
    while following is not None:
        following = next(iterator, None)
        job.iterate()


def batches_of_a_thread(beacon: Beacon) -> None:
    job, ready = watched(beacon), queue.Queue[Any](2)

    def fill() -> None:
        for batch in beacon.batches(make_loader()):
            ready.put(batch)
        ready.put(None)

    thread = threading.Thread(target=fill)
    thread.start()
    while ready.get() is not None:
        job.iterate()
    thread.join()


#: Each is given a beacon.
SCRIPTS = (
    adversarial,
    persistent_workers,
    endless_with_islice,
    endless_left_after_a_step,
    endless_left_before_a_step,
    left_before_a_step_in_each_epoch,
    next_by_hand,
    a_generator_that_cycles,
    a_loader_within,
    one_batch_ahead,
    batches_of_a_thread,
)
