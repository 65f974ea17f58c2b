"""What the commands `up`, `down` and `status` do: start the supervisor, join it, ask it, end it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainbeacon.stack import binaries, debian, processes, web
from trainbeacon.stack.receiver import WATCHDOG
from trainbeacon.stack.up.state import Note, State
from trainbeacon.stack.up.supervisor import Options

_SECONDS_TO_START = 120.0
_SECONDS_TO_END = 60.0
DOWNLOADS = (
    "Prometheus and Alertmanager are not on the PATH and Debian's packages cannot be had here ({reason}): "
    "get both from https://prometheus.io/download/ and put `prometheus` and `alertmanager` on the PATH"
)


class UpError(RuntimeError):
    """Why it is not up; the text says what to do."""


def provide(say: Callable[[str], None]) -> None:
    """Have the programs at hand, unpacked from Debian's packages where they are not. Raises UpError.

    Blocks for a minute or two where they must be fetched.
    """
    if binaries.find().complete:
        return
    try:
        debian.provide("default", say)
    except (debian.NotAvailableError, OSError) as error:
        raise UpError(DOWNLOADS.format(reason=error)) from error
    if not binaries.find().complete:
        raise UpError(DOWNLOADS.format(reason="what was unpacked does not run"))


def start(state: State, options: Options) -> Note:
    """Start the supervisor in the background; returns what it says once it is up. Raises UpError."""
    state.make()
    log = state.folder / "up.log"
    line = [sys.executable, "-m", "trainbeacon", "up", "--foreground", *_as_arguments(options)]
    with log.open("ab") as file:
        child = subprocess.Popen(
            line, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
    try:
        note = _wait_for_note(state, child)
    except KeyboardInterrupt:
        child.terminate()
        child.wait()
        raise
    if note is None:
        child.terminate()
        child.wait()
        raise UpError(f"it did not start; the end of {log}:\n{processes.last_lines(log)}")
    return note


def _wait_for_note(state: State, child: subprocess.Popen[bytes]) -> Note | None:
    def settled() -> bool:
        note = state.read_note()
        return child.poll() is not None or (note is not None and note.pid == child.pid)

    processes.wait_until(settled, _SECONDS_TO_START)
    note = state.read_note()
    if child.poll() == 3 and note is None:  # another one was a moment quicker: its note will come
        processes.wait_until(lambda: state.read_note() is not None, _SECONDS_TO_START)
        note = state.read_note()
    return note


def _as_arguments(options: Options) -> list[str]:
    line = [f"--interval={options.interval:g}", f"--keep={options.keep}", f"--keep-size={options.keep_size}"]
    line += [f"--{name}-port={port}" for name, port in options.ports]
    return [*line, *(["--notify-finished"] if options.finished else [])]


def join(state: State, addresses: Sequence[str]) -> list[str]:
    """Hand further addresses to the supervisor that runs; returns those that it did not have."""
    known = state.addresses()
    new = [each for each in dict.fromkeys(addresses) if each not in known]
    if new:
        state.write_addresses([*known, *new])
        if (note := state.read_note()) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(note.pid, signal.SIGHUP)
    return new


def stop(state: State) -> bool:
    """End the supervisor and all that it started; returns whether one was running. Raises UpError."""
    if not state.is_running:
        return False
    note = state.read_note()
    deadline = time.monotonic() + _SECONDS_TO_END
    while note is None and state.is_running and time.monotonic() < deadline:
        time.sleep(0.1)  # it is starting
        note = state.read_note()
    if note is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(note.pid, signal.SIGTERM)
    if not processes.wait_until(lambda: not state.is_running, _SECONDS_TO_END):
        who = f"process {note.pid}" if note is not None else "the process that holds up.lock"
        raise UpError(f"{who} does not end: end it with SIGKILL, its servers end with it")
    state.write_addresses([])
    return True


@dataclass
class Status:
    """How what is up is."""

    note: Note
    ready: dict[str, bool] = field(default_factory=dict)
    """Of each server, whether it answers."""
    targets: list[tuple[str, str, str]] = field(default_factory=list)
    """Address, health and last error of each exporter that is scraped."""
    runs: dict[str, int] = field(default_factory=dict)
    """Ranks at work, by run."""
    firing: list[dict[str, Any]] = field(default_factory=list)
    watchdog_at: float | None = None
    """When the sign of life last came all the way through Alertmanager."""
    data_bytes: int = 0

    @property
    def is_good(self) -> bool:
        """Whether every server answers."""
        return all(self.ready.values())


def look(state: State) -> Status | None:
    """How it is now; None where nothing is up. Blocks for some seconds at most."""
    note = state.read_note()
    if note is None:
        return None
    status = Status(note)
    paths = {"grafana": "/api/health"}
    for name, url in sorted(note.urls.items()):
        status.ready[name] = web.answers(url + paths.get(name, "/-/ready"))
    prometheus = note.urls["prometheus"]
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        for each in web.get_json(f"{prometheus}/api/v1/targets", state="active")["data"]["activeTargets"]:
            if each["labels"].get("job") == "trainbeacon":
                status.targets.append((each["scrapeUrl"], each["health"], each["lastError"]))
        query = 'count by (run) (training_state{state="running"} == 1)'
        for each in web.get_json(f"{prometheus}/api/v1/query", query=query)["data"]["result"]:
            status.runs[each["metric"].get("run", "")] = int(float(each["value"][1]))
        alerts = web.get_json(f"{prometheus}/api/v1/alerts")["data"]["alerts"]
        status.firing = [
            each for each in alerts if each["state"] == "firing" and each["labels"]["alertname"] != WATCHDOG
        ]
    status.watchdog_at = _last_watchdog(state)
    with contextlib.suppress(OSError):
        status.data_bytes = state.size()
    return status


def _last_watchdog(state: State) -> float | None:
    last = None
    with contextlib.suppress(OSError, ValueError, KeyError):
        for line in (state.folder / "messages.jsonl").read_text("utf-8").splitlines():
            kept = json.loads(line)
            if kept["alert"] == WATCHDOG:
                last = float(kept["time"])
    return last
