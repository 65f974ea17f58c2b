"""A profile of a rank that runs: torch.profiler for a few steps, on demand.

The background thread finds the request; the training thread starts and stops the profiler, at the ends of two
steps; a thread of its own writes the trace. torch has one profiler a process, and a second one beside it
ends the process: ours is not started where the script's is on, and ends where the script starts one.
"""

from __future__ import annotations

import os
import secrets
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from trainbeacon.blackbox.directory import file_prefix
from trainbeacon.blackbox.files import TEMPORARY_PREFIX
from trainbeacon.blackbox.format import PROFILING
from trainbeacon.recorder.core.patch import observe
from trainbeacon.recorder.core.recorder import Recorder, log
from trainbeacon.recorder.core.threads import NoThreadError, start_thread
from trainbeacon.recorder.probes.profile_files import (
    MOST_TRACE_BYTES,
    TRACE_SUFFIX,
    Answer,
    Folder,
    Request,
)

#: Profiles that `beacon.on(..., "profile")` takes in one run, and the least time between two.
MOST_BY_EVENT, BY_EVENT_SECONDS = 3, 600.0


class RefusedError(RuntimeError):
    """No profile can be taken now; the text says why."""


@dataclass
class _Recording:
    """A profile under way. `stop` ends it, and gives what writes the trace, if it has one."""

    request: Request
    stop: Callable[[], Callable[[str], None] | None]
    first_step: int
    begun: float
    steps: int = 0


