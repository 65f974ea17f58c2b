"""`trainbeacon top`: runs, ranks and GPUs at a glance."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainbeacon.terminal.watch import Watch

NAME = "top"
HELP = "show what runs, ranks and GPUs are at, and what is wrong with them"

#: How long `--once` waits for sources, and between its two looks, from which rates are taken.
_PATIENCE, _BETWEEN = 10.0, 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument(
        "sources",
        nargs="*",
        metavar="URL | DIR",
        help="exporters, folders of black boxes or of discovery files (default: your runs on this machine)",
    )
    parser.add_argument("--prometheus", metavar="URL", help="Prometheus: the whole cluster, with its alerts")
    parser.add_argument(
        "--interval", type=_positive, default=2.0, metavar="S", help="seconds between two looks"
    )
    parser.add_argument("--once", action="store_true", help="print one look as plain text, and end")
    parser.add_argument("--json", action="store_true", help="with --once: as JSON")
    parser.add_argument("--rows", type=int, default=40, metavar="N", help="ranks to print (default 40)")
    parser.add_argument("--ascii", action="store_true", help="draw with ASCII only")
    parser.add_argument("--no-gpu", action="store_true", help="do not read this machine's GPUs through NVML")


def run(arguments: argparse.Namespace) -> int:
    """Show it until somebody quits, or print it once: 0 with runs in sight, 1 without."""
    from trainbeacon.terminal.choose import OwnRuns, sources_for
    from trainbeacon.terminal.watch import Watch

    if arguments.json and not arguments.once:
        print("trainbeacon top: --json goes with --once", file=sys.stderr)
        return 2
    try:
        sources = sources_for(arguments.sources, arguments.prometheus, gpu=not arguments.no_gpu)
    except ValueError as error:
        print(f"trainbeacon top: {error}", file=sys.stderr)
        return 2
    once = arguments.once or not (sys.stdout.isatty() and sys.stdin.isatty())
    if not once and find_spec("textual") is None:
        print(
            "trainbeacon top needs textual: pip install 'trainbeacon[top]' (or give --once)",
            file=sys.stderr,
        )
        return 2
    find = None if sources else OwnRuns(gpu=not arguments.no_gpu)
    watch = Watch(sources, arguments.interval, find=find)
    try:
        return _once(arguments, watch) if once else _screen(arguments, watch)
    finally:
        watch.close()


def _screen(arguments: argparse.Namespace, watch: Watch) -> int:
    from trainbeacon.terminal.screen.app import run as show
    from trainbeacon.terminal.signs import signs_for

    return show(watch, signs_for(sys.stdout.encoding, only_ascii=arguments.ascii))


def _once(arguments: argparse.Namespace, watch: Watch) -> int:
    from trainbeacon.terminal import plain
    from trainbeacon.terminal.signs import signs_for

    sight = watch.look(_PATIENCE)
    if any(source.state.taken_at for source in watch.sources):
        time.sleep(_BETWEEN)
        sight = watch.look(_PATIENCE)
    if arguments.json:
        print(json.dumps(plain.document(sight, arguments.rows), indent=1, allow_nan=False))
    else:
        signs = signs_for(sys.stdout.encoding, only_ascii=arguments.ascii)
        width = max(40, shutil.get_terminal_size((100, 40)).columns)
        sys.stdout.write(plain.text_of(sight, signs, width, arguments.rows))
    return 0 if sight.facts.runs else 1


def _positive(text: str) -> float:
    if not 0.2 <= float(text) <= 3600:
        raise argparse.ArgumentTypeError("must be between 0.2 and 3600")
    return float(text)
