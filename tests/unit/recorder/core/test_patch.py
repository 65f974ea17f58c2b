"""Functions that are replaced so that their calls are seen, and how they are given back."""

from __future__ import annotations

import functools
import gc
import pickle
import types
from collections.abc import Callable
from typing import Any

import pytest

from trainbeacon.recorder.core.patch import Ended, observe


@pytest.fixture
def module() -> Any:
    """A module with one function."""
    module: Any = types.ModuleType("some_module")

    def work(value: int, *, fails: bool = False) -> int:
        """Double it."""
        if fails:
            raise KeyError(value)
        return 2 * value

    module.work = work
    return module


def _noting(seen: list[Any], name: str) -> Callable[[Any, Any], Ended]:
    def started(args: Any, keywords: Any) -> Ended:
        seen.append((name, args, dict(keywords)))
        return lambda result, error: seen.append((name, result, type(error)))

    return started


def test_start_and_end_of_a_call_are_reported(module: Any) -> None:
    """With its arguments, what it returned, and what it raised; the caller sees what it always saw."""
    seen: list[Any] = []
    stop = observe(module, "work", _noting(seen, "a"))
    assert 4 == module.work(2)
    with pytest.raises(KeyError, match="3"):
        module.work(3, fails=True)
    stop()
    module.work(5)
    expected = [("a", (2,), {}), ("a", 4, type(None)), ("a", (3,), {"fails": True}), ("a", None, KeyError)]
    assert expected == seen


def test_any_number_of_observers_makes_one_replacement(module: Any) -> None:
    """A thousand folds in one process do not pile up a thousand wrappers; the last that goes puts it back."""
    original = module.work
    seen: list[Any] = []
    stops = [observe(module, "work", _noting(seen, str(number))) for number in range(1000)]
    replaced = module.work
    assert original is replaced.__wrapped__
    assert 4 == module.work(2)
    assert 2000 == len(seen)
    for stop in stops[:-1]:
        stop()
    assert replaced is module.work
    stops[-1]()
    assert original is module.work


def test_who_replaced_it_after_us_stays(module: Any) -> None:
    """Another library's function is not thrown away with ours, and ours below it passes calls on."""
    seen: list[Any] = []
    stop = observe(module, "work", _noting(seen, "ours"))
    below = module.work
    module.work = theirs = lambda value: below(value) + 1
    stop()
    assert theirs is module.work
    assert 5 == module.work(2)
    assert [] == seen


def test_after_somebody_else_we_are_on_top_again(module: Any) -> None:
    """A second run sees the calls, whatever lies between, and gives back what it found."""
    first = observe(module, "work", _noting([], "first"))
    below = module.work
    module.work = theirs = lambda value: below(value) + 1
    first()
    seen: list[Any] = []
    second = observe(module, "work", _noting(seen, "second"))
    assert 5 == module.work(2)
    assert 2 == len(seen)
    second()
    assert theirs is module.work


def test_observer_may_leave_while_it_is_called(module: Any) -> None:
    """What ends an observation may be called from within it, and twice."""
    stops: list[Callable[[], None]] = []

    def started(args: Any, keywords: Any) -> None:
        for stop in stops:
            stop()

    original = module.work
    stops.append(observe(module, "work", started))
    assert 4 == module.work(2)
    stops[0]()
    assert original is module.work


def test_method_of_a_class_is_given_back_as_it_was() -> None:
    """Also one of the class below: an inherited method is not left behind on the wrong class."""

    class Base:
        def work(self) -> str:
            return type(self).__name__

    class Derived(Base):
        pass

    before = vars(Base)["work"]
    stop = observe(Base, "work", lambda args, keywords: None)
    assert "Derived" == Derived().work()
    stop()
    assert before is vars(Base)["work"]
    assert "work" not in vars(Derived)


def test_pickle_finds_the_replacement_where_it_finds_the_function() -> None:
    """A function that a package offers under a second name can be sent to another process."""
    import json

    original, package = json.dumps, types.ModuleType("package")
    package.dumps = original  # type: ignore[attr-defined]
    stop = observe(package, "dumps", lambda args, keywords: None)
    sent = pickle.dumps(package.dumps)  # type: ignore[attr-defined]
    stop()
    assert original is pickle.loads(sent) is json.dumps


def test_a_function_of_somebody_elses_is_never_taken_for_one_of_torchs() -> None:
    """TorchScript knows functions by their `id`: that of a replacement must not be given to another."""
    import torch
    from torch.jit import _builtins

    original = torch.save
    stop = observe(torch, "save", lambda args, keywords: None)
    assert "aten::save" == _builtins._find_builtin(torch.save)
    replaced = id(torch.save)
    stop()
    assert "aten::save" == _builtins._find_builtin(original)
    gc.collect()
    others = [functools.wraps(original)(lambda number=number: number) for number in range(10_000)]
    assert not [each for each in others if _builtins._find_builtin(each) is not None]
    stop = observe(torch, "save", lambda args, keywords: None)
    assert replaced == id(torch.save)
    stop()
    assert original is torch.save
