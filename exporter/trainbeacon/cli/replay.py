"""`trainbeacon replay`: TensorBoard's event files as history for Prometheus."""

from __future__ import annotations

import argparse
import re
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainbeacon.replay.replay import Outcome, Replay

NAME = "replay"
HELP = "turn TensorBoard's event files into history for Prometheus"
_DAY = 86_400.0
#: Prometheus' own default; it deletes older blocks at its start.
_KEPT_DAYS = 15.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("folder", metavar="DIR", help="with event files in it or below it")
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="text for `promtool tsdb create-blocks-from openmetrics` (default: stdout)",
    )
    parser.add_argument(
        "--blocks", metavar="DATA", help="blocks in Prometheus' data folder, made by promtool"
    )
    parser.add_argument(
        "--run", dest="run_name", metavar="NAME", help="the run of all files (default: their folders)"
    )
    parser.add_argument(
        "--label",
        action="append",
        type=_label,
        default=[],
        metavar="NAME=VALUE",
        help="add a label to all, as a scrape would; may be given again",
    )
    parser.add_argument("--scratch", metavar="DIR", help="for the temporary file (default: the system's)")


def run(arguments: argparse.Namespace) -> int:
    """Read and write; 1 if something could not be read, 2 if nothing was written."""
    import sqlite3
    import subprocess

    from trainbeacon.replay.events import MissingPackageError
    from trainbeacon.replay.replay import Replay

    try:
        with Replay(
            arguments.folder,
            run=arguments.run_name,
            labels=dict(arguments.label),
            scratch=arguments.scratch,
            progress=_Progress(),
        ) as replay:
            replay.read()
            outcome = replay.outcome
            if outcome.runs:
                _write(replay, arguments)
    except (OSError, ValueError, MissingPackageError, sqlite3.Error) as error:
        print(f"trainbeacon replay: {error}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        print(f"trainbeacon replay: promtool: {error.stderr.strip()}", file=sys.stderr)
        return 2
    return _say(outcome)


def _write(replay: Replay, arguments: argparse.Namespace) -> None:
    from trainbeacon.stack import binaries

    if arguments.blocks:
        promtool = binaries.find().promtool
        if promtool is None:
            raise ValueError("--blocks needs promtool; in a checkout of TrainBeacon: make tools")
        replay.write_blocks(arguments.blocks, str(promtool))
    elif arguments.out:
        with open(arguments.out, "w", encoding="utf-8") as file:
            replay.write_text(file)
    else:
        with open(sys.stdout.fileno(), "w", encoding="utf-8", closefd=False) as file:
            replay.write_text(file)


def _say(outcome: Outcome) -> int:
    for sentence in outcome.complaints:
        print(f"trainbeacon replay: {sentence}", file=sys.stderr)
    if not outcome.runs:
        print(f"trainbeacon replay: no scalars in {outcome.files} event files", file=sys.stderr)
        return 2
    print(
        f"{outcome.samples} samples of {len(outcome.runs)} runs from {outcome.files} event files, "
        f"{_day(outcome.oldest)} to {_day(outcome.newest)}",
        file=sys.stderr,
    )
    days = (time.time() - outcome.oldest) / _DAY
    if days > _KEPT_DAYS:
        print(
            f"the oldest is {days:.0f} days old: Prometheus deletes what is older than 15 days "
            f"unless it runs with --storage.tsdb.retention.time={int(days) + 2}d or more",
            file=sys.stderr,
        )
    return 1 if outcome.complaints else 0


def _day(timestamp: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(timestamp))


class _Progress:
    """At most one line every two seconds."""

    def __init__(self) -> None:
        self._next = time.monotonic() + 2.0

    def __call__(self, line: str) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + 2.0
            print(f"trainbeacon replay: {line}", file=sys.stderr)


def _label(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", name) or name.startswith("__"):
        raise argparse.ArgumentTypeError(f"{text!r} is no label: give NAME=VALUE, as cluster=east")
    if name in {"run", "rank", "split", "name", "group"}:
        raise argparse.ArgumentTypeError(f"{name} is a label of the series' own")
    return name, value
