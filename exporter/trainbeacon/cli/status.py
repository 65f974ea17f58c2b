"""`trainbeacon status`: how what `trainbeacon up` has started is."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainbeacon.stack.up.client import Status

NAME = "status"
HELP = "say how what `trainbeacon up` has started is: servers, runs, alerts, messages"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("--json", action="store_true", help="for programs")


def run(arguments: argparse.Namespace) -> int:
    """Print it: 0 if all is well, 1 if a server does not answer, 3 if nothing is up."""
    from trainbeacon.stack.up import client
    from trainbeacon.stack.up.state import State

    found = client.look(State())
    if arguments.json:
        print(json.dumps(None if found is None else asdict(found), indent=1))
    elif found is None:
        print("nothing is up: trainbeacon up")
    else:
        print("\n".join(_lines(found)))
    return 3 if found is None else 0 if found.is_good else 1


def _lines(found: Status) -> Iterator[str]:
    from trainbeacon.verdict.durations import duration

    note, now = found.note, time.time()
    size = f"{found.data_bytes / 1e6:.0f} MB of data"
    yield f"up for {duration(now - note.started)} (process {note.pid}), {size}"
    for name, url in sorted(note.urls.items()):
        yield f"{name:<14}{url}  {'answers' if found.ready.get(name) else 'DOES NOT ANSWER'}"
    seen = found.watchdog_at
    through = "not yet" if seen is None else f"{duration(now - seen)} ago"
    yield f"{'messages':<14}to {note.addresses} address(es); sign of life through Alertmanager: {through}"
    runs = ", ".join(f"{run} ({ranks} ranks at work)" for run, ranks in found.runs.items())
    yield f"{'runs':<14}{runs or 'none'}"
    for url, health, error in found.targets:
        yield f"{'exporter':<14}{url}  {health}{f': {error}' if error else ''}"
    for alert in found.firing:
        labels, notes = alert["labels"], alert["annotations"]
        who = " ".join(f"{name} {labels[name]}" for name in ("run", "rank", "gpu") if labels.get(name))
        yield f"{'fires':<14}{labels.get('severity', '').upper()} {notes.get('summary', '')} {who}".rstrip()
    for at, text in note.events[-10:]:
        yield f"{'event':<14}{time.strftime('%H:%M:%S', time.localtime(at))}  {text}"
