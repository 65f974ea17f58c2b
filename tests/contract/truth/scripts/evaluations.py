"""Scripts that evaluate between steps, and within them."""

from __future__ import annotations

import torch

from tests.contract.truth.job import STEPS
from tests.contract.truth.scripts.parts import make_loader, watched
from trainbeacon import Beacon


def evaluates_on_the_training_data(beacon: Beacon) -> None:
    job, loader = watched(beacon), beacon.batches(make_loader())
    for _ in loader:
        job.iterate()
    with beacon.evaluate(), torch.no_grad():
        for _ in loader:
            pass


def evaluates_in_every_step(beacon: Beacon) -> None:
    job, validation = watched(beacon), beacon.batches(make_loader(3))
    for _ in beacon.batches(make_loader()):
        job.iterate()
        job.model.eval()
        with torch.no_grad():
            for (batch,) in validation:
                job.model(batch)
        job.model.train()


def modes_by_turns(beacon: Beacon) -> None:
    job = watched(beacon)
    for train in (True, False):
        job.model.train(train)
        for (batch,) in beacon.batches(make_loader()):
            with torch.set_grad_enabled(train):
                loss = job.model(batch).sum()
            if train:
                loss.backward()
                job.update()


def modes_by_turns_without_optimizer(beacon: Beacon) -> None:
    model = torch.nn.Linear(8, 1)
    beacon.watch(model)
    for train in (True, False):
        model.train(train)
        for (batch,) in beacon.batches(make_loader()):
            with torch.set_grad_enabled(train):
                model(batch)


def keeps_an_iterator_of_validation(beacon: Beacon) -> None:
    job, validation = watched(beacon), iter(beacon.batches(make_loader(50)))
    for _ in beacon.batches(make_loader()):
        job.iterate()
        with torch.no_grad():
            next(validation)


def keeps_an_iterator_of_validation_and_watches_nothing(beacon: Beacon) -> None:
    validation = iter(beacon.batches(make_loader(50)))
    for _ in beacon.batches(make_loader()):
        with torch.no_grad():
            next(validation)
        beacon.log(loss=1.0)


def evaluates_with_the_iterator_of_training(beacon: Beacon) -> None:
    job, iterator = watched(beacon), iter(beacon.batches(make_loader(50)))
    for _ in range(STEPS):
        next(iterator)
        job.iterate()
        with beacon.evaluate():
            next(iterator)


def first_batch_builds_the_model(beacon: Beacon) -> None:
    job, iterator = watched(beacon), iter(beacon.batches(make_loader(STEPS + 1)))
    with torch.no_grad():
        job.model(*next(iterator))
    for _ in iterator:
        job.iterate()


#: Each is given a beacon.
SCRIPTS = (
    evaluates_on_the_training_data,
    evaluates_in_every_step,
    modes_by_turns,
    modes_by_turns_without_optimizer,
    keeps_an_iterator_of_validation,
    keeps_an_iterator_of_validation_and_watches_nothing,
    evaluates_with_the_iterator_of_training,
    first_batch_builds_the_model,
)
