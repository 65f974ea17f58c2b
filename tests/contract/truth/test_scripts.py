"""Training scripts as people write them: each makes six steps of four samples, however it goes about it."""

from __future__ import annotations

import contextlib
import copy
import itertools
import pickle
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import trainbeacon
from trainbeacon.blackbox.reader import Box

torch = pytest.importorskip("torch")

from torch.utils.data import DataLoader, IterableDataset, TensorDataset  # noqa: E402

from tests.contract.truth.job import STEPS, Job  # noqa: E402

Beacon = trainbeacon.Beacon


def _loader(batches: int = STEPS, **settings: Any) -> Any:
    return DataLoader(TensorDataset(torch.randn(4 * batches, 8)), batch_size=4, **settings)


class _Endless(IterableDataset):
    def __iter__(self) -> Iterator[Any]:
        while True:
            yield torch.randn(8)


class _CallsItsBase(torch.optim.SGD):
    """An optimizer of the script's own: torch runs the hooks of the step for each of the two classes."""

    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


def _watched(beacon: Beacon, optimizer: Any = None) -> Job:
    job = Job()
    if optimizer is not None:
        job.optimizer = optimizer(job.model.parameters())
    beacon.watch(job.model, job.optimizer)
    return job


# Loaders


def _adversarial(beacon: Beacon) -> None:
    generator, critic = _watched(beacon), _watched(beacon)
    for _ in beacon.batches(_loader()):
        critic.iterate()
        generator.iterate()


