"""The threads that build answers: a fixed number, fed by the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class BusyError(Exception):
    """Every thread works and the queue is full."""


class Workers(Generic[Result]):
    """Runs callables of the loop's coroutines in threads.

    They are daemons: unlike those of `concurrent.futures` nobody waits for them when the interpreter ends,
    so that a driver that hangs in a scrape does not keep a training script from its end.

    Threads: `run` belongs to the event loop; `start` and `stop` to the thread that owns the server.
    """

    def __init__(self, threads: int, waiting: int) -> None:
        self._room = threads + waiting
        self._pending = 0
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"trainbeacon-http-{number}", daemon=True)
            for number in range(threads)
        ]

    def start(self) -> None:
        """Start every thread. Raises RuntimeError where one cannot be had; `stop` ends the others."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Have the threads end after what they work on; does not wait for them."""
        for _ in self._threads:
            self._jobs.put(None)

    async def run(self, work: Callable[[], Result]) -> Result:
        """The result of `work`, or what it raised. Raises BusyError instead of waiting in a full queue."""
        if self._pending >= self._room:
            raise BusyError
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Result] = loop.create_future()
        self._pending += 1
        done.add_done_callback(self._is_done)
        self._jobs.put(lambda: _settle(loop, done, work))
        return await done

    def _is_done(self, _: asyncio.Future[Result]) -> None:
        self._pending -= 1

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


def _settle(
    loop: asyncio.AbstractEventLoop, done: asyncio.Future[Result], work: Callable[[], Result]
) -> None:
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001 - whoever awaits it gets it
        _call(loop, done, done.set_exception, error)
    else:
        _call(loop, done, done.set_result, result)


def _call(
    loop: asyncio.AbstractEventLoop, done: asyncio.Future[Result], setter: Callable[..., None], value: object
) -> None:
    def deliver() -> None:
        if not done.done():  # the client may be gone
            setter(value)

    with contextlib.suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(deliver)
