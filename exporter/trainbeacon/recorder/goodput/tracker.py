"""Where the time of the run goes: counters of this process, and gauges of the run over all its attempts.

Rank 0 keeps both. The counters begin at 0 with the process; steps that an earlier attempt had made already
count as `lost` while they are made again. The gauges begin with the run: when an attempt takes the run up,
the productive time that the earlier one spent after the checkpoint moves to `lost`, and the steps made
again are productive, so that no second counts twice. See docs/goodput.md.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import replace

from trainbeacon import catalogue
from trainbeacon.blackbox import format as layout
from trainbeacon.recorder.core.file_worker import FileWorker
from trainbeacon.recorder.core.recorder import Recorder, log
from trainbeacon.recorder.goodput import run_state as statefile
from trainbeacon.recorder.goodput.accounting import TimeAccounting, TimeBreakdown
from trainbeacon.recorder.goodput.recovery import recover_from_box
from trainbeacon.recorder.goodput.run_state import Attempt, RunState

#: The file is renewed when so much of the run's time has passed, and within these bounds.
SHARE_OF_TIME = 0.001
LEAST_SECONDS, MOST_SECONDS = 1.0, 30.0
#: Steps that take longer than that are counted while they are made, up to the time that a step takes.
LONG_STEP_SECONDS = 1.0
#: How long the counters wait for the file of the earlier attempt.
READ_SECONDS = 10.0


class Goodput:
    """The accounts of rank 0; on another rank it does nothing, unless that becomes rank 0.

    `poll` is for the background thread, once a second.

    Args:
        recorder: where the numbers go.
        file_worker: has the file read and written.
    """

    def __init__(self, recorder: Recorder, file_worker: FileWorker) -> None:
        self._recorder = recorder
        self._timeline = recorder.timeline
        self._file_worker = file_worker
        self._accounting = TimeAccounting(recorder.timeline)
        self._lock = threading.Lock()  # over accounts, never over files
        self._path: str | None = None
        self._asked = 0.0  # when the file was asked for
        self._waiting = False
        self._abandoned = True
        self._earlier: RunState | None = None
        self._points: list[tuple[int, float]] = []
        self._written = 0.0
        self._shown = dict.fromkeys(catalogue.GOODPUT_KINDS, 0.0)
        self._lost: float | None = None  # seconds of the steps made again, once all of them are
        self._counters: dict[str, int] = {}
        self._gauges: dict[str, int] = {}
        self._lost_steps = layout.SINK
        self.identified()

    def identified(self) -> None:
        """The rank is known, or another one than it was."""
        if self._recorder.identity.rank != 0:
            self._abandon()
        elif self._abandoned:
            self._begin()

    def _begin(self) -> None:
        recorder = self._recorder
        self._abandoned = False
        self._counters = {
            kind: recorder.run_slot("training_goodput_seconds_total", kind)
            for kind in catalogue.GOODPUT_KINDS
        }
        self._gauges = {kind: recorder.run_slot("training_run_seconds", kind) for kind in catalogue.RUN_KINDS}
        self._lost_steps = recorder.run_slot("training_lost_steps_total")
        for slot in (*self._counters.values(), self._lost_steps):
            recorder.writer.slots[slot] = 0.0
        if recorder.config.state_file is not None:
            self._take_up(recorder.config.state_file)

    def _abandon(self) -> None:
        """Keep no accounts and write no file: the process is not rank 0 after all."""
        with self._lock:
            self._abandoned = True
            self._path = None

    # What the script says

    def beside(self, checkpoint: str | os.PathLike[str]) -> None:
        """A checkpoint lies there: the state file is beside it, unless one was named."""
        if self._path is None and not self._abandoned:
            path = statefile.beside(checkpoint, self._recorder.run)
            if path is not None:
                self._take_up(path)

    def resumed(self, checkpoint: str | os.PathLike[str] | None) -> None:
        """The script has said at which step it takes the run up, and perhaps from which checkpoint."""
        if checkpoint is not None:
            self.beside(checkpoint)
        self._expect()

    def _expect(self) -> None:
        """Have the end of the steps that are made again kept, before they are made."""
        if self._earlier is not None:
            resumed = self._timeline.resumed
            begin = self._earlier.last_checkpoint if resumed is None else resumed
            if self._earlier.furthest > begin:
                self._accounting.keep(self._earlier.furthest - begin)

    def checkpointed(self, step_end: tuple[int, tuple[float, ...]]) -> None:
        """A checkpoint is good that was begun at that `Timeline.step_end`; from any thread."""
        if self._abandoned:
            return
        steps, totals = step_end
        with self._lock:
            self._accounting.account()
            productive = self._accounting.productive_of(totals) if steps else 0.0
            self._points = [*self._points[1 - statefile.MOST_POINTS :], (steps, productive)]
        self._file_worker.submit(self._write)

    # The accounts

    def poll(self) -> None:
        """Bring all numbers up to date, and renew the file when that is due."""
        if self._abandoned:
            return
        with self._lock:
            self._show(self._accounting.account())
            due = self._path is not None and self._is_due()
        if due:
            self._written = time.monotonic()
            self._file_worker.submit(self._write)

    def end(self, state: str) -> None:
        """The run is over on this rank."""
        if self._abandoned:
            return
        with self._lock:
            account = self._accounting.account()
            if state == "finished":
                account = settled(account)
            self._show(account)
        if self._waiting:  # a short attempt: what the earlier one says is shown once it has been read
            self._file_worker.submit(lambda: self._show_late(account))
        if self._path is not None:
            finished = state == "finished"
            self._file_worker.submit(lambda: self._write(account, finished=finished))

    def _show_late(self, account: TimeBreakdown) -> None:
        with self._lock:
            self._show(account)

    def _is_due(self) -> bool:
        elapsed = time.time() - (self._earlier.began if self._earlier else self._recorder.start)
        interval = min(MOST_SECONDS, max(LEAST_SECONDS, SHARE_OF_TIME * elapsed))
        # A little early: turns are not exact, and the next one would be a second late.
        return not self._waiting and time.monotonic() - self._written > 0.8 * interval

    def _show(self, account: TimeBreakdown) -> None:
        if self._abandoned or (self._waiting and time.monotonic() - self._asked < READ_SECONDS):
            return
        slots = self._recorder.writer.slots
        self._count(account)
        for kind, at in self._counters.items():
            slots[at] = self._shown[kind]
        repeats = self._repeats(account)
        slots[self._lost_steps] = max(slots[self._lost_steps], float(min(account.steps, repeats)))
        if self._path is None or self._waiting:
            return
        state = self._state(account)
        seconds = {**state.seconds, "other": state.of("other") + state.pending}
        for kind, at in self._gauges.items():
            slots[at] = seconds.get(kind, 0.0)
        elapsed = max(state.written - state.began, sum(seconds.values()))  # a clock may have been set back
        slots[self._recorder.run_slot("training_elapsed_seconds")] = elapsed

    def _count(self, account: TimeBreakdown) -> None:
        """Bring the counters up to date. They never fall."""
        seconds = dict(account.seconds)
        productive = seconds["productive"]
        if account.mean > LONG_STEP_SECONDS:  # else they would stay and then jump
            productive += min(account.pending, account.mean)
        repeats = self._repeats(account)
        if account.steps < repeats:
            self._accounting.keep(repeats)
            lost = productive
        else:
            if repeats and self._lost is None:
                self._lost = min(productive, self._accounting.productive_at(repeats, account))
            lost = max(self._lost or 0.0, self._shown["lost"])
        seconds["lost"], seconds["productive"] = lost, productive - lost
        self._shown = _grown(self._shown, seconds)

    # The run

    def _resumed(self, account: TimeBreakdown) -> int | None:
        """The step that this attempt took the run up at, None while that is open.

        Unless the script says it, the run is taken to go on from its last checkpoint.
        """
        if self._timeline.resumed is not None:
            return self._timeline.resumed
        if self._earlier is None:
            return 0
        return self._earlier.last_checkpoint if account.steps else None

    def _repeats(self, account: TimeBreakdown) -> int:
        """How many steps of this process had been made before."""
        resumed = self._resumed(account)
        if self._earlier is None or resumed is None or self._is_anew():
            return 0
        return max(0, self._earlier.furthest - resumed)

    def _is_anew(self) -> bool:
        """Whether a run begins once more under the same name: it was over, or another job starts it at 0."""
        earlier, resumed = self._earlier, self._timeline.resumed
        if earlier is None or resumed:
            return False
        other_job = earlier.run_id not in ("", self._recorder.identity.run_id)
        return earlier.finished or (resumed == 0 and other_job)

    def _history(self, resumed: int | None) -> RunState:
        """The run as this attempt found it."""
        start = self._recorder.start
        if self._earlier is None or self._is_anew():
            return RunState(began=start, written=start)
        taken_up = self._earlier.taken_up(start)
        return taken_up if resumed is None else taken_up.resumed(resumed)

    def _state(self, account: TimeBreakdown, *, finished: bool = False) -> RunState:
        """The run as it stands now."""
        resumed = self._resumed(account)
        history = self._history(resumed)
        step = history.step if resumed is None else resumed + account.steps
        before = history.of("productive")
        own = [(resumed + steps, before + seconds) for steps, seconds in self._points if resumed is not None]
        return replace(
            history,
            written=time.time(),
            seconds=_sum(history.seconds, account.seconds),
            pending=history.pending + account.pending,
            step=step,
            furthest=max(history.furthest, step),
            points=(*history.points, *own)[-statefile.MOST_POINTS :],
            finished=finished,
            run_id=self._recorder.identity.run_id,
            attempt=self._attempt(account),
        )

    def _attempt(self, account: TimeBreakdown) -> Attempt:
        writer = self._recorder.writer
        return Attempt(
            box=os.path.basename(writer.path) if writer.path is not None else "",
            start=self._recorder.start,
            steps=account.steps,
            phases=dict(zip(catalogue.PHASES, account.phases, strict=True)),
            at_step=dict(zip(catalogue.PHASES, account.at_step, strict=True)),
            limit=account.limit,
        )

    # The file

    def _take_up(self, path: str) -> None:
        self._asked, self._waiting = time.monotonic(), True
        self._path = path
        self._file_worker.submit(self._read)

    def _read(self) -> None:
        try:
            if self._path is not None:
                self._earlier = self._found(self._path)
                if self._earlier is not None and not self._earlier.finished:
                    self._timeline.assume_resumed_at(self._earlier.last_checkpoint)
                self._expect()
        finally:
            self._waiting = False

    def _found(self, path: str) -> RunState | None:
        try:
            found = statefile.read(path)
        except statefile.StateError as error:
            log.warning("the state of the run in %s is left aside: %s", path, error)
            self._recorder.error("helper", error)
            return None
        if found is None or found.finished:
            return found
        return recover_from_box(found, self._recorder.config.directory, self._recorder.run)

    def _write(self, account: TimeBreakdown | None = None, *, finished: bool = False) -> None:
        """Write the state now, or as it was at the end."""
        path = self._path
        if path is None or self._waiting:
            return
        with self._lock:
            state = self._state(account or self._accounting.account(), finished=finished)
        statefile.write(path, state)


def _grown(shown: Mapping[str, float], target: Mapping[str, float]) -> dict[str, float]:
    """Counters on their way to what they should be: they never fall, nor come to more than all the time.

    What was shown under one kind and turns out to be of another is made up for by the time that follows.
    """
    growth = {kind: max(0.0, target[kind] - shown[kind]) for kind in shown}
    wanted, room = sum(growth.values()), sum(target.values()) - sum(shown.values())
    share = min(1.0, max(0.0, room) / wanted) if wanted > 0.0 else 0.0
    return {kind: shown[kind] + share * growth[kind] for kind in shown}


def settled(account: TimeBreakdown) -> TimeBreakdown:
    """The account of a process that is over: a step that was not completed is time that went elsewhere."""
    return replace(account, seconds=_sum(account.seconds, {"other": account.pending}), pending=0.0)


def _sum(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {kind: one.get(kind, 0.0) + other.get(kind, 0.0) for kind in catalogue.RUN_KINDS}
