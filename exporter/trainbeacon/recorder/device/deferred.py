"""Numbers that a device has and the host does not yet: read in the background, applied in order."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any

from trainbeacon.recorder.boundary import is_of_the_script
from trainbeacon.recorder.device.copier import Copier, DeferredNumber, NoRoomError
from trainbeacon.recorder.device.scalars import expect_one, not_a_number, to_float

Apply = Callable[[float], None]

#: Numbers of one series that may wait, and numbers of one device under way at once.
MOST_WAITING = 1024
#: So many waiting numbers of one series call the background thread before its next turn.
WAKE_EVERY = 32
_POLL_SECONDS = 0.002


class DeferredScalars:
    """Numbers that become known after they were logged, applied in the order of each series.

    The training thread logs (`read`), the background thread applies (`poll`). They share no lock: the queue
    of a series says whose its slots are. While anything waits in it, they are the background thread's, which
    removes a number only after it has applied it, and a plain number that is logged meanwhile joins the
    queue. Once it is empty they are the training thread's again, which alone can add to it. So counts
    and judgements have one writer at a time and see every number in order, and a NaN before a hang is
    seen although the training thread is stalled.

    Memory is bounded: a number that finds `MOST_WAITING` before it is left out and counted.

    Args:
        lost: called on the background thread's side with the reason why one number could not be read.
        copier: made at the first use; given by tests.

    Attributes:
        used: whether any number was ever deferred; as long as it is false nothing waits.
        wake: called when many numbers wait, to have them read before the background thread's next turn.
    """

    def __init__(self, lost: Callable[[BaseException], None], copier: Copier | None = None) -> None:
        self.used = False
        self.wake: Callable[[], None] = _nobody
        self._lost = lost
        self._copier = copier
        self._queues: dict[Hashable, deque[tuple[DeferredNumber, Apply]]] = {}
        self._retries: deque[Callable[[], bool]] = deque(maxlen=MOST_WAITING)
        self._polling = (
            threading.Lock()
        )  # of the background thread; the training thread takes it at the end only
        self._refused = self._told = 0
        self._refusal: Exception = NoRoomError()
        self._closed = False

    # The training thread's side

    def number(self, name: str, value: Any) -> float | None:
        """The number in `value`, or None if a device has it. Raises TypeError like `to_float`."""
        if getattr(value, "is_cuda", False) is not True:  # `on_device`, without a call
            return to_float(name, value)
        expect_one(name, value)
        if value.is_complex():
            raise not_a_number(name, "complex", str(value.dtype))
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
            apply: called by the background thread; if it raises, the number counts as lost.
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
        except Exception as error:  # a device may fail in any way; the background thread counts it
            if is_of_the_script(error):
                raise
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

    # The background thread's side

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

    def _advance(self, queue: deque[tuple[DeferredNumber, Apply]]) -> bool:
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
    """What is woken before there is a background thread."""
