"""Turning what a training script logs into a number, at once or later.

Python numbers, NumPy scalars and CPU tensors are read at once. To read a tensor on a CUDA device so
would wait until the device has done everything it was given: its number is copied in the background
and read by the helper thread (`LateScalars`). On any other kind of device a tensor is read plainly.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any, Protocol

Apply = Callable[[float], None]

#: Numbers of one series that may wait, and numbers of one device under way at once.
MOST_WAITING = 1024
#: So many waiting numbers of one series call the helper thread before its next turn.
WAKE_EVERY = 32
_POLL_SECONDS = 0.002

#: Kinds of tensors and scalars of which one was read: to look at each closely costs twice the reading.
_WITH_ITEM: set[type] = set()
_MOST_KINDS = 16


def to_float(name: str, value: Any) -> float:
    """The number in `value`. Raises TypeError that names the argument, what it was and the fix."""
    if isinstance(value, (float, int)):
        return float(value)
    kind: Any = value.__class__
    if kind in _WITH_ITEM:
        try:
            number = value.item()
        except (RuntimeError, ValueError):  # of several elements: said better below
            number = None
        if isinstance(number, (float, int)):
            return float(number)
    if hasattr(value, "item"):
        _expect_one(name, value)
        number = value.item()
        if isinstance(number, (float, int)):
            if len(_WITH_ITEM) < _MOST_KINDS:
                _WITH_ITEM.add(kind)
            return float(number)
        value = number
    raise _not_a_number(name, type(value).__name__, str(value))


def on_device(value: Any) -> bool:
    """Whether `value` is a tensor that is read later; asks no device."""
    return getattr(value, "is_cuda", False) is True


def _expect_one(name: str, value: Any) -> None:
    if hasattr(value, "full_tensor"):
        raise TypeError(
            f"{name} is a distributed tensor, and reading it needs a collective, which TrainBeacon never "
            f"runs: log {name}.full_tensor() where all ranks call it"
        )
    elements = value.numel() if hasattr(value, "numel") else getattr(value, "size", 1)
    if elements != 1:
        raise TypeError(f"{name} has {elements} elements, not one: log a mean or a sum of it")


def _not_a_number(name: str, kind: str, shown: str) -> TypeError:
    return TypeError(
        f"{name} must be a number, a NumPy scalar or a tensor of one element, not {kind} "
        f"({shown[:40]!r}): convert it with float()"
    )


class NoRoomError(RuntimeError):
    """A number of a device was left out because too many before it are still under way."""


class Pending(Protocol):
    """A number on its way from a device."""

    def ready(self) -> bool:
        """Whether the number is here; never waits. Raises if it will not come."""

    def take(self) -> float:
        """The number, once ready; its place is free for another one then."""


class Copier(Protocol):
    """The edge to the devices: `pinned.PinnedCopier`, or a stand-in for it in tests."""

    def prepare(self, tensor: Any) -> None:
        """Get the memory for the device of `tensor`, where that may take its time."""

    def copy(self, tensor: Any) -> Pending:
        """Have the device copy the one element of `tensor` as it is now in the device's order of work.

        Returns without waiting. Raises NoRoomError where too many copies are under way.
        """


class LateScalars:
    """Numbers that become known after they were logged, applied in the order of each series.

    The training thread logs (`read`), the helper thread applies (`poll`). They share no lock: the queue
    of a series says whose its slots are. While anything waits in it, they are the helper's, which
    removes a number only after it has applied it, and a plain number that is logged meanwhile joins the
    queue. Once it is empty they are the training thread's again, which alone can add to it. So counts
    and judgements have one writer at a time and see every number in order, and a NaN before a hang is
    seen although the training thread stands still.

    Memory is bounded: a number that finds `MOST_WAITING` before it is left out and counted.

    Args:
        lost: called on the helper's side with the reason why one number could not be read.
        copier: made at the first use; given by tests.

    Attributes:
        used: whether any number was ever late; as long as it is false nothing waits.
        wake: called when many numbers wait, to have them read before the helper's next turn.
    """

    def __init__(self, lost: Callable[[BaseException], None], copier: Copier | None = None) -> None:
        self.used = False
        self.wake: Callable[[], None] = _nobody
        self._lost = lost
        self._copier = copier
        self._queues: dict[Hashable, deque[tuple[Pending, Apply]]] = {}
        self._retries: deque[Callable[[], bool]] = deque(maxlen=MOST_WAITING)
        self._polling = threading.Lock()  # of the helper; the training thread takes it at the end only
        self._refused = self._told = 0
        self._refusal: Exception = NoRoomError()
        self._closed = False

    # The training thread's side

    def number(self, name: str, value: Any) -> float | None:
        """The number in `value`, or None if a device has it. Raises TypeError like `to_float`."""
        if getattr(value, "is_cuda", False) is not True:  # `on_device`, without a call
            return to_float(name, value)
        _expect_one(name, value)
        if value.is_complex():
            raise _not_a_number(name, "complex", str(value.dtype))
        return None

    def waits(self, series: Hashable) -> bool:
        """Whether a number of the series waits, so that a next one must wait behind it."""
        return bool(self._queues.get(series))

    def prepare(self, tensor: Any) -> None:
        """Get the memory for the numbers of a device beforehand: to get it may make the device wait."""
        self._edge().prepare(tensor)

    def read(self, series: Hashable, value: Any, apply: Apply) -> None:
        """Have `apply` called with a number, after those that wait in the series already.

        Args:
            series: whatever stands for the series, such as its slot.
            value: a float, or a tensor of one element on a device. Its value now is what counts: it may
                be changed or freed right after.
            apply: called by the helper thread; if it raises, the number counts as lost.
        """
        if self._closed:
            return
        self.used = True
        queue = self._queues.get(series)
        if queue is None:
            queue = self._queues[series] = deque()
        try:
            if len(queue) >= MOST_WAITING:
                raise NoRoomError(f"{len(queue)} numbers of one series wait for a device")
            pending = _Known(value) if value.__class__ is float else self._edge().copy(value.detach())
        except Exception as error:  # noqa: BLE001 - a device may fail in any way; the helper counts it
            self._refusal = error
            self._refused += 1
            self.wake()
            return
        queue.append((pending, apply))
        if len(queue) % WAKE_EVERY == 0:
            self.wake()

    def _edge(self) -> Copier:
        if self._copier is None:
            from trainbeacon.recorder.device.pinned import PinnedCopier

            self._copier = PinnedCopier(MOST_WAITING)
        return self._copier

    # The helper's side

    def poll(self) -> None:
        """Apply every number that has arrived. Never waits for a device."""
        with self._polling:
            for queue in list(self._queues.values()):
                while queue and self._advance(queue):
                    pass
            for _ in range(len(self._retries)):
                work = self._retries.popleft()
                if not work():
                    self._retries.append(work)
            while self._told < self._refused:
                self._told += 1
                self._lost(self._refusal)

    def _advance(self, queue: deque[tuple[Pending, Apply]]) -> bool:
        """Apply the first number of a series; False if it has not arrived."""
        pending, apply = queue[0]
        try:
            if not pending.ready():
                return False
            apply(pending.take())
        except Exception as error:  # noqa: BLE001 - as above
            self._lost(error)
        queue.popleft()  # last: from here on the training thread may apply the next number itself
        return True

    def until_done(self, work: Callable[[], bool]) -> None:
        """Do `work` at each turn until it returns True: what `apply` cannot do yet."""
        self._retries.append(work)

    # The end

    def drain(self, seconds: float) -> None:
        """Wait up to `seconds` for what is under way; what has not come by then is lost, and counted.

        For the training thread at the end of a run. Later numbers are ignored.
        """
        self._closed = True
        end = time.monotonic() + seconds
        self.poll()
        while self.unread and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)
            self.poll()
        with self._polling:
            for queue in self._queues.values():
                while queue:
                    queue.popleft()
                    self._lost(TimeoutError(f"a device did not hand over a number within {seconds:g} s"))

    @property
    def unread(self) -> int:
        """How many numbers wait."""
        return sum(len(queue) for queue in list(self._queues.values()))

    def close(self) -> None:
        """Forget everything and do nothing from now on: in a forked child, the numbers are the parent's."""
        self._closed = True
        self._queues = {}


class _Known:
    """A number that waits only because others of its series do."""

    __slots__ = ("_number",)

    def __init__(self, number: float) -> None:
        self._number = number

    def ready(self) -> bool:
        return True

    def take(self) -> float:
        return self._number


def _nobody() -> None:
    """What is woken before there is a helper."""


def batch_size(batch: Any, depth: int = 3) -> int:
    """Samples in a batch: the first dimension of the first array found, else the length of a list of samples.

    Looks at most `depth` levels into tuples, lists and dicts; 0 if nothing tells.
    """
    if batch.__class__ is tuple or batch.__class__ is list:  # the usual batch, without a copy
        shape = getattr(batch[0], "shape", None) if batch else None
        if shape and shape[0]:
            return int(shape[0])
    shape = getattr(batch, "shape", None)
    if shape is not None:
        return int(shape[0]) if len(shape) else 0
    if isinstance(batch, dict):
        items = list(batch.values())
    elif isinstance(batch, (list, tuple)):
        items = list(batch)
    else:
        return 0
    if depth:
        for item in items:
            found = batch_size(item, depth - 1)
            if found:
                return found
    return len(items) if isinstance(batch, list) else 0
