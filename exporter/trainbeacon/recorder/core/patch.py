"""Functions of torch's that are replaced by ones which report their calls: one mechanism for all of them.

What a replacement is given, returns and raises stays the same, and so do its name, its signature and how it
is pickled. There is one for each function, however many observers it has: none is put over another. The
last observer that goes puts torch's own function back, unless somebody else has replaced ours meanwhile;
ours then lies under theirs and only passes calls on.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

#: Called when a call ends, with what it returned and what it raised. Must not raise.
Ended = Callable[[Any, "BaseException | None"], None]
#: Called when a call begins, with its arguments. None if its end is of no interest. Must not raise.
Started = Callable[[Sequence[Any], Mapping[str, Any]], "Ended | None"]


class Inert:
    """What is nothing in a copy: pickled or copied, such an object becomes a function that does nothing.

    That function is the standard library's, so that whoever loads it needs no TrainBeacon.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (contextlib.nullcontext(), "__exit__")


class Observers(Inert):
    """The observers of a function's calls.

    Threads: called by any; `everyone` is replaced whole.
    """

    __slots__ = ("everyone",)

    def __init__(self) -> None:
        self.everyone: tuple[Started, ...] = ()

    def __call__(self, args: Sequence[Any], keywords: Mapping[str, Any]) -> Ended | None:
        """A call begins. Returns what is to be called as it ends."""
        everyone = self.everyone
        if len(everyone) == 1:
            return everyone[0](args, keywords)
        ends = [ended for started in everyone if (ended := started(args, keywords)) is not None]
        return functools.partial(_end_all, ends) if ends else None


def _end_all(ends: Sequence[Ended], result: Any, error: BaseException | None) -> None:
    for ended in reversed(ends):
        ended(result, error)


#: Makes the replacement of a function.
Make = Callable[[Callable[..., Any], Observers], Callable[..., Any]]


def reporting(original: Callable[..., Any], observers: Observers) -> Callable[..., Any]:
    """`original`, with its calls reported. `torch.compile` does not trace it: see `hooks.compiler`."""

    @functools.wraps(original)
    def call(*args: Any, **keywords: Any) -> Any:
        ended = observers(args, keywords)
        if ended is None:
            return original(*args, **keywords)
        try:
            result = original(*args, **keywords)
        except BaseException as error:
            ended(None, error)
            raise
        ended(result, None)
        return result

    return call


class _Patch:
    """One function in its places: where its callers look it up, and where pickle does."""

    def __init__(self, owner: Any, name: str, make: Make) -> None:
        original = getattr(owner, name)
        self.observers = Observers()
        self.ours = make(original, self.observers)
        self._places = [(owner, name, vars(owner)[name])]
        home = _home(original)
        if home is not None and home != (owner, name):
            self._places.append((*home, original))
        self._original = original
        self.place()

    @property
    def is_in_place(self) -> bool:
        """Whether it is still what callers get."""
        owner, name, _ = self._places[0]
        return vars(owner).get(name) is self.ours

    @property
    def is_restored(self) -> bool:
        """Whether what was there before is what callers get."""
        owner, name, before = self._places[0]
        return vars(owner).get(name) is before

    def place(self) -> None:
        """Put ours where the original is."""
        for owner, name, before in self._places:
            if vars(owner).get(name) is before:
                setattr(owner, name, self.ours)
        _move_builtin(self._original, self.ours)

    def restore(self) -> None:
        """Put back what was there, wherever nobody has replaced ours."""
        _move_builtin(self.ours, self._original)
        for owner, name, before in self._places:
            if vars(owner).get(name) is self.ours:
                setattr(owner, name, before)


_patches: dict[tuple[int, str], _Patch] = {}
#: Replacements of functions of modules, once they are no longer in place: a later observer gets the same one.
#: They are never freed, since TorchScript and the compiler remember such functions by their `id`, which the
#: next function that anybody makes would have.
_restored: dict[tuple[int, str], _Patch] = {}
_changing = threading.RLock()


def observe(owner: Any, name: str, started: Started, make: Make = reporting) -> Callable[[], None]:
    """Have the calls of a function reported.

    Args:
        owner: the module or class whose own attribute the function is.
        name: of the attribute.
        started: called as each call begins, in the thread of the call.
        make: makes the replacement; what `torch.compile` has to trace is made in `hooks`.

    Returns:
        What ends the observation; called again, it does nothing.
    """
    key = id(owner), name
    with _changing:
        patch = _patches.get(key)
        if patch is None or not patch.is_in_place:
            patch = _patches[key] = _place(key, owner, name, make)
        patch.observers.everyone += (started,)

    def stop() -> None:
        with _changing:
            left = tuple(each for each in patch.observers.everyone if each is not started)
            patch.observers.everyone = left
            if not left:
                patch.restore()
                if isinstance(owner, types.ModuleType):
                    _restored[key] = patch
                if _patches.get(key) is patch:
                    del _patches[key]

    return stop


def _place(key: tuple[int, str], owner: Any, name: str, make: Make) -> _Patch:
    before = _restored.get(key)
    if before is None or not before.is_restored:
        return _Patch(owner, name, make)
    before.place()
    return before


def _home(function: Any) -> tuple[Any, str] | None:
    """The module and name that pickle finds a function by, if it does."""
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    name = getattr(function, "__qualname__", "")
    return (module, name) if module is not None and vars(module).get(name) is function else None


def _move_builtin(before: Any, after: Any) -> None:
    """Have TorchScript, which knows a few functions by their identity, know `after` for `before`."""
    table = getattr(sys.modules.get("torch.jit._builtins"), "_builtin_table", None)
    if table is not None and id(before) in table:
        table[id(after)] = table[id(before)]
