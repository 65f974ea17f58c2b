"""A run that is killed again and again, and what its accounts say against what happened.

`crash_and_resume(seed, folder)` kills a real process at random moments, starts it anew, and returns for each
kind of time what the beacon said and what the script's own log of events says. As a campaign:

    python -m tests.diagnosis.resume --runs 20 --seed 1
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainbeacon import catalogue
from trainbeacon.blackbox.directory import open_directory
from trainbeacon.blackbox.reader import Box, BoxDirectory

PROGRAM = Path(__file__).with_name("programs") / "resumed.py"
SETTINGS: dict[str, Any] = {
    "steps": 120,
    "step": 0.03,
    "data_wait": 0.006,
    "evaluate": 0.2,
    "evaluate_every": 25,
    "save": 0.15,
    "checkpoint_every": 18,
    "init": 0.3,
    "tail": 0.3,
    "stall_at": 47,
    "stall": 1.6,
    "stall_limit": 0.8,
    # A run in small: of an hour-long attempt the helper's turn is less, and a minute is the limit of a step.
    "turn": 0.05,
    "write": 1.0,
    "tells": True,
}
LIFE_SECONDS = 60.0


@dataclass
class Truth:
    """What happened, from the events of all attempts."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(catalogue.RUN_KINDS, 0.0))
    line: list[tuple[int, float]] = field(default_factory=list)
    furthest: int = 0
    began: float = 0.0
    ended: float = 0.0
    #: Of the last attempt by itself.
    own: dict[str, float] = field(default_factory=dict)
    repeated: int = 0


@dataclass(frozen=True)
class Result:
    """Said and true seconds by kind: of the run, and of the counters of its last process."""

    seed: int
    elapsed: float
    run: Mapping[str, tuple[float, float]]
    process: Mapping[str, tuple[float, float]]
    lost_steps: tuple[float, float]
    elapsed_said: float
    kills: Sequence[float]
    #: Between the last writing of the state and the kill, of all kills: without the box nobody knows of it.
    unseen: float

    def errors(self) -> dict[str, float]:
        """The greatest errors by kind, of run and process, as a share of their time."""
        life = sum(true for _, true in self.process.values())
        own = {kind: abs(said - true) / life for kind, (said, true) in self.process.items()}
        run = {kind: abs(said - true) / self.elapsed for kind, (said, true) in self.run.items()}
        return {kind: max(error, own.get(kind, 0.0)) for kind, error in run.items()}


def crash_and_resume(
    seed: int, folder: Path, *, kills: int = 3, elsewhere: bool = False, **settings: Any
) -> Result:
    """Run it, with that many kills.

    Args:
        elsewhere: whether each attempt runs on another machine, where the box of the last one is not.
        settings: in place of `SETTINGS`.
    """
    chance = random.Random(seed)
    # What no other machine saw, since the last writing of the state, is all that may be missing.
    small = {"write": 0.02, "turn": 0.02} if elsewhere else {}
    given = {**SETTINGS, **small, **settings, "state_file": str(folder / "state.json")}
    given["checkpoint"] = str(folder / "checkpoint")
    truth, moments, unseen = Truth(), [], 0.0
    for attempt in range(kills + 1):
        boxes = folder / (f"boxes-{attempt}" if elsewhere else "boxes")
        boxes.mkdir(exist_ok=True)
        events = folder / f"events-{attempt}"
        given |= {"boxes": str(boxes), "events": str(events), "seed": chance.random()}
        moment = chance.uniform(1.0, 3.0) if attempt < kills else None
        ended = _attempt(given, moment)
        moments.append(moment or 0.0)
        if elsewhere and ended is not None:
            unseen += ended - (folder / "state.json").stat().st_mtime
        _add(truth, list(_events(events)), ended, given["stall_limit"])
    box = _last_box(boxes)
    return Result(
        seed=seed,
        elapsed=truth.ended - truth.began,
        run={k: (_said(box, "training_run_seconds", k), truth.seconds[k]) for k in catalogue.RUN_KINDS},
        process={
            k: (_said(box, "training_goodput_seconds_total", k), truth.own[k])
            for k in catalogue.GOODPUT_KINDS
        },
        lost_steps=(_said(box, "training_lost_steps_total"), float(truth.repeated)),
        elapsed_said=_said(box, "training_elapsed_seconds"),
        kills=moments[:kills],
        unseen=unseen,
    )


