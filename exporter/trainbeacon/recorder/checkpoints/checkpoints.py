"""Checkpoints: how long one stops training, how long it takes to be written, and whether it was.

A checkpoint may end in another thread than the one that began it. What is counted there is guarded by a
lock that is held for a few stores only.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any

from trainbeacon.recorder.checkpoints.archive import Archive
from trainbeacon.recorder.checkpoints.disk_space import DiskSpace
from trainbeacon.recorder.checkpoints.targets import absolute
from trainbeacon.recorder.core.file_worker import FileWorker
from trainbeacon.recorder.core.recorder import Recorder
from trainbeacon.recorder.core.timeline import CHECKPOINT, Declared, Timeline
from trainbeacon.recorder.goodput.tracker import Goodput

Path = str | os.PathLike[str]


class Checkpoints:
    """All checkpoints of a rank.

    Args:
        recorder: where their figures go.
        file_worker: has their size read.
        goodput: takes them, on rank 0.

    Attributes:
        current: what the training thread is saving now.
        space: tells how much room there is for them.
    """

    def __init__(self, recorder: Recorder, file_worker: FileWorker, goodput: Goodput | None) -> None:
        self.current: Saving | None = None
        self.space = DiskSpace(recorder, file_worker)
        self._recorder = recorder
        self._file_worker = file_worker
        self._goodput = goodput
        self._archive = Archive(recorder)
        self._lock = threading.Lock()
        self._pending = 0
        self._newest = -1
        self._number = 0
        self._measured = (0, 0)  # of which checkpoint so many bytes were found so far

    def begin(self, path: Path | None, *, named: bool, goes_on: bool = False) -> Saving:
        """A checkpoint begins.

        Args:
            path: the file or folder that is saved, if known.
            named: whether the script itself said that it is a checkpoint.
            goes_on: whether it is a further file of the checkpoint before.
        """
        if path is not None:
            path = absolute(path)
        described = False
        if named and path is not None and self._goodput is not None:
            self._goodput.beside(path)
            described = True
        if path is not None:
            self._recorder.guard("value", self.space.watch, path)
        with self._lock:
            self._pending += 1
            if not goes_on:
                self._number += 1
                self._recorder.add("training_checkpoints_total", 1.0)
            self._recorder.set("training_checkpoints_pending", self._pending)
        timeline = self._recorder.timeline
        saving = Saving(self, path, self._number, timeline)
        saving.described = described
        if threading.get_ident() == timeline.thread:
            self.current = saving
        return saving

    def blocked(self, saving: Saving, seconds: float) -> None:
        """Training goes on after so long. What another thread saves holds up nobody."""
        if self.current is saving:
            self.current = None
            self._recorder.add("training_checkpoint_seconds_total", seconds)

    def ended(self, saving: Saving, error: BaseException | None) -> None:
        """A checkpoint is on storage, or is not; from any thread."""
        recorder = self._recorder
        with self._lock:
            self._pending -= 1
            recorder.set("training_checkpoints_pending", self._pending)
            recorder.add("training_checkpoint_write_seconds_total", time.monotonic() - saving.begun)
            if error is not None:
                recorder.add("training_checkpoint_failures_total", 1.0)
                return
            recorder.set("training_checkpoint_last_success_timestamp_seconds", time.time())
            self._newest = max(self._newest, saving.step)
            recorder.set("training_checkpoint_step", self._newest)
        if self._goodput is not None:
            self._goodput.checkpointed(saving.step_end)
        if saving.path is not None:
            self._file_worker.submit(partial(self._measure, saving.number, saving.path))
            if saving.described:
                self._file_worker.submit(partial(self._archive.write, saving.path, saving.step))

    def _measure(self, number: int, path: Path) -> None:
        if os.path.exists(path):
            before = self._measured[1] if self._measured[0] == number else 0
            self._measured = number, before + size_of(path)
            self._recorder.set("training_checkpoint_bytes", self._measured[1])


class Saving:
    """One checkpoint under way: what `with beacon.checkpoint(path) as saving:` gives.

    Attributes:
        path: the file or folder that is saved, if known.
        number: which checkpoint of this process it is, or is a part of.
        begun: monotonic time of its start.
        step: the step that it holds.
        step_end: `Timeline.step_end` at its start.
        described: whether what made it is written beside it.
    """

    described = False

    def __init__(self, checkpoints: Checkpoints, path: Path | None, number: int, timeline: Timeline) -> None:
        self._checkpoints = checkpoints
        self._future: Any = None
        self._over = False
        self.path = path
        self.number = number
        self.begun = time.monotonic()
        self.step = timeline.step
        self.step_end = timeline.step_end

    def finishes_with(self, future: Any) -> None:
        """The checkpoint is written in the background, and is good once this future is done without error.

        Args:
            future: has `add_done_callback`, such as `concurrent.futures.Future`, what
                `torch.distributed.checkpoint.async_save` returns, or one of your own.

        Raises:
            TypeError: it is no future, before the first step is done.
        """
        if not is_future(future):
            raise TypeError(f"finishes_with({future!r:.60}): it is no future, it has no add_done_callback")
        self._future = _upload_of(future)

    def left(self, error: BaseException | None) -> None:
        """The training thread has done its part."""
        self._checkpoints.blocked(self, time.monotonic() - self.begun)
        if error is None and self._future is not None:
            self._future.add_done_callback(self._written)
        else:
            self._end(error)

    def _written(self, future: Any) -> None:
        """The future is done; in whatever thread."""
        try:
            error = future.exception() if hasattr(future, "exception") else _raised(future)
        except BaseException as cancelled:  # noqa: BLE001 - a cancelled future says so by raising
            error = cancelled
        self._end(error)

    def _end(self, error: BaseException | None) -> None:
        if not self._over:
            self._over = True
            self._checkpoints.ended(self, error)


def is_future(thing: Any) -> bool:
    """Whether something tells when it is done."""
    return callable(getattr(_upload_of(thing), "add_done_callback", None))


def _upload_of(thing: Any) -> Any:
    """The future of the writing, where `async_save` returns one for the copying to memory beside it."""
    return getattr(thing, "upload_completion", thing)


def _raised(future: Any) -> BaseException | None:
    """The exception of a `torch.futures.Future`, which tells it by raising it."""
    try:
        future.value()
    except BaseException as error:  # noqa: BLE001 - that is the question
        return error
    return None


class CheckpointContext:
    """`with beacon.checkpoint(path) as saving:`; a phase of its own."""

    def __init__(
        self, recorder: Recorder, begin: Callable[[], Saving], misuse: Callable[[Exception], None]
    ) -> None:
        self._recorder = recorder
        self._begin = begin
        self._misuse = misuse
        self._saving: Saving | None = None
        self._entered = False
        self._declared: Declared | None = None

    def finishes_with(self, future: Any) -> None:
        """See `Saving.finishes_with`."""
        if self._saving is None:
            return
        try:
            self._saving.finishes_with(future)
        except TypeError as error:
            self._misuse(error)

    def __enter__(self) -> CheckpointContext:
        recorder = self._recorder
        if recorder.recording:
            self._entered = True
            self._declared = recorder.timeline.push_phase(CHECKPOINT)
            self._saving = recorder.guard("value", self._begin)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._entered or not self._recorder.recording:
            return
        if self._saving is not None:
            self._recorder.guard("value", self._saving.left, error)
        self._recorder.timeline.pop_phase(self._declared)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if os.path.isfile(path):
        return os.path.getsize(path)
    return sum(
        os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(path) for name in names
    )
