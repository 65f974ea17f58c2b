"""A loader whose batches are recorded, and which is that loader to whoever asks it for anything else."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

#: Found on the type alone, so that `__getattr__` does not see them: passed on where the loader has them.
_SPECIAL = (
    *("__bool__", "__call__", "__contains__", "__delitem__", "__enter__", "__exit__", "__getitem__"),
    *("__len__", "__length_hint__", "__reversed__", "__setitem__"),
)


@dataclass(frozen=True)
class _Recorded:
    """What a `Batches` stands for, and how it is gone through."""

    loader: Any
    iterate: Callable[[], Iterator[Any]]


class Batches:
    """What `Beacon.batches` gives: iterating over it records, all else is the loader's.

    Its attributes, its length and its class (`isinstance`) are the loader's; what is set is set on the
    loader; copied or pickled it is the loader.
    """

    __slots__ = ("__weakref__", "_trainbeacon")
    _trainbeacon: _Recorded

    def __init__(self, recorded: _Recorded) -> None:
        object.__setattr__(self, "_trainbeacon", recorded)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """For `isinstance`."""
        return type(self._trainbeacon.loader)

    def __iter__(self) -> Iterator[Any]:
        return self._trainbeacon.iterate()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trainbeacon.loader, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._trainbeacon.loader, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._trainbeacon.loader, name)

    def __dir__(self) -> Iterable[str]:
        return dir(self._trainbeacon.loader)

    def __repr__(self) -> str:
        return repr(self._trainbeacon.loader)

    def __str__(self) -> str:
        return str(self._trainbeacon.loader)

    def __eq__(self, other: object) -> bool:
        return bool(self._trainbeacon.loader == _bare(other))

    def __hash__(self) -> int:
        return hash(self._trainbeacon.loader)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return operator.itemgetter(0), ((self._trainbeacon.loader,),)

    def __copy__(self) -> Any:
        return copy.copy(self._trainbeacon.loader)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self._trainbeacon.loader, memo)


class _Iterating(Batches):
    """Of a loader that is an iterator itself: what `next` gives is recorded too."""

    __slots__ = ("_under_way",)

    def __next__(self) -> Any:
        try:
            under_way = object.__getattribute__(self, "_under_way")
        except AttributeError:
            under_way = iter(self)
            object.__setattr__(self, "_under_way", under_way)
        return next(under_way)


def _bare(thing: Any) -> Any:
    """The loader behind a `Batches`, which marks itself as such; else the thing itself."""
    return thing._trainbeacon.loader if issubclass(type(thing), Batches) else thing


def recorded_loader(loader: Any, iterate: Callable[[Any], Iterator[Any]]) -> Any:
    """A loader whose batches are recorded.

    Args:
        loader: any iterable; one that is recorded already is given back as it is.
        iterate: goes through the batches of it once.
    """
    if _bare(loader) is not loader:
        return loader
    kind: Any = type(loader)
    return _class_for(kind)(_Recorded(loader, lambda: iterate(loader)))


@lru_cache(maxsize=64)
def _class_for(kind: Any) -> Any:
    """A `Batches` with the special methods that a type has, and no others: what fails fails as it did."""
    base = _Iterating if hasattr(kind, "__next__") else Batches
    passed_on = {name: _pass_on(name) for name in _SPECIAL if hasattr(kind, name)}
    return type(kind.__name__, (base,), {"__slots__": (), "__hash__": Batches.__hash__, **passed_on})


def _pass_on(name: str) -> Callable[..., Any]:
    def call(self: Any, *args: Any) -> Any:
        return getattr(self._trainbeacon.loader, name)(*args)

    return call