def _persistent_workers(beacon: Beacon) -> None:
    job = _watched(beacon)
    loader = beacon.batches(_loader(STEPS // 2, num_workers=1, persistent_workers=True))
    for _ in range(2):
        for _ in loader:
            job.iterate()


def _endless_with_islice(beacon: Beacon) -> None:
    job = _watched(beacon)
    for _ in itertools.islice(beacon.batches(DataLoader(_Endless(), batch_size=4)), STEPS):
        job.iterate()


def _endless_left_after_a_step(beacon: Beacon) -> None:
    job = _watched(beacon)
    for number, _ in enumerate(beacon.batches(DataLoader(_Endless(), batch_size=4)), start=1):
        job.iterate()
        if number == STEPS:
            break


def _endless_left_before_a_step(beacon: Beacon) -> None:
    job = _watched(beacon)
    for number, _ in enumerate(beacon.batches(DataLoader(_Endless(), batch_size=4))):
        if number == STEPS:
            break
        job.iterate()


def _next_by_hand(beacon: Beacon) -> None:
    job = _watched(beacon)
    iterator = iter(beacon.batches(DataLoader(_Endless(), batch_size=4)))
    for _ in range(STEPS):
        next(iterator)
        job.iterate()


def _a_generator_that_cycles(beacon: Beacon) -> None:
    def cycle(loader: Any) -> Iterator[Any]:
        while True:
            yield from loader

    job, batches = _watched(beacon), cycle(beacon.batches(_loader(2)))
    for _ in range(STEPS):
        next(batches)
        job.iterate()


def _a_loader_within(beacon: Beacon) -> None:
    job, inner = _watched(beacon), _loader(2)
    for _ in beacon.batches(_loader()):
        for _ in inner:
            pass
        job.iterate()


def _one_batch_ahead(beacon: Beacon) -> None:
    job, iterator = _watched(beacon), iter(beacon.batches(_loader()))
    following = next(iterator)
    while following is not None:
        following = next(iterator, None)
        job.iterate()


def _batches_of_a_thread(beacon: Beacon) -> None:
    job, ready = _watched(beacon), queue.Queue[Any](2)

    def fill() -> None:
        for batch in beacon.batches(_loader()):
            ready.put(batch)
        ready.put(None)

    thread = threading.Thread(target=fill)
    thread.start()
    while ready.get() is not None:
        job.iterate()
    thread.join()


# Evaluations


def _evaluates_on_the_training_data(beacon: Beacon) -> None:
    job, loader = _watched(beacon), beacon.batches(_loader())
    for _ in loader:
        job.iterate()
    with beacon.evaluate(), torch.no_grad():
        for _ in loader:
            pass


def _evaluates_in_every_step(beacon: Beacon) -> None:
    job, validation = _watched(beacon), beacon.batches(_loader(3))
    for _ in beacon.batches(_loader()):
        job.iterate()
        job.model.eval()
        with torch.no_grad():
            for (batch,) in validation:
                job.model(batch)
        job.model.train()


def _modes_by_turns(beacon: Beacon) -> None:
    job = _watched(beacon)
    for train in (True, False):
        job.model.train(train)
        for (batch,) in beacon.batches(_loader()):
            with torch.set_grad_enabled(train):
                loss = job.model(batch).sum()
            if train:
                loss.backward()
                job.update()


def _modes_by_turns_without_optimizer(beacon: Beacon) -> None:
    model = torch.nn.Linear(8, 1)
    beacon.watch(model)
    for train in (True, False):
        model.train(train)
        for (batch,) in beacon.batches(_loader()):
            with torch.set_grad_enabled(train):
                model(batch)


def _keeps_an_iterator_of_validation(beacon: Beacon) -> None:
    job, validation = _watched(beacon), iter(beacon.batches(_loader(50)))
    for _ in beacon.batches(_loader()):
        job.iterate()
        with torch.no_grad():
            next(validation)


def _keeps_an_iterator_of_validation_and_watches_nothing(beacon: Beacon) -> None:
    validation = iter(beacon.batches(_loader(50)))
    for _ in beacon.batches(_loader()):
        with torch.no_grad():
            next(validation)
        beacon.log(loss=1.0)


def _evaluates_with_the_iterator_of_training(beacon: Beacon) -> None:
    job, iterator = _watched(beacon), iter(beacon.batches(_loader(50)))
    for _ in range(STEPS):
        next(iterator)
        job.iterate()
        with beacon.evaluate():
            next(iterator)


def _first_batch_builds_the_model(beacon: Beacon) -> None:
    job, iterator = _watched(beacon), iter(beacon.batches(_loader(STEPS + 1)))
    with torch.no_grad():
        job.model(*next(iterator))
    for _ in iterator:
        job.iterate()


# Interruptions


def _interrupted_in_a_batch(beacon: Beacon) -> None:
    job = _watched(beacon)
    with contextlib.suppress(KeyboardInterrupt):
        for number, _ in enumerate(beacon.batches(_loader())):
            if number == 2:
                raise KeyboardInterrupt
            job.iterate()
    for _ in beacon.batches(_loader(STEPS - 2)):
        job.iterate()


def _interrupted_in_an_evaluation(beacon: Beacon) -> None:
    job, kept = _watched(beacon), []
    for around in (torch.no_grad, beacon.evaluate):
        try:
            with around():
                for _ in beacon.batches(_loader()):
                    raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            kept.append(error)  # and with it the iterator
    for _ in beacon.batches(_loader()):
        job.iterate()


def _a_handler_raises_in_a_phase(beacon: Beacon) -> None:
    def handle(*_: Any) -> None:
        raise TimeoutError

    job, before = _watched(beacon), signal.signal(signal.SIGUSR1, handle)
    for _ in beacon.batches(_loader()):
        with contextlib.suppress(TimeoutError), beacon.phase("forward"), beacon.phase("communication"):
            signal.raise_signal(signal.SIGUSR1)
        job.iterate()
    signal.signal(signal.SIGUSR1, before)


def _a_generator_is_closed_in_a_phase(beacon: Beacon) -> None:
    def part() -> Iterator[int]:
        with beacon.phase("forward"), beacon.evaluate():
            yield 1
            yield 2

    job = _watched(beacon)
    for _ in beacon.batches(_loader()):
        for _ in part():
            break
        job.iterate()


def _a_step_fails_and_is_tried_again(beacon: Beacon) -> None:
    class Fails(_CallsItsBase):
        calls = 0

        def step(self, closure: Any = None) -> Any:
            self.calls += 1
            if self.calls == 2:
                raise MemoryError
            return super().step(closure)

    job = _watched(beacon, lambda parameters: Fails(parameters, lr=0.1))
    for _ in beacon.batches(_loader()):
        try:
            job.iterate()
        except MemoryError:
            job.iterate()


# Optimizers


def _calls_its_base(beacon: Beacon) -> None:
    job = _watched(beacon, lambda parameters: _CallsItsBase(parameters, lr=0.1))
    for number, _ in enumerate(beacon.batches(_loader())):
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


def _steps_an_optimizer_within(beacon: Beacon) -> None:
    job = _watched(beacon, _SharpnessAware)
    for _ in beacon.batches(_loader()):
        job.backward()
        job.optimizer.ascend()
        job.backward()
        job.optimizer.descend()


def _steps_an_optimizer_within_by_a_closure(beacon: Beacon) -> None:
    job = _watched(beacon, _SharpnessAware)
    for _ in beacon.batches(_loader()):
        job.optimizer.step(job.backward)


def _ignores_the_closure(beacon: Beacon) -> None:
    class Ignores(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            return super().step()

    job = _watched(beacon, lambda parameters: Ignores(parameters, lr=0.1))
    for _ in beacon.batches(_loader()):
        job.backward()
        job.optimizer.step(lambda: None)


def _has_slots(beacon: Beacon) -> None:
    class Slots(torch.optim.AdamW):
        __slots__ = ("extra",)

    job = _watched(beacon, Slots)
    for _ in beacon.batches(_loader()):
        job.iterate()
        copied = copy.deepcopy(job)
        copied.iterate()


def _lbfgs(beacon: Beacon) -> None:
    job = _watched(beacon, lambda parameters: torch.optim.LBFGS(parameters, max_iter=3))

    def closure() -> Any:
        job.optimizer.zero_grad()
        return job.backward()

    for _ in beacon.batches(_loader()):
        job.optimizer.step(closure)


def _one_for_each_parameter(beacon: Beacon) -> None:
    job = Job()
    optimizers = [torch.optim.SGD([parameter], lr=0.1) for parameter in job.model.parameters()]
    beacon.watch(job.model, optimizers)
    for optimizer in optimizers:
        (parameter,) = optimizer.param_groups[0]["params"]
        parameter.register_post_accumulate_grad_hook(lambda _, optimizer=optimizer: optimizer.step() and None)
    for _ in beacon.batches(_loader()):
        job.backward()


def _another_takes_over(beacon: Beacon) -> None:
    job = _watched(beacon)
    for number, _ in enumerate(beacon.batches(_loader())):
        if number == 3:
            job.optimizer = torch.optim.Adam(job.model.parameters())
            beacon.watch(optimizer=job.optimizer)
        job.iterate()


def _gradients_by_functions(beacon: Beacon) -> None:
    job = _watched(beacon)

    def loss(parameters: Any, batch: Any) -> Any:
        return torch.func.functional_call(job.model, parameters, (batch,)).square().mean()

    for (batch,) in beacon.batches(_loader()):
        found = torch.func.grad(loss)({n: p.detach() for n, p in job.model.named_parameters()}, batch)
        for name, parameter in job.model.named_parameters():
            parameter.grad = found[name]
        job.update()


def _average_of_weights(beacon: Beacon) -> None:
    job = _watched(beacon)
    average = torch.optim.swa_utils.AveragedModel(job.model)
    for (batch,) in beacon.batches(_loader()):
        job.iterate()
        average.update_parameters(job.model)
        average(batch).sum().backward()


def _saves_in_a_thread_and_in_a_hook(beacon: Beacon, folder: Path) -> None:
    job = _watched(beacon)
    job.optimizer.register_step_post_hook(lambda *_: torch.save(job.model.state_dict(), folder / "hook"))
    for _ in beacon.batches(_loader()):
        job.iterate()
        thread = threading.Thread(target=torch.save, args=(job.model.state_dict(), folder / "thread"))
        thread.start()
        thread.join()


SCRIPTS = [
    _adversarial,
    _persistent_workers,
    _endless_with_islice,
    _endless_left_after_a_step,
    _endless_left_before_a_step,
    _next_by_hand,
    _a_generator_that_cycles,
    _a_loader_within,
    _one_batch_ahead,
    _batches_of_a_thread,
    _evaluates_on_the_training_data,
    _evaluates_in_every_step,
    _modes_by_turns,
    _modes_by_turns_without_optimizer,
    _keeps_an_iterator_of_validation,
    _keeps_an_iterator_of_validation_and_watches_nothing,
    _evaluates_with_the_iterator_of_training,
    _first_batch_builds_the_model,
    _interrupted_in_a_batch,
    _interrupted_in_an_evaluation,
    _a_handler_raises_in_a_phase,
    _a_generator_is_closed_in_a_phase,
    _a_step_fails_and_is_tried_again,
    _calls_its_base,
    _steps_an_optimizer_within,
    _steps_an_optimizer_within_by_a_closure,
    _ignores_the_closure,
    _has_slots,
    _lbfgs,
    _one_for_each_parameter,
    _another_takes_over,
    _gradients_by_functions,
    _average_of_weights,
    _saves_in_a_thread_and_in_a_hook,
]


@pytest.mark.filterwarnings("ignore:.*optree:FutureWarning")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__.strip("_"))
def test_script(script: Callable[..., None], beacon: Beacon, box: Callable[[], Box], tmp_path: Path) -> None:
    """Steps and samples are those that were trained on, no phase stays open, nothing of ours went wrong."""
    more = [tmp_path / "files"] if script is _saves_in_a_thread_and_in_a_hook else []
    for folder in more:
        folder.mkdir()
    script(beacon, *more)
    found = box()
    errors = {name: value for name, value in found.values.items() if "errors_total" in name[0] and value}
    assert (float(STEPS), 4.0 * STEPS, "other", {}) == (
        found.number("training_steps_total"),
        found.number("training_samples_total"),
        found.phase,
        errors,
    )


def test_a_base_class_clips_one_step(beacon: Beacon, box: Callable[[], Box]) -> None:
    """Hooks that torch runs twice a step count its clipping once, with the norm before it."""
    job = _watched(beacon, lambda parameters: _CallsItsBase(parameters, lr=0.1))
    for _ in range(STEPS):
        job.backward()
        job.take_norm()
        torch.nn.utils.clip_grad_norm_(job.model.parameters(), 1e-4)
        job.update()
    assert float(STEPS) == box().number("training_gradient_clipped_total")
    assert pytest.approx(job.norms[-1], rel=1e-5) == box().number("training_gradient_norm")


def test_training_goes_on_while_an_iterator_of_validation_is_kept(
    beacon: Beacon, box: Callable[[], Box]
) -> None:
    """Its phase ends with the next backward pass, so that steps are no evaluation."""
    job, validation = _watched(beacon), iter(beacon.batches(_loader(50)))
    job.iterate()
    with torch.no_grad():
        next(validation)
    assert "evaluate" == box().phase
    job.backward()
    assert "other" == box().phase


class _OwnDeepcopy(torch.nn.Linear):
    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        made = type(self).__new__(type(self))
        made.__dict__.update(self.__dict__)
        return made


class _OwnReduce(torch.nn.Linear):
    def __reduce_ex__(self, protocol: Any) -> Any:
        return _rebuilt, (type(self), self.__dict__.copy())


class _OwnState(torch.nn.Linear):
    def __getstate__(self) -> Any:
        return 1, self.__dict__.copy()

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state[1])


def _rebuilt(kind: Any, state: dict[str, Any]) -> Any:
    made = kind.__new__(kind)
    made.__dict__.update(state)
    return made


@pytest.mark.parametrize("kind", [torch.nn.Linear, _OwnDeepcopy, _OwnReduce, _OwnState])
def test_copies_report_nothing(kind: Any, beacon: Beacon, box: Callable[[], Box]) -> None:
    """Whatever way a class copies itself, and though such a copy may share the hooks of the original."""
    model = kind(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    beacon.watch(model, optimizer)
    for _ in range(2):
        model(torch.ones(1, 8)).sum().backward()
        optimizer.step()
    seen = box().number("training_phase_seconds_total", "forward")
    ways = (copy.deepcopy, copy.copy, lambda each: pickle.loads(pickle.dumps(each)))
    for way in ways:
        way(model)(torch.ones(1, 8))
        way(optimizer).step()
    assert 0.0 < (seen or 0.0)
    assert seen == box().number("training_phase_seconds_total", "forward")
    assert 2.0 == box().number("training_steps_total")
