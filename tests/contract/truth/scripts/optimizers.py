"""Scripts whose optimizers are not called once a step by the loop."""

from __future__ import annotations

import copy
import threading
from pathlib import Path
from typing import Any

import torch

from tests.contract.truth.job import Job
from tests.contract.truth.scripts.parts import CallsItsBase, make_loader, watched
from trainbeacon import Beacon


def calls_its_base(beacon: Beacon) -> None:
    job = watched(beacon, lambda parameters: CallsItsBase(parameters, lr=0.1))
    for number, _ in enumerate(beacon.batches(make_loader())):
        if number % 2:
            job.optimizer.step(job.backward)
        else:
            job.iterate()


class _SharpnessAware(torch.optim.Optimizer):
    """Holds another optimizer, whose step the second of its own two methods makes."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.1})
        self.within = torch.optim.SGD(self.param_groups, lr=0.1)
        self._before: list[Any] = []

    @torch.no_grad()
    def ascend(self) -> None:
        parameters = self.param_groups[0]["params"]
        self._before = [each.clone() for each in parameters]
        for each in parameters:
            each.add_(each.grad, alpha=0.01)
        self.zero_grad()

    @torch.no_grad()
    def descend(self) -> None:
        for each, before in zip(self.param_groups[0]["params"], self._before, strict=True):
            each.copy_(before)
        self.within.step()
        self.zero_grad()

    def step(self, closure: Any = None) -> Any:
        with torch.enable_grad():
            closure()
        self.ascend()
        with torch.enable_grad():
            loss = closure()
        self.descend()
        return loss


def steps_an_optimizer_within(beacon: Beacon) -> None:
    job = watched(beacon, _SharpnessAware)
    for _ in beacon.batches(make_loader()):
        job.backward()
        job.optimizer.ascend()
        job.backward()
        job.optimizer.descend()


def steps_an_optimizer_within_by_a_closure(beacon: Beacon) -> None:
    job = watched(beacon, _SharpnessAware)
    for _ in beacon.batches(make_loader()):
        job.optimizer.step(job.backward)


def ignores_the_closure(beacon: Beacon) -> None:
    class Ignores(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            return super().step()

    job = watched(beacon, lambda parameters: Ignores(parameters, lr=0.1))
    for _ in beacon.batches(make_loader()):
        job.backward()
        job.optimizer.step(lambda: None)


def has_slots(beacon: Beacon) -> None:
    class Slots(torch.optim.AdamW):
        __slots__ = ("extra",)

    job = watched(beacon, Slots)
    for _ in beacon.batches(make_loader()):
        job.iterate()
        copied = copy.deepcopy(job)
        copied.iterate()


def lbfgs(beacon: Beacon) -> None:
    job = watched(beacon, lambda parameters: torch.optim.LBFGS(parameters, max_iter=3))

    def closure() -> Any:
        job.optimizer.zero_grad()
        return job.backward()

    for _ in beacon.batches(make_loader()):
        job.optimizer.step(closure)


def one_for_each_parameter(beacon: Beacon) -> None:
    job = Job()
    optimizers = [torch.optim.SGD([parameter], lr=0.1) for parameter in job.model.parameters()]
    beacon.watch(job.model, optimizers)
    for optimizer in optimizers:
        (parameter,) = optimizer.param_groups[0]["params"]
        parameter.register_post_accumulate_grad_hook(lambda _, optimizer=optimizer: optimizer.step() and None)
    for _ in beacon.batches(make_loader()):
        job.backward()


def another_takes_over(beacon: Beacon) -> None:
    job = watched(beacon)
    for number, _ in enumerate(beacon.batches(make_loader())):
        if number == 3:
            job.optimizer = torch.optim.Adam(job.model.parameters())
            beacon.watch(optimizer=job.optimizer)
        job.iterate()


def gradients_by_functions(beacon: Beacon) -> None:
    job = watched(beacon)

    def loss(parameters: Any, batch: Any) -> Any:
        return torch.func.functional_call(job.model, parameters, (batch,)).square().mean()

    for (batch,) in beacon.batches(make_loader()):
        found = torch.func.grad(loss)({n: p.detach() for n, p in job.model.named_parameters()}, batch)
        for name, parameter in job.model.named_parameters():
            parameter.grad = found[name]
        job.update()


def average_of_weights(beacon: Beacon) -> None:
    job = watched(beacon)
    average = torch.optim.swa_utils.AveragedModel(job.model)
    for (batch,) in beacon.batches(make_loader()):
        job.iterate()
        average.update_parameters(job.model)
        average(batch).sum().backward()


def saves_in_a_thread_and_in_a_hook(beacon: Beacon, folder: Path) -> None:
    job = watched(beacon)
    job.optimizer.register_step_post_hook(lambda *_: torch.save(job.model.state_dict(), folder / "hook"))
    for _ in beacon.batches(make_loader()):
        job.iterate()
        thread = threading.Thread(target=torch.save, args=(job.model.state_dict(), folder / "thread"))
        thread.start()
        thread.join()


#: Each is given a beacon and perhaps an empty folder.
SCRIPTS = (
    calls_its_base,
    steps_an_optimizer_within,
    steps_an_optimizer_within_by_a_closure,
    ignores_the_closure,
    has_slots,
    lbfgs,
    one_for_each_parameter,
    another_takes_over,
    gradients_by_functions,
    average_of_weights,
    saves_in_a_thread_and_in_a_hook,
)
