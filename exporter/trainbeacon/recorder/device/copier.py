"""The edge to the devices: how a number that a device holds is copied to the host."""

from __future__ import annotations

from typing import Any, Protocol


class NoRoomError(RuntimeError):
    """A number of a device was left out because too many before it are still under way."""


class DeferredNumber(Protocol):
    """A number on its way from a device."""

    def ready(self) -> bool:
        """Whether the number is here; never waits. Raises if it will not come."""

    def take(self) -> float:
        """The number, once ready; its place is free for another one then."""


class Copier(Protocol):
    """The edge to the devices: `pinned.PinnedCopier`, or a stand-in for it in tests."""

    def prepare(self, tensor: Any) -> None:
        """Get the memory for the device of `tensor`, where that may take its time."""

    def copy(self, tensor: Any) -> DeferredNumber:
        """Have the device copy the one element of `tensor` as it is now in the device's order of work.

        Returns without waiting. Raises NoRoomError where too many copies are under way.
        """
