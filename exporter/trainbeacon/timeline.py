"""Phases and steps: what the host is doing now, and how far the run is.

The phases partition the wall time of the process by construction: there is one present phase, and
leaving it adds the time since its start to its total. All methods are for the training thread, take
no lock and make no system call.
"""

from __future__ import annotations

import time
from bisect import bisect_left

from trainbeacon import catalogue
from trainbeacon.blackbox import format as layout
from trainbeacon.blackbox.writer import Writer

PHASE = {name: index for index, name in enumerate(catalogue.PHASES)}
INIT, WARMUP, DATA_WAIT, OTHER = PHASE["init"], PHASE["warmup"], PHASE["data_wait"], PHASE["other"]
EVALUATE, CHECKPOINT = PHASE["evaluate"], PHASE["checkpoint"]

_BUCKETS = catalogue.STEP_BUCKETS

Index = dict[tuple[str, tuple[str, ...]], int]


class Timeline:
    """The clockwork of a beacon, over one black box.

    Attributes:
        wall_offset: Unix time less the monotonic clock; the helper thread keeps it fresh.
        heartbeat: monotonic time of the last heartbeat, written by the helper thread.
        warm: whether a step has been completed.
    """

    def __init__(self, writer: Writer, index: Index) -> None:
        self._writer = writer
        self.wall_offset = time.time() - time.monotonic()
        self.heartbeat = 0.0
        self.warm = False
        self.step = 0
        self.pending_samples = 0
        self.pending_tokens = 0
        self.pending_loss: float | None = None
        self.pending_norm: float | None = None
        self._ring_lacks_loss = False
        self._stack: list[int] = []
        self._excluded = 0.0
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
        for phase in range(len(catalogue.PHASES)):
            values[self._phase_at + phase] = 0.0
        for bucket in range(len(_BUCKETS) + 1):
            values[self._bucket_at + bucket] = 0.0
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

    def leave(self) -> None:
        """End the phase of the last `enter` and go back to the one before."""
        phase, start = self._phase, self._phase_start
        self._switch(self._stack.pop() if self._stack else OTHER)
        if phase in (EVALUATE, CHECKPOINT):
            self._excluded += self._phase_start - start

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
        values = self._writer.step
        values[self._phase_at + self._phase] += now - self._phase_start
        self._phase = phase
        self._phase_start = now
        values[self._now_at] = phase
        values[self._start_at] = now
        values[self._start_time_at] = now + self.wall_offset
        return now

    # Steps

    def end_step(self) -> None:
        """One step is done: count it, with the samples, loss and gradient norm that it had."""
        self.warm = True
        now = self._stamp(self._phase if self._stack else OTHER)
        duration = max(0.0, now - self._step_start - self._excluded)
        self._step_start, self._excluded = now, 0.0
        self.step += 1
        values = self._writer.step
        values[self._step_at] = self.step
        values[self._steps_at] += 1.0
        values[self._last_at] = timestamp = now + self.wall_offset
        values[self._bucket_at + bisect_left(_BUCKETS, duration)] += 1.0
        values[self._sum_at] += duration
        if self.pending_samples:
            self._count(self._samples_at, self.pending_samples)
        if self.pending_tokens:
            self._count(self._tokens_at, self.pending_tokens)
        self.pending_samples = self.pending_tokens = 0
        loss = self.pending_loss
        self._writer.add_to_ring(self.step, timestamp, duration, loss, self.pending_norm)
        self._ring_lacks_loss = loss is None
        self.pending_loss = self.pending_norm = None
        self._writer.commit()

    def take_loss(self, loss: float) -> None:
        """A training loss: of the step just ended if that has none yet, else of the one under way."""
        if self._ring_lacks_loss:
            self._ring_lacks_loss = False
            self._writer.amend_ring(loss)
        else:
            self.pending_loss = loss

    def resume_at(self, step: int) -> None:
        """The run goes on after `step` (a resumed run, or a loop that numbers its own steps)."""
        self.step = step
        self._writer.step[self._step_at] = step
        self._writer.commit()

    def close(self) -> None:
        """Close the present phase for good."""
        self._switch(self._phase)

    def _count(self, at: int, amount: int) -> None:
        values = self._writer.step
        values[at] = amount if values[at] != values[at] else values[at] + amount
