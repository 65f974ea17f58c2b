"""One attempt of a run that may be killed at any moment: `python resumed.py SETTINGS` (JSON).

A training without a framework: every part of it is a sleep, and what the script does is written to a log
of its own, one event a line with the time of the machine, from which the truth is worked out. The
checkpoint is a file with the number of its step.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import trainbeacon
from trainbeacon.recorder.api import beacon as api
from trainbeacon.recorder.goodput import accounting
from trainbeacon.recorder.goodput import tracker as goodput

Settings = dict[str, Any]


class Events:
    """What happened, in the order of time; whole lines, also if the process is killed."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, event: str, step: int = 0, moment: float | None = None) -> None:
        moment = time.time() if moment is None else moment
        os.write(self._descriptor, f"{moment:.6f} {event} {step}\n".encode())


class Training:
    """The loop, with sleeps of random length from the seed of the attempt."""

    def __init__(self, settings: Settings, beacon: trainbeacon.Beacon, events: Events) -> None:
        self._settings = settings
        self._beacon = beacon
        self._events = events
        self._random = random.Random(settings["seed"])
        self._checkpoint = Path(settings["checkpoint"])

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds * self._random.uniform(0.5, 1.5))

    def run(self) -> None:
        resumed = self._resume()
        for number, _ in enumerate(self._beacon.batches(self._loader(resumed)), resumed + 1):
            with self._beacon.step(samples=4):
                self._step(number)
            self._events.note("end", number)
            if number % self._settings["evaluate_every"] == 0:
                self._pause("evaluate", number)
            if number % self._settings["checkpoint_every"] == 0:
                self._pause("checkpoint", number)

    def _resume(self) -> int:
        with self._beacon.phase("resume"):
            self.sleep(self._settings["init"])
            step = int(self._checkpoint.read_text()) if self._checkpoint.exists() else 0
        self._events.note("resumed", step)
        if self._settings["tells"]:
            self._beacon.resume(step)
        return step

    def _loader(self, resumed: int) -> Any:
        for number in range(resumed, self._settings["steps"]):
            self._events.note("wait", number + 1)
            self.sleep(self._settings["data_wait"])
            self._events.note("begin", number + 1)
            yield [0] * 4

    def _step(self, number: int) -> None:
        for phase in ("forward", "backward"):
            with self._beacon.phase(phase):
                self.sleep(self._settings["step"] / 2)
        if number == self._settings.get("stall_at"):
            time.sleep(self._settings["stall"])

    def _pause(self, what: str, number: int) -> None:
        self._events.note(what, number)
        if what == "evaluate":
            with self._beacon.evaluate():
                self.sleep(self._settings["evaluate"])
        else:
            with self._beacon.checkpoint(self._checkpoint):
                self.sleep(self._settings["save"])
                temporary = self._checkpoint.with_suffix(".new")
                temporary.write_text(str(number))
                temporary.replace(self._checkpoint)
        self._events.note("back", number)


def main() -> None:
    settings: Settings = json.loads(sys.argv[1])
    api.BackgroundLoop = partial(api.BackgroundLoop, interval=settings["turn"])
    goodput.LEAST_SECONDS = settings["write"]
    accounting.STALL_SECONDS = settings["stall_limit"]
    events = Events(settings["events"])
    entered = time.time()
    with trainbeacon.start(
        run="resumed", serve="off", directory=settings["boxes"], state_file=settings["state_file"]
    ) as beacon:
        began = beacon.recorder.start  # an attempt is what is recorded; what was before is idle
        assert entered <= began <= time.time()
        events.note("start", moment=began)
        print("ready", flush=True)
        Training(settings, beacon, events).run()
        time.sleep(settings["tail"])
        events.note("over")


if __name__ == "__main__":
    main()
