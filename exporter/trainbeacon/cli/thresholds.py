"""`trainbeacon thresholds`: limits for the alerts from a run that went well."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

NAME = "thresholds"
HELP = "make limits for the alerts from a run that went well, or widen one after a false alarm"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--from", dest="source", metavar="RUN", help="its name, or the .json of its report")
    what.add_argument("--false-alarm", metavar="ALERT", help="widen what this alert reads, in FILE")
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE", help="YAML file (default: print)")
    parser.add_argument("--reason", default="no reason given", help="why it was false; kept in the file")
    parser.add_argument("--prometheus", metavar="URL", help="ask this Prometheus (default: black boxes here)")
    parser.add_argument(
        "--hours", type=float, default=24.0, metavar="H", help="look so far back (default 24)"
    )
    parser.add_argument("--directory", action="append", metavar="DIR", help="folders of black boxes")


def run(arguments: argparse.Namespace) -> int:
    """Write or print them: 0, or 2 where that cannot be done."""
    from trainbeacon.report import limits, source
    from trainbeacon.stack.up.state import replace

    file: Path | None = arguments.file
    moved: list[str] = []
    try:
        if arguments.source:
            record = source.record_of(
                arguments.source,
                prometheus=arguments.prometheus,
                hours=arguments.hours,
                directories=arguments.directory,
            )
            if file is not None and file.exists():
                raise ValueError(f"{file} is there already: take it away, or name another")
            text = limits.block(record)
        else:
            before = file.read_text("utf-8") if file is not None and file.exists() else ""
            text, moved = limits.widened(before, arguments.false_alarm, arguments.reason)
        if file is None:
            sys.stdout.write(text)
        else:
            replace(file, text)
            print(f"{file}: {', '.join(moved) or 'written'}. For a run: TRAINBEACON_CONFIG={file}")
    except (ValueError, OSError) as error:
        print(f"trainbeacon thresholds: {error}", file=sys.stderr)
        return 2
    return 0
