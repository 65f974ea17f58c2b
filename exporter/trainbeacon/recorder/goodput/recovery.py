"""What became of an attempt after it last wrote the state of its run, from the black box that it left.

The state file is renewed once a second at best. Where the process died on this machine its box is still
there, and knows every step and phase up to the end. A box that is gone or makes no sense leaves the state
as it is: the seconds after the last writing are then idle.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from math import isfinite

from trainbeacon import catalogue
from trainbeacon.blackbox import format as layout
from trainbeacon.blackbox.directory import open_directory
from trainbeacon.blackbox.reader import Box, BoxDirectory
from trainbeacon.recorder.goodput.accounting import BUSY_PHASES, KIND_OF_PHASE
from trainbeacon.recorder.goodput.run_state import RunState

#: A box that goes on for longer than that after the last writing is not the one that wrote.
MOST_SECONDS = 3600.0


def recover_from_box(state: RunState, directory: str | None, run: str) -> RunState:
    """The state of the run at the end of the attempt that wrote it; for a thread that may touch files."""
    box = _box_of(state, directory, run) if state.attempt.box else None
    if box is None:
        return state
    end = _last_sign(box)
    if not state.written < end < state.written + MOST_SECONDS:
        return state
    found = _advanced(state, box, end)
    return found if all(map(isfinite, (*found.seconds.values(), found.pending))) else state


def _box_of(state: RunState, directory: str | None, run: str) -> Box | None:
    try:
        descriptor = open_directory(directory)
    except OSError:
        return None
    try:
        boxes = BoxDirectory(descriptor).scan(ring=True)
    finally:
        os.close(descriptor)
    for box in boxes:
        if (
            box.name == state.attempt.box
            and box.identity.run == run
            and box.identity.start == state.attempt.start
        ):
            return box
    return None


def _last_sign(box: Box) -> float:
    """Unix time of the last thing that the box tells."""
    names = ("training_phase_start_timestamp_seconds", "training_last_step_timestamp_seconds")
    return max(box.last_sign, *(box.number(name) or 0.0 for name in names))


def _advanced(state: RunState, box: Box, end: float) -> RunState:
    """The state with what was done between the last writing and `end`."""
    then, (totals, open_wait) = state.attempt, _phases(box, end)
    grown = {phase: max(0.0, totals[phase] - then.phases.get(phase, 0.0)) for phase in totals}
    seconds = dict(state.seconds)
    for phase, kind in KIND_OF_PHASE.items():
        seconds[kind] = seconds.get(kind, 0.0) + grown[phase]
    busy = sum(grown[phase] for phase in BUSY_PHASES)
    counted = box.number("training_steps_total") or 0.0
    steps = int(counted) if isfinite(counted) else 0
    if not then.steps:  # it was written before the first step: the second since then counts as that
        seconds["init"] += busy
        return replace(state, written=end, seconds=seconds)
    waited = totals["data_wait"] - then.at_step.get("data_wait", 0.0) - open_wait
    waited += sum(grown[phase] for phase, kind in KIND_OF_PHASE.items() if kind == "init")
    durations = _durations(box, steps - then.steps)
    made = sum(min(duration, then.limit) for duration in durations)
    stalled = max(0.0, sum(durations) - made - _stalled_then(state))
    done = max(0.0, min(state.pending + busy - stalled, made - max(0.0, waited)))
    rest = max(0.0, state.pending + busy - stalled - done)
    seconds["productive"] = seconds.get("productive", 0.0) + done
    seconds["stalled"] = seconds.get("stalled", 0.0) + stalled + max(0.0, rest - then.limit)
    step = state.step + max(0, steps - then.steps)
    pending, furthest = min(rest, then.limit), max(state.furthest, step)
    return replace(state, written=end, seconds=seconds, pending=pending, step=step, furthest=furthest)


def _stalled_then(state: RunState) -> float:
    """Stalled seconds of the step that was under way at the last writing: they are counted."""
    then = state.attempt
    open_seconds = sum(then.phases.get(name, 0.0) - then.at_step.get(name, 0.0) for name in BUSY_PHASES)
    return max(0.0, open_seconds - then.limit)


def _phases(box: Box, end: float) -> tuple[Mapping[str, float], float]:
    """Seconds of each phase up to `end`, and for how long the rank was waiting for data then."""
    totals = {phase: box.number("training_phase_seconds_total", phase) or 0.0 for phase in catalogue.PHASES}
    number, start = box.number(layout.PHASE_INDEX), box.number("training_phase_start_timestamp_seconds")
    if number is None or start is None or not 0 <= number < len(catalogue.PHASES):
        return totals, 0.0
    present, lasting = catalogue.PHASES[int(number)], max(0.0, end - start)
    totals[present] += lasting
    return totals, lasting if present == "data_wait" else 0.0


def _durations(box: Box, steps: int) -> list[float]:
    """Seconds of the last steps, with their waiting for data; the mean for those that the ring has lost."""
    if steps <= 0:
        return []
    recent = [max(0.0, entry.duration) for entry in box.ring[-steps:]]
    missing = min(steps - len(recent), 1 << 20) if recent else 0
    return recent + [sum(recent) / len(recent)] * missing if missing else recent
