"""`python -m tests.campaign`: the campaign that judges the shipped alerts by the messages that arrive.

python -m tests.campaign                         all of it; goes on where it was stopped
python -m tests.campaign --kinds nan_loss=3      so many of some kinds
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path

from tests.campaign.campaign import Log, play
from tests.campaign.judge import summarise
from tests.campaign.kinds import BY_NAME, draw
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
    parser.add_argument("--kinds", type=kinds_of, default=None, help="NAME=COUNT,... instead of all")
    parser.add_argument("--out", type=Path, default=Path("campaign.jsonl"), help="outcomes, a line each")
    options = parser.parse_args()
    log = Log(options.out)
    odd = play(
        draw(options.seed, options.kinds),
        log,
        slots=options.slots,
        minutes=options.minutes,
        simulated=kinds_of_fleet(options.kinds),
        seed=options.seed,
        say=partial(print, flush=True),
    )
    options.out.with_suffix(".odd.json").write_text(json.dumps(odd, indent=1))
    for line in odd:
        print("beside:", line)
    summary = summarise(log.outcomes)
    print(f"recall {summary.recall}\nprecision {summary.precision}\nculprit {summary.culprit}")
    print(f"seconds: median {summary.seconds_median}, worst {summary.seconds_worst}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