class Profiler:
    """Takes profiles of one rank, one at a time.

    Args:
        recorder: of the rank, whose box has a path.
        clock: monotonic seconds.
    """

    def __init__(self, recorder: Recorder, clock: Callable[[], float] = time.monotonic) -> None:
        self._recorder = recorder
        self._clock = clock
        boxes, self._box = os.path.split(str(recorder.writer.path))
        self._folder = Folder(boxes)
        self._wanted: deque[tuple[Request, float]] = deque(maxlen=1)  # whoever pops it has it
        self._recording: _Recording | None = None
        self._writes: threading.Thread | None = None
        self._events: list[float] = []
        self._ends: list[Callable[[], None]] = []

    # The background thread

    def poll(self) -> None:
        """Look for a request; once a second."""
        self._expire()
        if self._wanted:  # again, where the training thread took the last one off at this very moment
            self._recorder.timeline.call_after_step(self._step_ended)
        request = self._folder.take(self._box)
        if request is not None and not self._ask(request):
            self._answer(request, "refused", "another profile of this rank is being taken")

    def _expire(self) -> None:
        """A rank that makes no step takes no profile."""
        if self._wanted and self._clock() - self._wanted[0][1] > self._wanted[0][0].seconds:
            try:
                request, _ = self._wanted.popleft()
            except IndexError:  # the training thread was faster
                return
            seconds = f"{request.seconds:g} s"
            self._answer(request, "refused", f"no step ended within {seconds}: see `trainbeacon stacks`")

    def _ask(self, request: Request) -> bool:
        writes = self._writes is not None and self._writes.is_alive()
        if self._wanted or self._recording is not None or writes:
            return False
        self._answer(request, "waiting")
        self._wanted.append((request, self._clock()))
        self._recorder.timeline.call_after_step(self._step_ended)
        return True

    def event(self) -> None:
        """Take one because of what was seen: `beacon.on(kind, "profile")`. For the training thread."""
        now = self._clock()
        often = bool(self._events) and now - self._events[-1] < BY_EVENT_SECONDS
        if often or len(self._events) >= MOST_BY_EVENT:
            return
        if self._ask(Request.make()):
            self._events.append(now)

    # The training thread

    def _step_ended(self) -> None:
        """Between two steps: start, count, or stop."""
        self._recorder.guard("helper", self._between_steps)

    def _between_steps(self) -> None:
        recording = self._recording
        if recording is None:
            try:
                request, _ = self._wanted.popleft()
            except IndexError:
                self._recorder.timeline.call_after_step(self._step_ended, wanted=False)
                return
            self._begin(request)
            return
        recording.steps += 1
        late = self._clock() - recording.begun >= recording.request.seconds
        if recording.steps >= recording.request.steps or late:
            self._end(recording)

    def _begin(self, request: Request) -> None:
        try:
            stop = _marked_range() if request.tool == "nsys" else _torch_profile()
        except Exception as error:  # noqa: BLE001 - torch's own too: the rank trains on without a profile
            self._recorder.timeline.call_after_step(self._step_ended, wanted=False)
            self._answer(request, "refused", str(error))
            return
        first = self._recorder.timeline.step + 1
        self._recording = _Recording(request, stop, first, self._clock())
        self._say_running(1.0)
        if request.tool == "torch":
            self._watch_for_others()
        self._answer(request, "recording")
        log.info("rank %d is profiled for %d steps", self._recorder.identity.rank, request.steps)

    def _watch_for_others(self) -> None:
        owner: Any = sys.modules["torch"].autograd.profiler.profile
        if hasattr(owner, "_prepare_trace"):
            self._ends.append(observe(owner, "_prepare_trace", self._other_starts))

    def _other_starts(self, *_: object) -> None:
        """The script starts a profiler of its own: ours gives way before it does."""
        recording = self._recording
        if recording is None:
            return
        if threading.get_ident() == self._recorder.timeline.thread:
            self._recorder.guard("helper", self._end, recording)
            return
        # Only the thread that has started ours can stop it: at the end of its step.
        recording.request = replace(recording.request, seconds=0.0)
        end = time.monotonic() + 10.0
        while self._recording is recording and time.monotonic() < end:
            time.sleep(0.01)

    def _end(self, recording: _Recording) -> None:
        while self._ends:
            self._ends.pop()()
        self._recording = None
        self._recorder.timeline.call_after_step(self._step_ended, wanted=False)
        self._say_running(0.0)
        try:
            write = recording.stop()
        except Exception as error:
            self._answer(recording.request, "refused", f"the profiler failed to stop: {error}")
            raise
        if recording.steps == 0:
            self._answer(recording.request, "refused", "the script started a profiler of its own, or ended")
            return
        if write is None:
            self._done(recording, "")
            return
        self._answer(recording.request, "writing")
        try:
            self._writes = start_thread("trainbeacon-profile", lambda: self._write(recording, write))
        except NoThreadError as error:
            self._answer(recording.request, "refused", str(error))

    def _say_running(self, number: float) -> None:
        self._recorder.writer.slots[self._recorder.rank_slot(PROFILING)] = number

    def stop(self) -> None:
        """End what is under way, and wait for the trace; for the thread that ends the run."""
        recording = self._recording
        if recording is not None and threading.get_ident() == self._recorder.timeline.thread:
            self._end(recording)
        while self._wanted:
            request, _ = self._wanted.popleft()
            self._answer(request, "refused", "the run ended")
        if self._writes is not None:
            self._writes.join(10.0)

    # The thread that writes

    def _write(self, recording: _Recording, write: Callable[[str], None]) -> None:
        try:
            self._recorder.guard("helper", self._keep, recording, write)
        finally:
            answer = self._folder.answered(self._box, recording.request.id)
            if answer is None or answer.state == "writing":
                self._answer(recording.request, "refused", "the trace could not be written: see the log")

    def _keep(self, recording: _Recording, write: Callable[[str], None]) -> None:
        prefix = file_prefix(self._recorder.run, self._recorder.identity.rank)
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        name = f"{prefix}{moment}-{secrets.token_hex(3)}{TRACE_SUFFIX}"
        path = os.path.join(self._folder.path, name)
        unfinished = os.path.join(self._folder.path, f"{TEMPORARY_PREFIX}{name}")
        with self._folder.opened():  # it is ours
            write(unfinished)
        os.chmod(unfinished, 0o600)
        size = os.path.getsize(unfinished)
        if size > MOST_TRACE_BYTES:
            os.unlink(unfinished)
            text = f"the trace had {size >> 20} MiB, more than {MOST_TRACE_BYTES >> 20}: ask for fewer steps"
            self._answer(recording.request, "refused", text)
            return
        os.rename(unfinished, path)
        self._folder.prune(prefix)
        self._done(recording, name)
        log.info("profile of %d steps: %s (trainbeacon profile --read shows it)", recording.steps, path)

    def _done(self, recording: _Recording, trace: str) -> None:
        last = recording.first_step + recording.steps - 1
        self._answer(recording.request, "done", trace=trace, steps=(recording.first_step, last))

    def _answer(
        self,
        request: Request,
        state: str,
        text: str = "",
        *,
        trace: str = "",
        steps: tuple[int, int] = (0, 0),
    ) -> None:
        answer = Answer(request.id, state, text, trace, *steps)
        self._recorder.guard("helper", self._folder.answer, self._box, answer)


def _torch_profile() -> Callable[[], Callable[[str], None]]:
    """Start torch's profiler. Returns what stops it, which returns what writes its trace."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "profiler"):
        raise RefusedError("the script does not use PyTorch")
    others = torch.autograd._profiler_enabled, lambda: torch.autograd.profiler._is_profiler_enabled
    if any(is_on() for is_on in others):
        raise RefusedError("the script's own profiler is on, and torch has one a process")
    # acc_events=True: else it warns of what only a schedule of several cycles would need.
    profile = torch.profiler.profile(acc_events=True)
    profile.start()

    def stop() -> Callable[[str], None]:
        profile.stop()
        return lambda path: profile.export_chrome_trace(path)

    return stop


def _marked_range() -> Callable[[], None]:
    """Begin a range that `nsys profile --capture-range=cudaProfilerApi` records."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        raise RefusedError("the rank uses no GPU, so there is no range for Nsight Systems to capture")
    torch.cuda.profiler.start()
    torch.cuda.nvtx.range_push("trainbeacon profile")

    def stop() -> None:
        torch.cuda.nvtx.range_pop()
        torch.cuda.profiler.stop()

    return stop
