"""Phases and steps: what the host is doing now, and how far the run is.

The phases partition the wall time of the process by construction: there is one present phase, and
leaving it adds the time since its start to its total. No method takes a lock or makes a system call.

Threads: phases are those of the training thread. That is the thread which made the beacon, until a step
is begun or ended in another one. What other threads declare or what hooks see in them changes nothing.
"""

from __future__ import annotations

import struct
import time
from bisect import bisect_left
from collections.abc import Callable
from threading import get_ident

from trainbeacon import catalogue
from trainbeacon.blackbox import format as layout
from trainbeacon.blackbox.writer import Writer

PHASE = {name: index for index, name in enumerate(catalogue.PHASES)}
INIT, WARMUP, DATA_WAIT, OTHER = PHASE["init"], PHASE["warmup"], PHASE["data_wait"], PHASE["other"]
FORWARD, BACKWARD, OPTIMIZER = PHASE["forward"], PHASE["backward"], PHASE["optimizer"]
COMMUNICATION, EVALUATE, CHECKPOINT = PHASE["communication"], PHASE["evaluate"], PHASE["checkpoint"]
_H2D = PHASE["h2d"]
_PAUSES = (EVALUATE, CHECKPOINT, PHASE["resume"])  # no part of a step's duration
#: Phases that no step begins with: what comes before the first step is its start-up.
_BEFORE_A_STEP = (INIT, OPTIMIZER, *_PAUSES, PHASE["compile"])
#: Phases in which waiting for other ranks is counted apart: those of a step, once steps are made.
_STEP_PHASES = frozenset((DATA_WAIT, _H2D, FORWARD, BACKWARD, OPTIMIZER, OTHER))

_BUCKETS = catalogue.STEP_BUCKETS

#: Reads as unset like `format.UNSET`, and is another object: the step has a loss, only not yet.
_DEFERRED: float = struct.unpack("=d", layout.UNSET_BYTES)[0]

Index = dict[tuple[str, tuple[str, ...]], int]


class Declared:
    """A phase that the script declared and has not ended: what `push_phase` gives and `pop_phase` takes."""

    __slots__ = ("phase",)

    def __init__(self, phase: int) -> None:
        self.phase = phase


#: What the process had made when a step ended: monotonic time, and its totals of steps, samples, tokens.
Progress = tuple[float, int, int, int]


