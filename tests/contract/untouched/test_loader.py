"""What `beacon.batches(loader)` gives is that loader, to whoever asks it for anything but its batches."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable, Iterable, Iterator, Sized
from pathlib import Path
from typing import Any

import pytest

import trainbeacon

torch = pytest.importorskip("torch")

from torch.utils.data import (  # noqa: E402 - needs torch
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    TensorDataset,
)


class Loader(DataLoader):  # type: ignore[type-arg]
    """As frameworks derive theirs."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


class Endless(IterableDataset):  # type: ignore[type-arg]
    """A data set that has no length."""

    def __iter__(self) -> Iterator[Any]:
        return iter(torch.arange(12.0).reshape(12, 1))


class Ids(Dataset):  # type: ignore[type-arg]
    """A data set of numbers."""

    def __getitem__(self, index: int) -> int:
        return index

    def __len__(self) -> int:
        return 8


def _mapped() -> Any:
    return Loader(TensorDataset(torch.arange(12.0).reshape(12, 1)), batch_size=4)


def _sharded() -> Any:
    data = Ids()
    sampler = DistributedSampler(data, num_replicas=2, rank=1, shuffle=True, seed=3)
    return DataLoader(data, batch_size=2, sampler=sampler)


#: What scripts iterate over.
LOADERS: dict[str, Callable[[], Any]] = {
    "DataLoader": _mapped,
    "shuffled": lambda: DataLoader(Ids(), batch_size=2, shuffle=True),
    "with workers": lambda: DataLoader(Ids(), batch_size=2, num_workers=1, multiprocessing_context="fork"),
    "sharded": _sharded,
    "iterable data": lambda: DataLoader(Endless(), batch_size=4),
    "list": lambda: [torch.ones(2, 1), torch.zeros(2, 1)],
    "tuple": lambda: (1, 2, 3),
    "generator": lambda: (number for number in range(5)),
    "iterator": lambda: iter([1, 2, 3]),
    "range": lambda: range(4),
    "dict": lambda: {"a": 1, "b": 2},
    "nothing in it": list,
}


def _plain(thing: Any) -> Any:
    if isinstance(thing, torch.Tensor):
        return thing.tolist()
    return [_plain(each) for each in thing] if isinstance(thing, (list, tuple)) else thing


def _reached(loader: Any, batches: int) -> list[Any]:
    found = []
    for batch in loader:
        found.append(_plain(batch))
        if len(found) == batches:
            break
    return found


#: What is asked of a loader.
QUESTIONS: dict[str, Callable[[Any], Any]] = {
    "batches": lambda loader: [_plain(batch) for batch in loader],
    "batches, twice": lambda loader: [_plain(batch) for _ in range(2) for batch in loader],
    "two at once": lambda loader: [(_plain(a), _plain(b)) for a, b in zip(loader, loader, strict=False)],
    "next of iter": lambda loader: _plain(next(iter(loader))),
    "next": lambda loader: _plain(next(loader)),
    "left and taken up again": lambda loader: [_reached(loader, 1), _reached(loader, 2)],
    "len": len,
    "truth": bool,
    "first": lambda loader: _plain(loader[0]),
    "contains": lambda loader: 1 in loader,
    "text": lambda loader: str(loader).split(" at 0x")[0],
    "class": lambda loader: loader.__class__,
    "is a": lambda loader: [
        isinstance(loader, kind)
        for kind in (DataLoader, Loader, Iterable, Iterator, Sized, list, tuple, dict, range)
    ],
    "has": lambda loader: [
        name
        for name in (
            "set_epoch",
            "dataset",
            "sampler",
            "batch_sampler",
            "keys",
            "close",
            "__len__",
            "__next__",
        )
        if hasattr(loader, name)
    ],
    "names": lambda loader: sorted(dir(loader)),
    "attributes": lambda loader: sorted(vars(loader)),
    "missing": lambda loader: loader.no_such_thing,
    "settings": lambda loader: (loader.batch_size, loader.num_workers, loader.drop_last),
    "next epoch": lambda loader: (loader.set_epoch(4), loader.epoch),
    "sampler's next epoch": lambda loader: (
        loader.sampler.set_epoch(4),
        [_plain(batch) for batch in loader],
    ),
    "pickle": lambda loader: _plain(list(pickle.loads(pickle.dumps(loader)))),
    "deepcopy": lambda loader: _plain(list(copy.deepcopy(loader))),
    "copy": lambda loader: [_plain(list(copy.copy(loader))), type(copy.copy(loader))],
    "made anew": lambda loader: [
        _plain(batch) for batch in DataLoader(loader.dataset, batch_sampler=loader.batch_sampler)
    ],
}