def _attempt(settings: Mapping[str, Any], moment: float | None) -> float | None:
    """One process; killed that many seconds after it is ready. Returns the time of the kill."""
    command = [sys.executable, str(PROGRAM), json.dumps(settings)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            try:
                process.wait(LIFE_SECONDS if moment is None else moment)
            except subprocess.TimeoutExpired:
                assert moment is not None, "the run does not come to its end"
                killed = time.time()
                process.kill()
                process.wait(LIFE_SECONDS)
                return killed
            assert process.returncode == 0
            return None
        finally:
            process.kill()


def _events(path: Path) -> Iterator[tuple[float, str, int]]:
    for line in path.read_text().splitlines():
        moment, event, step = line.split()
        yield float(moment), event, int(step)


def _add(truth: Truth, events: list[tuple[float, str, int]], killed: float | None, limit: float) -> None:
    """The story of one attempt. A step lasts from the end of the one before, without the pauses in it."""
    start = events[0][0]
    if truth.ended:
        truth.seconds["idle"] += start - truth.ended
    else:
        truth.began = start
    own = dict.fromkeys(catalogue.GOODPUT_KINDS, 0.0)
    busy, steps, productive = 0.0, 0, 0.0
    made: list[tuple[int, float]] = []
    end = killed if killed is not None else events[-1][0]
    times = [*(moment for moment, _, _ in events[1:]), end]
    for (moment, event, step), until in zip(events, times, strict=True):
        until = min(until, end)
        seconds = max(0.0, until - moment)
        if event == "resumed":
            _roll_back(truth, step)
        if event == "end":
            stalled = _stalled(busy, steps, productive, limit)
            own["stalled"] += stalled
            made.append((step, busy - stalled if steps else 0.0))
            own["init"] += 0.0 if steps else busy
            productive += made[-1][1]
            busy, steps = 0.0, steps + 1
        kind = {"wait": "data_wait", "evaluate": "evaluate", "checkpoint": "checkpoint"}.get(event)
        if kind is not None:
            own[kind] += seconds
        else:
            busy += seconds
    stalled = _stalled(busy, steps, productive, limit)
    own["stalled"] += stalled
    _close(truth, own, made, busy - stalled, killed is not None, bool(steps))
    truth.ended = end


def _stalled(busy: float, steps: int, productive: float, limit: float) -> float:
    if not steps:
        return 0.0
    mean = productive / (steps - 1) if steps > 1 else 0.0
    return max(0.0, busy - max(10 * mean, limit))


def _roll_back(truth: Truth, step: int) -> None:
    lost = [seconds for number, seconds in truth.line if number > step]
    truth.seconds["lost"] += sum(lost)
    truth.line = [entry for entry in truth.line if entry[0] <= step]


def _close(
    truth: Truth,
    own: dict[str, float],
    made: list[tuple[int, float]],
    rest: float,
    killed: bool,
    any_step: bool,
) -> None:
    """Enter one attempt into the run's story, and keep what its own counters should say."""
    if killed:
        truth.seconds["lost" if any_step else "init"] += rest
    else:
        own["other"] += rest
    for kind, seconds in own.items():
        truth.seconds[kind] += seconds
    again = [seconds for number, seconds in made if number <= truth.furthest]
    truth.repeated = len(again)
    truth.own = {**own, "lost": sum(again), "productive": sum(seconds for _, seconds in made) - sum(again)}
    truth.line += made
    truth.furthest = max(truth.furthest, *(number for number, _ in made), 0)
    truth.seconds["productive"] = sum(seconds for _, seconds in truth.line)


def _last_box(folder: Path) -> Box:
    descriptor = open_directory(str(folder))
    try:
        return max(BoxDirectory(descriptor).scan(), key=lambda box: box.identity.start)
    finally:
        os.close(descriptor)


def _said(box: Box, metric: str, *labels: str) -> float:
    value = box.number(metric, *labels)
    assert value is not None, metric
    return value


def main() -> None:
    """Repeat it, and print the errors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--elsewhere", action="store_true", help="the boxes of earlier attempts are gone")
    parser.add_argument("--set", default="{}", metavar="JSON", help="settings in place of the usual ones")
    options = parser.parse_args()
    worst: dict[str, float] = {}
    for seed in range(options.seed, options.seed + options.runs):
        with tempfile.TemporaryDirectory() as folder:
            result = crash_and_resume(
                seed,
                Path(folder),
                kills=options.kills,
                elsewhere=options.elsewhere,
                **json.loads(options.set),
            )
        errors = result.errors()
        worst = {kind: max(worst.get(kind, 0.0), error) for kind, error in errors.items()}
        shown = " ".join(f"{kind} {error:.2%}" for kind, error in errors.items())
        print(f"seed {seed}: {result.elapsed:.1f} s, {shown}, lost steps {result.lost_steps}", flush=True)
    print("worst:", " ".join(f"{kind} {error:.2%}" for kind, error in worst.items()))


if __name__ == "__main__":
    main()
