"""What each rule costs in processor time, on a copy of a Prometheus data folder that nothing else works on.

python -m benchmarks.rule_costs DATA            # the most expensive rules, and each group

Processor time, not time on the clock: a busy machine changes it little. A copy of the data folder of a
running Prometheus will do (`cp -r data copy`).
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import yaml

from tools import stack
from trainbeacon.stack import processes, web
from trainbeacon.stack.ports import free_port

RULES = Path(__file__).resolve().parents[1] / "prometheus/rules"
#: Processor time is counted in hundredths of a second: a rule is asked until it has had that many.
LEAST_SECONDS = 0.15
MOST_TIMES = 20


def main() -> int:
    """Print what the rules cost."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rule_costs", description=__doc__.splitlines()[0]
    )
    parser.add_argument("data", help="folder of Prometheus' data, which nobody else uses")
    parser.add_argument("--once", action="store_true", help="ask each rule once only; rougher figures")
    parser.add_argument("--most", type=int, default=40, help="rules to show (default 40)")
    arguments = parser.parse_args()
    with prometheus(arguments.data) as (address, process):
        now = newest(address)
        times = 1 if arguments.once else MOST_TIMES
        costs = [(cost(address, process, rule, now, times), *rule) for rule in rules()]
    groups: dict[Group, float] = {}
    for (seconds, _), group, _, _ in costs:
        groups[group] = groups.get(group, 0.0) + seconds
    share = sum(seconds / group.intervals for group, seconds in groups.items())
    print(f"{1000 * share:8.0f} ms for all rules in an interval of 15 s")
    for group, seconds in sorted(groups.items(), key=lambda item: -item[1] / item[0].intervals):
        print(f"{1000 * seconds:8.1f} ms {group.name}{' once a minute' if group.intervals > 1 else ''}")
    print()
    for (seconds, series), _, name, _ in sorted(costs, key=lambda one: -one[0][0])[: arguments.most]:
        print(f"{1000 * seconds:8.1f} ms {series:7} series  {name}")
    return 0


class Group(NamedTuple):
    """A group of rules, and once in how many intervals of 15 s it is evaluated."""

    name: str
    intervals: int


def rules() -> Iterator[tuple[Group, str, str]]:
    """Group, name and expression of every shipped rule."""
    for path in sorted(RULES.glob("*/*.yml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            own = Group(group["name"], 4 if group.get("interval") == "1m" else 1)
            for rule in group["rules"]:
                yield own, rule.get("record") or rule["alert"], rule["expr"]


def cost(
    address: str, process: psutil.Process, rule: tuple[Group, str, str], now: float, most_times: int
) -> tuple[float, int]:
    """Processor seconds of one evaluation, and the series that it yields."""
    used, times, series = 0.0, 0, 0
    while used < LEAST_SECONDS and times < most_times:
        before = _seconds(process)
        # Counted inside: a rule does not pay for writing its result as JSON.
        answer = ask(address, f"count({rule[2]})", now)
        used, times = used + _seconds(process) - before, times + 1
        series = int(answer[0]["value"][1]) if answer else 0
    return used / times, series


def ask(address: str, query: str, now: float) -> list[dict[str, Any]]:
    """The series of a query."""
    answer = web.get_json(f"{address}/api/v1/query", seconds=300.0, query=query, time=f"{now:.3f}")
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found


def newest(address: str) -> float:
    """A moment at which all targets had been scraped lately."""
    answer = ask(address, "max(max_over_time(timestamp(up)[1h:15s]))", time.time())
    return float(answer[0]["value"][1])


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@contextlib.contextmanager
def prometheus(data: str, *options: str) -> Iterator[tuple[str, psutil.Process]]:
    """A Prometheus over that data that scrapes nothing and evaluates nothing."""
    with tempfile.TemporaryDirectory(prefix="trainbeacon-rules-") as scratch:
        folder, port = Path(scratch), free_port()
        (folder / "prometheus.yml").write_text("{}\n")
        program = stack.find("prometheus")
        if program is None:
            raise SystemExit("no Prometheus here: `make tools`, or put it on the PATH")
        line = [
            program,
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={data}",
            *options,
        ]
        line.append(f"--web.listen-address=127.0.0.1:{port}")
        child = processes.start(line, folder / "prometheus.log")
        try:
            address = f"http://127.0.0.1:{port}"
            if not processes.wait_until(lambda: web.answers(f"{address}/-/ready"), 300.0):
                raise RuntimeError(processes.last_lines(folder / "prometheus.log"))
            yield address, psutil.Process(child.pid)
        finally:
            processes.stop([child], patience=60.0)


if __name__ == "__main__":
    sys.exit(main())
