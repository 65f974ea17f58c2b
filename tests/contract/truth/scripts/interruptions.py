"""Scripts in which something fails or is left early, and that train on."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

import torch

from tests.contract.truth.job import STEPS
from tests.contract.truth.scripts.parts import CallsItsBase, make_loader, watched
from trainbeacon import Beacon


def interrupted_in_a_batch(beacon: Beacon) -> None:
    job = watched(beacon)
    with contextlib.suppress(KeyboardInterrupt):
        for number, _ in enumerate(beacon.batches(make_loader())):
            if number == 2:
                raise KeyboardInterrupt
            job.iterate()
    for _ in beacon.batches(make_loader(STEPS - 2)):
        job.iterate()


def interrupted_in_an_evaluation(beacon: Beacon) -> None:
    job, kept = watched(beacon), []
    for around in (torch.no_grad, beacon.evaluate):
        try:
            with around():
                for _ in beacon.batches(make_loader()):
                    raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            kept.append(error)  # and with it the iterator
    for _ in beacon.batches(make_loader()):
        job.iterate()


def a_handler_raises_in_a_phase(beacon: Beacon) -> None:
    def handle(*_: Any) -> None:
        raise TimeoutError

    job, before = watched(beacon), signal.signal(signal.SIGUSR1, handle)
    for _ in beacon.batches(make_loader()):
        with contextlib.suppress(TimeoutError), beacon.phase("forward"), beacon.phase("communication"):
            signal.raise_signal(signal.SIGUSR1)
        job.iterate()
    signal.signal(signal.SIGUSR1, before)


def a_generator_is_closed_in_a_phase(beacon: Beacon) -> None:
    def part() -> Iterator[int]:
        with beacon.phase("forward"), beacon.evaluate():
            yield 1
            yield 2

    job = watched(beacon)
    for _ in beacon.batches(make_loader()):
        for _ in part():
            break
        job.iterate()


def a_step_fails_and_is_tried_again(beacon: Beacon) -> None:
    class Fails(CallsItsBase):
        calls = 0

        def step(self, closure: Any = None) -> Any:
            self.calls += 1
            if self.calls == 2:
                raise MemoryError
            return super().step(closure)

    job = watched(beacon, lambda parameters: Fails(parameters, lr=0.1))
    for _ in beacon.batches(make_loader()):
        try:
            job.iterate()
        except MemoryError:
            job.iterate()


#: Each is given a beacon.
SCRIPTS = (
    interrupted_in_a_batch,
    interrupted_in_an_evaluation,
    a_handler_raises_in_a_phase,
    a_generator_is_closed_in_a_phase,
    a_step_fails_and_is_tried_again,
)
