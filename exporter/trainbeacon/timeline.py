"""Phases and steps: what the host is doing now, and how far the run is.

The phases partition the wall time of the process by construction: there is one present phase, and
leaving it adds the time since its start to its total. All methods are for the training thread, take
no lock and make no system call.
"""

from __future__ import annotations

import struct
import time
from bisect import bisect_left

from trainbeacon import catalogue
from trainbeacon.blackbox import format as layout
from trainbeacon.blackbox.writer import Writer

PHASE = {name: index for index, name in enumerate(catalogue.PHASES)}
INIT, WARMUP, DATA_WAIT, OTHER = PHASE["init"], PHASE["warmup"], PHASE["data_wait"], PHASE["other"]
EVALUATE, CHECKPOINT = PHASE["evaluate"], PHASE["checkpoint"]
_PAUSES = (EVALUATE, CHECKPOINT)  # no part of a step's duration

_BUCKETS = catalogue.STEP_BUCKETS

#: Reads as unset like `format.UNSET`, and is another object: the step has a loss, only not yet.
_PROMISED: float = struct.unpack("=d", layout.UNSET_BYTES)[0]

Index = dict[tuple[str, tuple[str, ...]], int]


class Timeline:
    """The clockwork of a beacon, over one black box.

    Attributes:
        wall_offset: Unix time less the monotonic clock; the helper thread keeps it fresh.
        heartbeat: monotonic time of the last heartbeat, written by the helper thread.
        warm: whether a step has been completed.
        step: number of the last completed step of the run.
        pending_samples, pending_tokens, pending_norm: of the step under way.
    """

    def __init__(self, writer: Writer, index: Index) -> None:
        self._writer = writer
        self.wall_offset = time.time() - time.monotonic()
        self.heartbeat = 0.0
        self.warm = False
        self.step = 0
        self.pending_samples = 0
        self.pending_tokens = 0
        self.pending_norm = layout.UNSET
        self._pending_loss = layout.UNSET
        self._ring_lacks_loss = False
        self._stack: list[int] = []
        self._excluded = 0.0
        self._pauses = 0
        self._pause_start = 0.0
        # The totals are kept here as well: to store a number is cheaper than to read one back.
        self._phase_totals = [0.0] * len(catalogue.PHASES)
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
        self._begin()

    def _begin(self) -> None:
        values = self._writer.step
        for at in (self._phase_at + phase for phase in range(len(catalogue.PHASES))):
            values[at] = 0.0
        for at in (self._bucket_at + bucket for bucket in range(len(_BUCKETS) + 1)):
            values[at] = 0.0
        values[self._sum_at] = values[self._steps_at] = 0.0
        self._phase = INIT
        self._phase_start = self._step_start = time.monotonic()
        values[self._now_at] = INIT
        values[self._start_at] = self._phase_start
        values[self._start_time_at] = self._phase_start + self.wall_offset
        self._writer.commit()

    # Phases

    def enter(self, phase: int) -> None:
        """Begin a phase that the script declares; phases that hooks see wait until it ends."""
        self._stack.append(self._phase)
        self._switch(phase)
        if phase in _PAUSES:
            if not self._pauses:
                self._pause_start = self._phase_start
            self._pauses += 1

    def leave(self) -> None:
        """End the phase of the last `enter` and go back to the one before."""
        phase = self._phase
        self._switch(self._stack.pop() if self._stack else OTHER)
        if phase in _PAUSES and self._pauses:
            self._pauses -= 1
            if not self._pauses:  # whatever else was declared in between belongs to the pause
                self._excluded += self._phase_start - max(self._pause_start, self._step_start)

    def see(self, phase: int) -> None:
        """A hook saw a phase begin. Counts as warm-up until the first step is done."""
        if self._stack:
            return
        if not self.warm and phase != DATA_WAIT:
            phase = WARMUP
        if phase != self._phase:
            self._switch(phase)

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
        if old == INIT and not self.warm:
            self._step_start = now  # what went before is no part of the first step
        values = self._writer.step
        values[self._phase_at + old] = total
        values[self._now_at] = phase
        values[self._start_at] = now
        values[self._start_time_at] = now + self.wall_offset
        return now

    # Steps

    def end_step(self) -> None:
        """One step is done: count it, with the samples, loss and gradient norm that it had."""
        self.warm = True
        now = self._stamp(self._phase if self._stack else OTHER)
        timestamp = now + self.wall_offset
        duration = now - self._step_start - self._excluded
        self._step_start, self._excluded = now, 0.0
        self.step = step = self.step + 1
        self._steps = steps = self._steps + 1
        bucket = bisect_left(_BUCKETS, duration)
        self._buckets[bucket] = in_bucket = self._buckets[bucket] + 1
        self._duration_sum += duration
        values = self._writer.step
        values[self._step_at] = step
        values[self._steps_at] = steps
        values[self._last_at] = timestamp
        values[self._bucket_at + bucket] = in_bucket
        values[self._sum_at] = self._duration_sum
        if self.pending_samples:
            self._samples += self.pending_samples
            values[self._samples_at] = self._samples
            self.pending_samples = 0
        if self.pending_tokens:
            self._tokens += self.pending_tokens
            values[self._tokens_at] = self._tokens
            self.pending_tokens = 0
        self._add_to_ring(step, timestamp, duration)
        self._writer.commit()

    def _add_to_ring(self, step: int, timestamp: float, duration: float) -> None:
        loss = self._pending_loss
        self._writer.add_to_ring(step, timestamp, duration, loss, self.pending_norm)
        self._ring_lacks_loss = loss is layout.UNSET
        self._pending_loss = self.pending_norm = layout.UNSET

    def take_loss(self, loss: float) -> None:
        """A training loss: of the step just ended if that has none yet, else of the one under way."""
        if self._ring_lacks_loss:
            self._ring_lacks_loss = False
            self._writer.amend_ring(self._writer.ring_count - 1, layout.RING_LOSS, loss)
        else:
            self._pending_loss = loss

    def promise_loss(self) -> int:
        """A training loss that is not known yet. Returns the ring's entry that it is to be given to."""
        entry = self._writer.ring_count
        if self._ring_lacks_loss:
            self._ring_lacks_loss = False
            return entry - 1
        self._pending_loss = _PROMISED
        return entry

    def resume_at(self, step: int) -> None:
        """The run goes on after `step` (a resumed run, or a loop that numbers its own steps)."""
        self.step = step
        self._writer.step[self._step_at] = step
        self._writer.commit()

    def close(self) -> None:
        """Close the present phase for good."""
        self._switch(self._phase)
