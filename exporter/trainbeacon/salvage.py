"""What became of an attempt after it last wrote the state of its run, from the black box that it left.

The state file is renewed once a second at best. Where the process died on this machine its box is still
there, and knows every step and phase up to the end. A box that is gone or makes no sense leaves the state
as it is: the seconds after the last writing are then idle.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

from trainbeacon import catalogue
from trainbeacon.blackbox import format as layout
from trainbeacon.blackbox.directory import open_directory
from trainbeacon.blackbox.reader import Box, BoxDirectory
from trainbeacon.ledger import BUSY_PHASES, KIND_OF_PHASE
from trainbeacon.statefile import RunState

#: A box that goes on for longer than that after the last writing is not the one that wrote.
MOST_SECONDS = 3600.0


def salvaged(state: RunState, directory: str | None, run: str) -> RunState:
    """The state of the run at the end of the attempt that wrote it; for a thread that may touch files."""
    box = _box_of(state, directory, run) if state.attempt.box else None
    if box is None:
        return state
    end = _last_sign(box)
    return _advanced(state, box, end) if state.written < end < state.written + MOST_SECONDS else state


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
    steps = int(box.number("training_steps_total") or 0)
    if not then.steps:  # it was written before the first step: the second since then counts as that
        seconds["init"] += busy
        return replace(state, written=end, seconds=seconds)
    if steps <= then.steps and then.stalling:
        seconds["stalled"] = seconds.get("stalled", 0.0) + busy
        return replace(state, written=end, seconds=seconds)
    waited = totals["data_wait"] - then.at_step.get("data_wait", 0.0) - open_wait
    waited += sum(grown[phase] for phase, kind in KIND_OF_PHASE.items() if kind == "init")
    done = min(state.pending + busy, max(0.0, _made(box, then.steps, steps) - max(0.0, waited)))
    seconds["productive"] = seconds.get("productive", 0.0) + done
    step = state.step + max(0, steps - then.steps)
    return replace(
        state,
        written=end,
        seconds=seconds,
        pending=state.pending + busy - done,
        step=step,
        furthest=max(state.furthest, step),
    )


def _phases(box: Box, end: float) -> tuple[Mapping[str, float], float]:
    """Seconds of each phase up to `end`, and for how long the rank was waiting for data then."""
    totals = {phase: box.number("training_phase_seconds_total", phase) or 0.0 for phase in catalogue.PHASES}
    number, start = box.number(layout.PHASE_INDEX), box.number("training_phase_start_timestamp_seconds")
    if number is None or start is None or not 0 <= number < len(catalogue.PHASES):
        return totals, 0.0
    present, lasting = catalogue.PHASES[int(number)], max(0.0, end - start)
    totals[present] += lasting
    return totals, lasting if present == "data_wait" else 0.0


def _made(box: Box, before: int, steps: int) -> float:
    """Seconds of the steps from `before` to the last one, with their waiting for data."""
    wanted = max(0, steps - before)
    recent = [entry.duration for entry in box.ring[-wanted:]] if wanted else []
    return sum(recent) * wanted / len(recent) if recent else 0.0
