"""One rank, for tests: `python rank.py SETTINGS` with the settings of `trainbeacon.start` as JSON.

Records the scripted job (setting `script`) or nothing yet, says `ready`, and obeys a command a line:

    step N        make N steps                     answers the step
    raise         raise ConnectionError inside the run
    exit          leave without finish
    finish        leave the run well, and end
    again         start a second run in this process  answers its name
    fork          start a loader worker that outlives this process  answers its pid
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import trainbeacon
from trainbeacon.testing import ScriptedJob


def fork() -> int:
    """What a DataLoader's worker is: a forked child that has all our descriptors and sleeps on."""
    child = os.fork()
    if child == 0:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        time.sleep(60)
        os._exit(0)
    return child


def obey(beacon: trainbeacon.Beacon, settings: dict[str, Any]) -> None:
    for line in iter(sys.stdin.readline, ""):
        command, *arguments = line.split()
        if command == "step":
            for _ in range(int(arguments[0])):
                with beacon.step(samples=1):
                    pass
            print(beacon.timeline.step, flush=True)
        elif command == "raise":
            raise ConnectionError("peer is gone")
        elif command == "exit":
            sys.exit(3)
        elif command == "finish":
            return
        elif command == "again":
            beacon = trainbeacon.start(**{**settings, "run": "second"})
            print(beacon.run, flush=True)
        elif command == "fork":
            print(fork(), flush=True)


def main() -> None:
    settings = json.loads(sys.argv[1])
    if settings.pop("script", False):
        job = ScriptedJob(settings.pop("run"))
        with job.start(**settings) as beacon:
            job.record(beacon, settings["directory"])
            print("ready", flush=True)
            obey(beacon, settings)
    elif settings.pop("bare", False):
        beacon = trainbeacon.start(**settings)
        print("ready", flush=True)
        obey(beacon, settings)
    else:
        with trainbeacon.start(**settings) as beacon:
            print("ready", flush=True)
            obey(beacon, settings)


if __name__ == "__main__":
    main()
