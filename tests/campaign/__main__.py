"""`python -m tests.campaign`: the campaign that judges the shipped alerts by the messages that arrive.

python -m tests.campaign                         all of it; goes on where it was stopped
python -m tests.campaign --kinds nan_loss=3      that many of some kinds
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path

from tests.campaign import report
from tests.campaign.campaign import FIRST_PORT, Log, play
from tests.campaign.injections import draw
from tests.campaign.judge import summarise
from tests.campaign.kinds import BY_NAME
from tests.campaign.simulated import kinds_of_fleet


def kinds_of(text: str) -> dict[str, int]:
    """`a=3,b` as numbers by kind."""
    pairs = [part.partition("=") for part in text.split(",")]
    return {name: int(count or 1) for name, _, count in pairs if BY_NAME[name]}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--slots", type=int, default=18, help="jobs at once")
    parser.add_argument("--minutes", type=float, default=60, help="begin nothing that would end later")
    parser.add_argument("--first-port", type=int, default=FIRST_PORT, help="of the exporters")
    parser.add_argument("--kinds", type=kinds_of, default=None, help="NAME=COUNT,... instead of all")
    parser.add_argument("--out", type=Path, default=Path("campaign.jsonl"), help="outcomes, a line each")
    parser.add_argument(
        "--history", type=Path, default=Path("history.jsonl"), help="of tests.campaign.history"
    )
    parser.add_argument("--report", action="store_true", help="only write results and page of what there is")
    parser.add_argument(
        "--again", type=Path, default=Path("again.jsonl"), help="kinds that were played again"
    )
    parser.add_argument("--commit-again", help="of those")
    parser.add_argument("--commit", default=report.present_commit(), help="what the page says was tried")
    options = parser.parse_args()
    beside_file = options.out.with_suffix(".beside.json")
    if options.report:
        again = report.Played.read(options.again, options.commit_again or options.commit)
        report.write(report.Played.read(options.out, options.commit), again, options.history)
        return 0
    log = Log(options.out)
    beside = play(
        draw(options.seed, options.kinds),
        log,
        slots=options.slots,
        minutes=options.minutes,
        first_port=options.first_port,
        simulated=kinds_of_fleet(options.kinds),
        seed=options.seed,
        say=partial(print, flush=True),
    )
    beside_file.write_text(json.dumps(beside, indent=1))
    summary = summarise(log.outcomes, len(beside))
    print(f"beside: {beside}\nrecall {summary.recall}\nprecision {summary.precision}")
    print(f"culprit {summary.culprit}\nseconds: {summary.seconds_median}, worst {summary.seconds_worst}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