def _asked(question: Callable[[Any], Any], loader: Any) -> Any:
    torch.manual_seed(0)
    try:
        return question(loader)
    except Exception as error:
        return type(error), str(error).split(" at 0x")[0]


@pytest.fixture
def beacon(tmp_path: Path) -> Iterator[trainbeacon.Beacon]:
    """A beacon that nobody serves."""
    with trainbeacon.start(run="loader", directory=str(tmp_path), serve="off") as beacon:
        yield beacon


@pytest.mark.filterwarnings("ignore")  # torch's own, about a loader that is iterated over twice
@pytest.mark.parametrize("kind", LOADERS)
def test_a_recorded_loader_answers_as_the_loader_itself(kind: str, beacon: trainbeacon.Beacon) -> None:
    """Batches, attributes, class, length, truth, copies: each answer is the loader's, errors too."""
    make = LOADERS[kind]
    expected, actual = {}, {}
    for name, question in QUESTIONS.items():
        expected[name] = _asked(question, make())
        actual[name] = _asked(question, beacon.batches(make()))
    assert expected == actual


def test_what_is_set_is_set_on_the_loader(beacon: trainbeacon.Beacon) -> None:
    """A framework that changes a loader changes the one that is iterated over."""
    loader = _mapped()
    recorded = beacon.batches(loader)
    recorded.set_epoch(7)
    recorded.note = "mine"
    assert (7, "mine") == (loader.epoch, loader.note)
    del recorded.note
    assert not hasattr(loader, "note")


class Batch:
    """Something that can be seen to go."""


def test_a_batch_goes_when_the_script_lets_go_of_it(beacon: trainbeacon.Beacon) -> None:
    """After `del batch` its memory is free, in the loop and after `break`, without a garbage collection."""
    gc.disable()
    try:
        for batch in beacon.batches(Batch() for _ in range(3)):
            seen = weakref.ref(batch)
            del batch
            assert seen() is None
        for batch in beacon.batches(Batch() for _ in range(3)):
            seen = weakref.ref(batch)
            break
        del batch
        assert seen() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("recorded", [False, True])
def test_a_loop_that_is_left_ends_the_loader_at_once(recorded: bool, beacon: trainbeacon.Beacon) -> None:
    """By break, by return and by an exception: the loader's own clean-up runs at the same moment."""
    events: list[str] = []

    def source(name: str) -> Iterator[int]:
        try:
            yield from range(3)
        finally:
            events.append(f"{name} ended")

    def loader(name: str) -> Any:
        return beacon.batches(source(name)) if recorded else source(name)

    def returns() -> int:
        for batch in loader("return"):
            return batch
        return -1

    for _ in loader("break"):
        break
    events.append("after break")
    returns()
    events.append("after return")
    try:
        for _ in loader("raise"):
            raise KeyError
    except KeyError:
        events.append("caught")
    expected = ["break ended", "after break", "return ended", "after return", "raise ended", "caught"]
    assert expected == events


def test_workers_end_with_the_loop_that_is_left(beacon: trainbeacon.Beacon) -> None:
    """A loop that is left by break leaves no worker behind, as the loader alone leaves none."""
    import multiprocessing

    loader = DataLoader(Ids(), batch_size=1, num_workers=1, multiprocessing_context="fork")
    before = set(multiprocessing.active_children())
    for _ in beacon.batches(loader):
        break
    assert set() == set(multiprocessing.active_children()) - before
