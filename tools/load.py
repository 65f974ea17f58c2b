"""Run a command beside busy processes that compete with it: whether it passes on a machine that is full.

    python3 tools/load.py --processes 12 --runs 10 -- pytest tests/unit

The processes compute without a pause, at normal priority. They end with the command, with this program
however it ends, and after --minutes in any case. The status is 0 if every run of the command succeeded.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator

BURNER = "--burn"


def burn(parent: int, seconds: float) -> None:
    """Compute until the parent is gone or the time is over."""
    end = time.monotonic() + seconds
    while os.getppid() == parent and time.monotonic() < end:
        sum(math.sqrt(number) for number in range(20_000))  # some milliseconds


@contextlib.contextmanager
def load(processes: int, seconds: float) -> Iterator[None]:
    """So many busy processes."""
    command = [sys.executable, os.path.abspath(__file__), BURNER, str(os.getpid()), str(seconds)]
    burners = [subprocess.Popen(command) for _ in range(processes)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
        for burner in burners:
            burner.wait()


def run(command: list[str], runs: int) -> int:
    """Run the command several times in a row; how many runs failed."""
    failed = 0
    for number in range(1, runs + 1):
        start = time.monotonic()
        status = subprocess.run(command, check=False).returncode
        failed += status != 0
        took, busy = time.monotonic() - start, os.getloadavg()[0]
        print(f"run {number} of {runs}: status {status}, {took:.0f} s, load {busy:.1f}", flush=True)
    return failed


def main() -> int:
    """Run the command beside the load."""
    if sys.argv[1:2] == [BURNER]:
        burn(int(sys.argv[2]), float(sys.argv[3]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--processes", type=int, default=12, help="busy processes (default 12)")
    parser.add_argument("--runs", type=int, default=1, help="runs of the command in a row (default 1)")
    parser.add_argument(
        "--minutes", type=float, default=240, help="end of the load at the latest (default 240)"
    )
    parser.add_argument("command", nargs="+", help="what to run, after --")
    arguments = parser.parse_args()
    with load(arguments.processes, 60 * arguments.minutes):
        failed = run(arguments.command, arguments.runs)
    print(f"{arguments.runs - failed} of {arguments.runs} runs passed beside {arguments.processes} busy ones")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
