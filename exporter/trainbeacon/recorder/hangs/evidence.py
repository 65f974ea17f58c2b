"""Watches one rank for a stall, and keeps the evidence: once a stall, in a thread of its own."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from trainbeacon import catalogue
from trainbeacon.blackbox import format as layout
from trainbeacon.blackbox.directory import default_directory, open_directory
from trainbeacon.blackbox.reader import BoxDirectory
from trainbeacon.recorder.core.recorder import Recorder, log
from trainbeacon.recorder.core.threads import start_thread
from trainbeacon.recorder.hangs import collect, diagnosis
from trainbeacon.recorder.hangs.stack_signal import StackSignal
from trainbeacon.recorder.hangs.stall_clock import StallClock
from trainbeacon.recorder.hangs.store import DIRECTORY_SLOT, HELD_SUFFIX, Store
from trainbeacon.recorder.hangs.watchdog import DUMPS_ARE_SAFE, Watchdog
from trainbeacon.recorder.probes.collectives import CollectivesProbe

#: Longest label that a reader takes.
_LABEL_LIMIT = 256


class HangReporter:
    """The evidence of one rank.

    Args:
        recorder: of the rank.
        collectives: the probe whose counts are written down, if it is on.

    Raises:
        OSError: the directory cannot be had.
    """

    def __init__(self, recorder: Recorder, collectives: CollectivesProbe | None) -> None:
        config = recorder.config
        self._recorder = recorder
        self._collectives = collectives
        self._boxes = config.directory or default_directory()
        self._store = self._open_store()
        recorder.identified.append(self._is_of_another_rank)
        directory = self._store.directory
        self._clock = StallClock(config.evidence_seconds, time.monotonic())
        self._watchdog = Watchdog(*self._store.create(HELD_SUFFIX))
        self._writes: threading.Thread | None = None
        if len(directory) <= _LABEL_LIMIT:
            recorder.writer.slots[recorder.writer.declare(DIRECTORY_SLOT, [directory])] = 1.0
        self._signal = StackSignal.install(recorder, self._store)
        if self._watchdog.stands_down:
            why = "is in use" if DUMPS_ARE_SAFE else "is not safe before Python 3.11"
            log.info("faulthandler's timer %s: a held interpreter will leave no stacks of this rank", why)

    def _open_store(self) -> Store:
        recorder = self._recorder
        named, rank = recorder.config.evidence_dir, recorder.identity.rank
        if named:
            return Store.make(named, recorder.run, rank)
        return Store.beside(self._boxes, recorder.run, rank)

    def _is_of_another_rank(self) -> None:
        self._store = self._store.of(self._recorder.run, self._recorder.identity.rank)

    def poll(self) -> None:
        """Look whether the rank is stalled; for the background thread, once a second."""
        step = self._recorder.writer.step
        index = self._recorder.index
        phase = self._phase()
        steps = _number(step[index["training_steps_total", ()]])
        spent = _number(step[index["training_step_duration_seconds", (layout.HISTOGRAM_SUM,)]])
        mean = spent / steps if steps else 0.0
        self._watchdog.keep(self._clock.limit(phase, mean))
        held = self._watchdog.take()
        if held:
            self._write(self._watchdog_seconds(phase, mean), held.splitlines())
            return
        begun = _number(step[index[layout.PHASE_START, ()]])
        stalled_for = self._clock.poll(time.monotonic(), steps, phase, begun, mean)
        if stalled_for is not None:
            self._write(stalled_for, None)

    def stop(self) -> None:
        """End the watch; for the thread that ends the run."""
        self._watchdog.stop()
        if self._signal is not None:
            self._signal.remove()

    def _phase(self) -> str:
        number = self._recorder.writer.step[self._recorder.index[layout.PHASE_INDEX, ()]]
        return catalogue.PHASES[int(number)] if number == number else "init"

    def _watchdog_seconds(self, phase: str, mean: float) -> float:
        return self._clock.limit(phase, mean)

    def _write(self, stalled_for: float, held: list[str] | None) -> None:
        """Collect and write in a thread of its own: a slow file system must not stop the heartbeat."""
        if self._writes is not None and self._writes.is_alive():
            return
        work: Callable[[], None] = lambda: self._recorder.guard("helper", self._keep, stalled_for, held)  # noqa: E731
        self._writes = start_thread("trainbeacon-evidence", work)

    def _keep(self, stalled_for: float, held: list[str] | None) -> None:
        path = self._store.write(self._document(stalled_for, held))
        self._recorder.add("training_hang_evidence_total", 1.0)
        log.warning("no progress for %.0f s: evidence in %s (trainbeacon stacks shows it)", stalled_for, path)

    def _document(self, stalled_for: float, held: list[str] | None) -> dict[str, Any]:
        recorder = self._recorder
        step = recorder.writer.step
        groups = self._collectives.groups if self._collectives is not None else ()
        recorded: list[dict[str, Any]] = []
        with contextlib.suppress(Exception):  # private calls: their form may change with torch
            recorded = collect.flight_recorder(groups) if groups else []
        judged = self._judge(held is not None)
        return {
            "version": 1,
            "run": recorder.run,
            "rank": recorder.identity.rank,
            "attempt": recorder.identity.attempt,
            "host": recorder.identity.hostname,
            "pid": os.getpid(),
            "time": time.time(),
            "class": judged.kind,
            "suspects": list(judged.ranks),
            "reason": judged.text,
            "seconds_without_step": round(stalled_for, 3),
            "step": recorder.timeline.step,
            "phase": self._phase(),
            "phase_seconds": round(
                time.monotonic() - _number(step[recorder.index[layout.PHASE_START, ()]]), 3
            ),
            "collectives": collect.collectives(groups),
            "open": collect.open_collectives(recorded),
            "main_thread": collect.main_thread(),
            "workers": collect.workers(),
            "interpreter_held": held is not None,
            "stacks": held if held is not None else collect.stacks(),
            "flight_recorder": recorded,
        }

    def _judge(self, held: bool) -> diagnosis.HangDiagnosis:
        """The class, from the ranks of this node."""
        recorder = self._recorder
        if held:
            rank = recorder.identity.rank
            return diagnosis.HangDiagnosis(
                diagnosis.LOST, (rank,), f"rank {rank}: its interpreter was held, or it was stopped"
            )
        # The box of this very process is read through its mapping: see blackbox.writer.
        folder = open_directory(recorder.config.directory)
        try:
            return diagnosis.judge(diagnosis.views(BoxDirectory(folder).scan(), recorder.run))
        finally:
            os.close(folder)


def _number(value: float) -> float:
    """The value of a slot, 0 where it was never written."""
    return value if value == value else 0.0
