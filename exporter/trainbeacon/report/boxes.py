"""A run from the black boxes on this machine: its last steps, and what its ranks said last."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Sequence

from trainbeacon.blackbox.box import Box, latest_started
from trainbeacon.blackbox.reader import BoxDirectory
from trainbeacon.report.record import Mark, Point, Record, add_facts, conclude, thinned
from trainbeacon.terminal.sources.boxes import BoxSource
from trainbeacon.terminal.watch import Watch

_WINDOWS = 24
#: Steps after the start that are not what comes later: compilation, warm-up, the first batches.
_WARM_UP = 10
_PATIENCE = 10.0


def runs_of(directories: Iterable[str]) -> dict[str, list[str]]:
    """The runs with boxes there, each with the folders that hold them."""
    found: dict[str, list[str]] = {}
    for directory in directories:
        for run in sorted({box.identity.run for box in _boxes(directory)}):
            found.setdefault(run, []).append(directory)
    return found


def record_of(run: str, directories: Sequence[str]) -> Record:
    """The record of a run. Blocks for a second or two."""
    now = time.time()
    record = Record(run, f"black boxes in {', '.join(directories)}", now)
    boxes = [box for directory in directories for box in _boxes(directory) if box.identity.run == run]
    last = latest_started(boxes, now)
    if last:
        first = min(last.values(), key=lambda box: box.identity.rank)
        _add_curves(record, first)
        _add_windows(record, first, len(last))
        _add_rest(record, boxes, first)
    watch = Watch([BoxSource(each) for each in directories], 1.0)
    try:
        sight = watch.look(_PATIENCE)
    finally:
        watch.close()
    add_facts(record, sight.facts, sight.findings)
    conclude(record)
    return record


def _boxes(directory: str) -> list[Box]:
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        return BoxDirectory(descriptor).scan(ring=True)
    finally:
        os.close(descriptor)


def _add_curves(record: Record, box: Box) -> None:
    for name, values in (
        ("training loss", [(each, each.loss) for each in box.ring]),
        ("gradient norm", [(each, each.gradient_norm) for each in box.ring]),
        ("seconds a step", [(each, each.duration) for each in box.ring]),
    ):
        points = [
            Point(each.timestamp, float(each.step), value)
            for each, value in values
            if value is not None and math.isfinite(value)
        ]
        if points:
            record.curves[name] = thinned(points)
    if box.ring and box.ring[0].step > 1:
        record.gaps.append(
            f"curves begin with step {box.ring[0].step}: a black box keeps the last 1,024 steps"
        )


def _add_windows(record: Record, box: Box, world: int) -> None:
    steps = [each.duration for each in box.ring if each.step > _WARM_UP and each.duration > 0]
    size = len(steps) // _WINDOWS
    if size < 1:
        return
    parts = [steps[start : start + size] for start in range(0, size * _WINDOWS, size)]
    record.windows["seconds_per_step"] = [sum(part) / len(part) for part in parts]
    samples, made = box.number("training_samples_total"), box.number("training_steps_total")
    if samples and made:
        world = int(box.number("training_world_size") or world)
        record.samples_per_step = samples / made * world
        record.windows["samples_per_second"] = [
            record.samples_per_step * len(part) / sum(part) for part in parts
        ]


def _add_rest(record: Record, boxes: Sequence[Box], first: Box) -> None:
    starts = sorted({box.identity.start for box in boxes if box.identity.rank == first.identity.rank})
    record.begins = starts[0]
    record.marks += [Mark(at, "restart", f"attempt {number}") for number, at in enumerate(starts[1:], 2)]
    ends = [box.end for box in boxes if box.end]
    if ends and not any(box.held for box in boxes):
        record.ends = max(ends)
    saved = first.number("training_checkpoint_last_success_timestamp_seconds")
    if saved:
        record.marks.append(Mark(saved, "checkpoint", "last checkpoint"))
    for name in ("training_run_seconds", "training_goodput_seconds_total"):
        parts = {
            labels[-1]: value for (metric, labels), value in first.values.items() if metric == name and labels
        }
        if parts and not record.seconds:
            record.seconds = {kind: value for kind, value in parts.items() if value > 0}
    for metric, labels in first.infos:
        if metric == "training_hyperparameter_info" and len(labels) == 2:
            record.hyperparameters[labels[0]] = labels[1]
        elif metric == "training_run_info" and len(labels) == 5:
            record.environment.update(
                zip(("run_id", "project", "owner", "launcher", "framework"), labels, strict=True)
            )
        elif metric == "training_run_tag_info" and len(labels) == 2:
            record.environment[f"tag {labels[0]}"] = labels[1]
    record.gaps.append(
        "incidents and restarts before the boxes that are kept are not known here: --prometheus has them"
    )
