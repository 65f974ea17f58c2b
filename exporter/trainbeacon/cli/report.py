"""`trainbeacon report`: what a run was, on one page, and whether it is slower than another."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainbeacon.report.gate import Verdict
    from trainbeacon.report.record import Record

NAME = "report"
HELP = "write what a run was, and whether it is slower than another, on one page"

#: Exit status of each outcome of a gate.
_STATUS = {"passed": 0, "failed": 1, "cannot tell": 3, "not comparable": 4}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("name", metavar="RUN", help="name of the run, or the .json of an earlier report")
    parser.add_argument("--prometheus", metavar="URL", help="ask this Prometheus (default: black boxes here)")
    parser.add_argument(
        "--hours", type=float, default=24.0, metavar="H", help="how far to look back (default 24)"
    )
    parser.add_argument(
        "--directory", action="append", metavar="DIR", help="folders of black boxes (default: yours)"
    )
    parser.add_argument("--against", metavar="RUN", help="compare with this run, or the .json of its report")
    parser.add_argument(
        "--fail-if",
        action="append",
        default=[],
        metavar="CONDITION",
        help="exit with 1 where it holds: 'samples_per_second < 0.95 * baseline'",
    )
    parser.add_argument(
        "--percent", type=float, default=3.0, metavar="P", help="slowdown that is allowed (default 3)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="the HTML file (default report-RUN.html)")


def run(arguments: argparse.Namespace) -> int:
    """Write it: 0 passed, 1 the gate failed, 2 wrong use, 3 cannot tell, 4 not comparable."""
    from functools import partial

    from trainbeacon.report import gate, page, source

    record_of = partial(
        source.record_of,
        prometheus=arguments.prometheus,
        hours=arguments.hours,
        directories=arguments.directory,
    )

    try:
        conditions = [gate.Condition.parse(each) for each in arguments.fail_if]
        if any(each.needs_baseline for each in conditions) and not arguments.against:
            raise gate.ConditionError("baseline is the run of --against RUN, which is not given")
        record = record_of(arguments.name)
        other = record_of(arguments.against) if arguments.against else None
    except (ValueError, OSError) as error:
        print(f"trainbeacon report: {error}", file=sys.stderr)
        return 2
    verdicts = [each.judge(record, other) for each in conditions]
    if other is not None and not conditions:
        verdicts.append(gate.default_gate(record, other, arguments.percent))
    output = arguments.output or Path(f"report-{re.sub(r'[^A-Za-z0-9._-]+', '-', record.run)}.html")
    try:
        output.write_text(page.html(record, other, verdicts), "utf-8")
        output.with_suffix(".md").write_text(page.markdown(record, other, verdicts), "utf-8")
        output.with_suffix(".json").write_text(record.as_json(), "utf-8")
    except OSError as error:
        print(f"trainbeacon report: {error}", file=sys.stderr)
        return 2
    _say(record, verdicts, output)
    return max((_STATUS[each.outcome] for each in _worst(verdicts)), default=0)


def _worst(verdicts: list[Verdict]) -> list[Verdict]:
    """The verdict that the exit status speaks of: a failure before what could not be said."""
    order = ("not comparable", "failed", "cannot tell", "passed")
    return sorted(verdicts, key=lambda each: order.index(each.outcome))[:1]


def _say(record: Record, verdicts: list[Verdict], output: Path) -> None:
    print(record.verdict)
    if record.action:
        print(f"Next: {record.action}")
    for each in verdicts:
        print(f"{each.outcome}: {each.sentence}")
    print(f"{output} ({output.stat().st_size / 1000:.0f} kB), .md and .json beside it")