class Timeline:
    """The clockwork of a beacon, over one black box.

    Attributes:
        wall_offset: Unix time less the monotonic clock; the background thread keeps it fresh.
        heartbeat: monotonic time of the last heartbeat, written by the background thread.
        warm: whether a step has been completed.
        step: number of the last completed step of the run.
        pending_samples, pending_tokens, pending_norm: of the step under way.
        after_step: called at the end of each step; may raise what shall reach the script.
        resumed: the step that the run was at when this process took it up, None where nobody said.
        step_end: how many steps this process has made, and the phase totals at the end of the last one.
        marks: steps of this process at whose end the phase totals are to be kept; empty but for a few.
        number_under_way: the number that the script gave to the step under way, None where it gave none.
        first, last: what had been made at the end of the first step, and of the last one; None before it.
        before_first_step: called once, before the first step is counted.
        thread: the training thread.
        in_backward: whether a backward pass is under way.
        has_stage: whether the rank's pipeline stage is known, by which its peers are.
        pauses: evaluations, checkpoints and the like that are declared and not over.
    """

    def __init__(self, writer: Writer, index: Index, begun: float | None = None) -> None:
        self._writer = writer
        self._values, self._commit = writer.step, writer.commit  # both are the same for ever
        self.wall_offset = time.time() - time.monotonic()
        self.heartbeat = 0.0
        self.warm = False
        self.step = 0
        self.after_step: Callable[[], None] | None = None
        self._after_step: tuple[Callable[[], None], ...] = ()
        self.pending_samples = 0
        self.pending_tokens = 0
        self.pending_norm = layout.UNSET
        self.resumed: int | None = None
        self.marks: dict[int, tuple[float, ...] | None] = {1: None}
        self._pending_loss = layout.UNSET
        self._ring_lacks_loss = False
        self.thread = get_ident()
        self.in_backward = False
        self.has_stage = False
        self.before_first_step: Callable[[], None] | None = None
        self.first: Progress | None = None
        self.last: Progress | None = None
        self.number_under_way: int | None = None
        self._assumed: int | None = None
        self._stack: list[Declared] = []
        self._lent: Declared | None = None
        self._under = INIT  # the phase under those that are declared
        self._waited_in: Declared | None = None
        self._start_known = False
        self._excluded = 0.0
        self.pauses = 0
        self._pause_start = 0.0
        # The totals are kept here as well: to store a number is cheaper than to read one back.
        self._phase_totals = [0.0] * len(catalogue.PHASES)
        self.step_end = (0, tuple(self._phase_totals))
        self._backward_before = 0.0
        self._own_backward = 0.0
        self._computed_at: float | None = None
        self._waits = False
        self._paired = False
        self._buckets = [0] * (len(_BUCKETS) + 1)
        self._duration_sum = 0.0
        self._steps = 0
        self._samples = 0
        self._tokens = 0
        self._phase_at = index["training_phase_seconds_total", (catalogue.PHASES[0],)]
        self._now_at = index[layout.PHASE_INDEX, ()]
        self._start_at = index[layout.PHASE_START, ()]
        self._start_time_at = index["training_phase_start_timestamp_seconds", ()]
        self._step_at = index["training_step", ()]
        self._steps_at = index["training_steps_total", ()]
        self._samples_at = index["training_samples_total", ()]
        self._tokens_at = index["training_tokens_total", ()]
        self._last_at = index["training_last_step_timestamp_seconds", ()]
        self._bucket_at = index["training_step_duration_seconds", ("0",)]
        self._sum_at = index["training_step_duration_seconds", (layout.HISTOGRAM_SUM,)]
        self._self_at = index["training_self_seconds_total", (catalogue.SELF_CAUSES[0],)]
        self._begin(time.monotonic() if begun is None else begun)

    def _begin(self, begun: float) -> None:
        values = self._writer.step
        for at in (self._phase_at + phase for phase in range(len(catalogue.PHASES))):
            values[at] = 0.0
        for at in (self._bucket_at + bucket for bucket in range(len(_BUCKETS) + 1)):
            values[at] = 0.0
        values[self._sum_at] = values[self._steps_at] = 0.0
        self._phase = INIT
        self._phase_start = self._step_start = self._begun = begun
        values[self._now_at] = INIT
        values[self._start_at] = self._phase_start
        values[self._start_time_at] = self._phase_start + self.wall_offset
        self._writer.commit()

    def call_after_step(self, call: Callable[[], None], *, wanted: bool = True) -> None:
        """Have `call` called at the end of each step, before those that asked earlier; or no longer.

        Threads: any, one at a time for one `call`.
        """
        others = tuple(each for each in self._after_step if each != call)
        self._after_step = calls = (call, *others) if wanted else others
        self.after_step = self._call_after_step if len(calls) > 1 else next(iter(calls), None)

    def _call_after_step(self) -> None:
        for call in self._after_step:
            call()

    # Phases

    def push_phase(self, phase: int) -> Declared | None:
        """Begin a phase that the script declares; phases that hooks see wait until it ends.

        Returns:
            What `pop_phase` ends it by; None in another thread than the one that trains.
        """
        if get_ident() != self.thread:
            return None
        if not self._stack:
            self._under = self._phase
        declared = Declared(phase)
        self._stack.append(declared)
        self._switch(phase)
        if phase in _PAUSES:
            if not self.pauses:
                self._pause_start = self._phase_start
            self.pauses += 1
        return declared

    def lend_phase(self, phase: int) -> Declared | None:
        """Begin a phase that ends at `pop_phase`, or as soon as a backward pass begins or a step ends.

        One that is open already goes on.
        """
        if get_ident() != self.thread:
            return None
        if self._lent is None or self._lent.phase != phase:
            self._lent = self.push_phase(phase)
        return self._lent

    def end_lent(self) -> None:
        """Training goes on: the phase that `lend_phase` began is over."""
        if self._lent is not None:
            self.pop_phase(self._lent)

    def pop_phase(self, declared: Declared | None) -> None:
        """End a phase that `push_phase` began, and go back to the one before if it was the present one.

        Tasks of one thread may end theirs in any order.
        """
        stack = self._stack
        if declared not in stack or get_ident() != self.thread:
            return
        if declared is self._lent:
            self._lent = None
        present = stack[-1] is declared
        stack.remove(declared)
        if present:
            self._switch(stack[-1].phase if stack else self._under)
        if declared.phase in _PAUSES:
            self.pauses -= 1
            if not self.pauses:  # whatever else was declared in between belongs to the pause
                self._exclude(self._phase_start if present else time.monotonic())

    def _exclude(self, until: float) -> None:
        """Take a pause off the step under way."""
        self._excluded += max(0.0, until - max(self._pause_start, self._step_start))

    def observe(self, phase: int) -> None:
        """A hook saw a phase begin. Counts as warm-up until the first step is done."""
        old = self._phase
        if self._stack or phase == old or get_ident() != self.thread:
            return
        if not self.warm:
            seen, phase = phase, phase if phase == DATA_WAIT else WARMUP
            if phase != old:
                self._switch(phase)
            if old == INIT:
                self._start_known = seen not in _BEFORE_A_STEP
            return
        # What `_switch` does, without its calls: this is the hottest of all.
        now = time.monotonic()
        if now < self.heartbeat:
            now = self.heartbeat
        totals = self._phase_totals
        totals[old] = total = totals[old] + now - self._phase_start
        self._phase = phase
        self._phase_start = now
        values = self._values
        values[self._phase_at + old] = total
        values[self._now_at] = phase
        values[self._start_at] = now
        values[self._start_time_at] = now + self.wall_offset
        self._commit()

    def begin_backward(self) -> bool:
        """A backward pass begins. False inside another one, whose end is not recorded."""
        if (self._phase == BACKWARD and not self._stack) or get_ident() != self.thread:
            return False
        self.in_backward = True
        self._computed_at = None
        if self._lent is not None:
            self.pop_phase(self._lent)
        self.observe(BACKWARD)
        self._backward_before = self._phase_totals[BACKWARD]
        return True

    def gradients_computed(self) -> None:
        """Every gradient of the backward pass is worked out; what is left of it waits for other ranks.

        Threads: called by whichever thread of torch's the pass ends in.
        """
        self._computed_at = time.monotonic()

    def end_backward(self, *, hides: bool) -> None:
        """The backward pass is over.

        Args:
            hides: whether it ran collectives out of our sight: it waited from `gradients_computed` on, and
                if that was not called, how long is not known.
        """
        self.in_backward = False
        if self._phase != BACKWARD or self._stack:
            return
        self.observe(OTHER)
        spent = self._phase_totals[BACKWARD] - self._backward_before
        if hides:
            self._waits = True
            computed, over = self._computed_at, self._phase_start
            spent = 0.0 if computed is None else max(0.0, spent - max(0.0, over - computed))
        self._own_backward += spent

    def begin_wait(self) -> bool:
        """The rank begins to wait for others. False where that is no part of a step: then tell no end."""
        phase = self._phase
        if phase not in _STEP_PHASES or not self.warm or get_ident() != self.thread:
            return False
        self._waited_in = self.push_phase(COMMUNICATION)
        return self._waited_in is not None

    def end_wait(self, *, paired: bool) -> None:
        """The waiting is over.

        Args:
            paired: whether it was for a message of one rank to another, as in a pipeline. Its stages
                differ by nature: a rank of which no stage is known has no time of its own to be compared by.
        """
        self.pop_phase(self._waited_in)
        self._waits = True
        if paired and not self._paired:
            self._paired = True
            if not self.has_stage:
                for at in range(self._self_at, self._self_at + len(catalogue.SELF_CAUSES)):
                    self._writer.step[at] = layout.UNSET

    @property
    def phase(self) -> str:
        """The present phase by name; from any thread."""
        return catalogue.PHASES[self._phase]

    @property
    def phase_start(self) -> float:
        """Monotonic time at which the present phase began."""
        return self._phase_start

    @property
    def declared(self) -> int | None:
        """The phase that the script has declared and not ended, if any."""
        return self._phase if self._stack else None

    def _switch(self, phase: int) -> None:
        self._stamp(phase)
        self._writer.commit()

    def _stamp(self, phase: int) -> float:
        """Close the present phase and begin the next. Returns the monotonic time of it.

        A reader shows the open phase up to the last heartbeat; a total must not fall behind that.
        """
        now = time.monotonic()
        if now < self.heartbeat:
            now = self.heartbeat
        old = self._phase
        total = self._phase_totals[old] + now - self._phase_start
        self._phase_totals[old] = total
        self._phase = phase
        self._phase_start = now
        if old == INIT and not self.warm:  # what went before is no part of the first step
            self._step_start, self._excluded = now, 0.0
            self._start_known = phase not in _BEFORE_A_STEP
        values = self._writer.step
        values[self._phase_at + old] = total
        values[self._now_at] = phase
        values[self._start_at] = now
        values[self._start_time_at] = now + self.wall_offset
        return now

    def totals_now(self) -> tuple[float, ...]:
        """Seconds of each phase up to now; from any thread."""
        for _ in range(100):
            totals, phase, start = list(self._phase_totals), self._phase, self._phase_start
            if abs(self._begun + sum(totals) - start) < 1e-3:  # else a switch came in between
                break
        totals[phase] += max(0.0, time.monotonic() - start)
        return tuple(totals)

    # Steps

    def begin_step(self) -> None:
        """The script begins a step in this thread, which is the training thread from now on."""
        self.thread = get_ident()
        if not self.warm and self._phase == INIT:
            self.observe(OTHER)

    def end_step(self, count: int = 1) -> None:
        """A step is done: count it, with the samples, loss and gradient norm that it had.

        Args:
            count: how many steps ended since the last call, where not every one could be seen.
        """
        self.thread = get_ident()
        if self._lent is not None:
            self.pop_phase(self._lent)
        if not self.warm:
            self._begin_to_count()
        now = self._stamp(self._phase if self._stack else OTHER)
        timestamp = now + self.wall_offset
        if self.pauses:
            self._exclude(now)
        duration = (now - self._step_start - self._excluded) / count
        if duration < 0.0:
            duration = 0.0
        self._step_start, self._excluded = now, 0.0
        if self._assumed is not None:
            self._take_assumed()
        number = self.number_under_way
        if number is None:
            self.step = step = self.step + count
        else:
            self.step, self.number_under_way = number, None
            step = number
        self._steps = steps = self._steps + count
        totals = tuple(self._phase_totals)
        self.step_end = (steps, totals)
        if count > 1:
            self._mark(steps, count, totals)
        elif steps in self.marks:
            self.marks[steps] = totals
        values = self._values
        values[self._step_at] = step
        values[self._steps_at] = steps
        values[self._last_at] = timestamp
        if self._start_known:
            bucket = bisect_left(_BUCKETS, duration)
            self._buckets[bucket] = in_bucket = self._buckets[bucket] + count
            self._duration_sum += duration * count
            values[self._bucket_at + bucket] = in_bucket
            values[self._sum_at] = self._duration_sum
        else:  # the first step, of which nobody knows when it began
            self._start_known, duration = True, 0.0
        if self.pending_samples:
            self._samples += self.pending_samples
            values[self._samples_at] = self._samples
            self.pending_samples = 0
        if self.pending_tokens:
            self._tokens += self.pending_tokens
            values[self._tokens_at] = self._tokens
            self.pending_tokens = 0
        self.last = now, steps, self._samples, self._tokens
        if self.first is None:
            self.first = self.last
        if self._waits and (self.has_stage or not self._paired):
            self._store_self()
        loss = self._pending_loss
        self._writer.add_to_ring(step, timestamp, duration, loss, self.pending_norm)
        self._ring_lacks_loss = loss is layout.UNSET
        self._pending_loss = self.pending_norm = layout.UNSET
        self._commit()
        if self.after_step is not None:
            self.after_step()

    def _begin_to_count(self) -> None:
        """The first step is about to be counted."""
        if self.before_first_step is not None:
            self.before_first_step()
        self.warm = True

    def _take_assumed(self) -> None:
        """Go on from where the last attempt ended, unless the script has said from where."""
        if self.resumed is None and self._assumed is not None:
            self.step += self._assumed
        self._assumed = None

    def _mark(self, steps: int, count: int, totals: tuple[float, ...]) -> None:
        """Keep the totals of the steps that somebody asked for; of several at once they are the same."""
        for step in range(steps - count + 1, steps + 1):
            if step in self.marks:
                self.marks[step] = totals

    def add_to_last(self, samples: int, tokens: int) -> None:
        """Samples and tokens of the step that has ended already."""
        self._samples += samples
        self._tokens += tokens
        if samples:
            self._values[self._samples_at] = self._samples
        if tokens:
            self._values[self._tokens_at] = self._tokens
        if self.last is not None:
            self.last = (*self.last[:2], self._samples, self._tokens)
        self._commit()

    def _store_self(self) -> None:
        """The rank's own time up to this step, in the order of `catalogue.SELF_CAUSES`."""
        values, at, totals = self._writer.step, self._self_at, self._phase_totals
        values[at] = totals[DATA_WAIT]
        values[at + 1] = totals[FORWARD]
        values[at + 2] = self._own_backward
        values[at + 3] = totals[OPTIMIZER]
        values[at + 4] = totals[OTHER] + totals[_H2D]

    def take_loss(self, loss: float) -> int:
        """A training loss: of the step just ended if that has none yet, else of the one under way.

        Returns:
            Which step that is.
        """
        if self._ring_lacks_loss:
            self._ring_lacks_loss = False
            self._writer.give_last_its_loss(loss)
            return self.step
        self._pending_loss = loss
        return self.step + 1

    @property
    def loss_step(self) -> int:
        """The step that the last training loss is of."""
        return self.step + (self._pending_loss is not layout.UNSET)

    def defer_loss(self) -> int:
        """A training loss that is not known yet. Returns the ring's entry that it is to be given to."""
        entry = self._writer.ring_count
        if self._ring_lacks_loss:
            self._ring_lacks_loss = False
            return entry - 1
        self._pending_loss = _DEFERRED
        return entry

    def resume_at(self, step: int) -> None:
        """The run goes on after `step` (a resumed run, or a loop that numbers its own steps)."""
        if self.resumed is None:
            self.resumed = max(0, step - self._steps)
        self.step = step
        self._writer.step[self._step_at] = step
        self._writer.commit()

    def numbers_step_under_way(self, step: int) -> None:
        """The script says which number the step under way will have."""
        if self.resumed is None:
            self.resumed = max(0, step - 1 - self._steps)
        self.number_under_way = step

    def made_before(self, steps: int) -> None:
        """So many steps had been made in this process before the first one that was counted."""
        self._steps += steps
        if self.resumed is not None:
            self.resumed = max(0, self.resumed - steps)
        self.step_end = (self._steps, self.step_end[1])
        self._values[self._steps_at] = self._steps
        self._commit()

    def assume_resumed_at(self, step: int) -> None:
        """The run was at that step when its last attempt ended; holds unless the script says otherwise.

        From any thread. Takes effect with the next step.
        """
        self._assumed = step

    def close(self) -> None:
        """Close the present phase for good."""
        self._switch(self._phase)
