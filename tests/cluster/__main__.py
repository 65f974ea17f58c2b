"""`make cluster`: faults that only a cluster has, on hosts of their own, judged by the messages that arrive.

    python -m tests.cluster                      all of it; an hour
    python -m tests.cluster host_lost=2 healthy  that many of some kinds
    python -m tests.cluster --short              what CI plays; four minutes

As root; elsewhere it says why not and succeeds (with CI=true it fails).
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.campaign.campaign import Log
from tests.campaign.judge import Outcome
from tests.cluster import report
from tests.cluster.cluster import PROGRAMS, group_limits
from tests.cluster.kinds import BY_NAME, SHORT
from tests.cluster.play import draw, play
from tests.hosts import world

_LIMITED = ("rank_oom", "host_oom", "two_tenants", "lost_unnotified")


def main() -> int:
    """Play the incidents; 1 if one was not reported as it should be, or could not be played."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--list", action="store_true", help="only name the kinds")
    parser.add_argument("--slots", type=int, default=8, help="jobs at once")
    parser.add_argument("--minutes", type=float, default=60, help="begin nothing that would begin later")
    parser.add_argument("--seed", type=int, default=19)
    parser.add_argument("--out", type=Path, help="keep the outcomes there, and go on where that file ends")
    parser.add_argument("--report", action="store_true", help="only write the page, of the file of --out")
    parser.add_argument("kinds", nargs="*", help="NAME or NAME=COUNT; all of them by default")
    options = parser.parse_args()
    if options.list:
        print("\n".join(f"{each.kind.name}: {each.kind.summary}" for each in BY_NAME.values()))
        return 0
    if options.report:
        report.write(options.out)
        return 0
    if reason := world.missing(PROGRAMS):
        print(f"the cluster is not played: {reason}", file=sys.stderr)
        return int(os.environ.get("CI") == "true")
    if world.INSIDE not in os.environ:
        world.enter("tests.cluster", *sys.argv[1:])
    return _play(options)


def _play(options: argparse.Namespace) -> int:
    counts = {name: each.kind.count for name, each in BY_NAME.items()}
    if options.short:
        counts = dict(SHORT)
    if options.kinds:
        counts = {name: int(count or 1) for name, _, count in (each.partition("=") for each in options.kinds)}
    for name, reason in _not_here():
        if counts.pop(name, 0):
            print(f"not played: {name}: {reason}")
    log = Log(options.out or world.RUN.parent / "cluster-outcomes.jsonl")
    begun = time.monotonic()
    say = partial(print, flush=True)
    wait = 2.0 if options.short else None
    drawn = draw(options.seed, counts)
    others = play(drawn, log, slots=options.slots, minutes=options.minutes, longest_wait=wait, say=say)
    print("\n".join(others))
    wrong = [each for each in log.outcomes if not _is_good(each)]
    print(f"{len(wrong)} of {len(log.outcomes)} not as they should be, {time.monotonic() - begun:.0f} s")
    return int(bool(wrong or others))


def _not_here() -> Iterator[tuple[str, str]]:
    """Kinds that this machine cannot have, and why."""
    if not group_limits():
        yield from (
            (name, "hosts have no limit of memory (no control groups of version 1)") for name in _LIMITED
        )
    if not shutil.which("cc"):
        yield "clock_off", "no C compiler"


def _is_good(outcome: Outcome) -> bool:
    return (
        outcome.verdict in ("right", "quiet")
        and outcome.culprit in (None, True)
        and outcome.ending in (None, "right")
        and not outcome.false_alarms
    )


if __name__ == "__main__":
    sys.exit(main())
