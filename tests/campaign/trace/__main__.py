"""Whom the shipped rules name in a trace of a job.

A table with a header: worker, dp, pp, step, phase, start, end; one row an operation of a worker. Other names
of these columns, other orders, further columns and units are understood (`table`).

    python -m tests.campaign.trace FILE [--json] [--unit us]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tests.campaign.trace.play import judge, names, pace_of, sentences
from tests.campaign.trace.table import UNITS, TraceError, read


def main() -> int:
    """Print what is said of each file; 2 if one could not be read."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign.trace", description=__doc__)
    parser.add_argument(
        "files", type=Path, nargs="+", metavar="FILE", help="comma- or tab-separated, .gz or not, or Parquet"
    )
    parser.add_argument("--json", action="store_true", help="a line of JSON for each file")
    parser.add_argument("--unit", choices=[*UNITS], default="", help="of the times, where it is not plain")
    options = parser.parse_args()
    status = 0
    for path in options.files:
        try:
            trace = read(path, options.unit)
            pace = pace_of(trace)
            said = judge({"trace": trace})["trace"]
        except TraceError as error:
            print(f"{path}: {error}", file=sys.stderr)
            status = 2
            continue
        if options.json:
            print(
                json.dumps(
                    {
                        "file": str(path),
                        "workers": len(trace.workers),
                        "steps": len(trace.step_seconds),
                        "slow": names(trace, [*said.slow]),
                        "share": [*said.slow.values()],
                        "causes": [said.causes.get(rank, "") for rank in said.slow],
                        "stages": said.stages,
                    }
                )
            )
            continue
        print(
            f"{path}: {len(trace.workers)} workers, {len(trace.step_seconds)} steps of "
            f"{sorted(trace.step_seconds)[len(trace.step_seconds) // 2]:.3g} s, played at one step every "
            f"{pace.step_seconds:.2g} s, {pace.rounds} times over; {trace.skipped} rows left out"
        )
        print(*(f"  {line}" for line in sentences(trace, said)), sep="\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
