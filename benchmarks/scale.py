"""What a fleet costs Prometheus on this machine: memory, ingest, rules, panels, at several sizes.

python -m benchmarks.scale                                 # all sizes at 15 s and 30 s: an hour and a half
python -m benchmarks.scale --ranks 64 --interval 15 --minutes 3 --suite sid   # with another Prometheus
python -m benchmarks.scale --table                         # writes docs/scale.md from the results

A simulated fleet, eight ranks a node, a target a node, is scraped by a real Prometheus with the shipped
rules, on the same machine; then every query of every dashboard is asked as Grafana would ask it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from benchmarks import scale_table
from benchmarks.measure import load, significant, summary, surroundings
from benchmarks.panels import Query, queries
from tools import stack
from trainbeacon.stack import processes, web
from trainbeacon.stack.ports import free_port

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks/results"
RANKS_A_NODE = 8
RANKS_A_RUN = 512
READS = 6
#: A query is asked three times, unless it has taken as long already.
MOST_SECONDS_A_QUERY = 1.0


def main() -> int:
    """Measure, keep, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[64, 1024, 4096])
    parser.add_argument("--interval", type=int, nargs="+", default=[15, 30])
    parser.add_argument("--minutes", type=float, default=10.0, help="of scraping before anything is read")
    parser.add_argument("--suite", default="default", help="which Prometheus of `make tools` to take")
    parser.add_argument("--table", action="store_true", help="only write docs/scale.md")
    arguments = parser.parse_args()
    if not arguments.table:
        for ranks in arguments.ranks:
            for interval in arguments.interval:
                keep(measure(ranks, interval, arguments.minutes, arguments.suite))
    scale_table.write(RESULTS, REPOSITORY / "docs/scale.md")
    return 0


def keep(result: dict[str, Any]) -> None:
    """Write the raw data of one fleet; a later measurement of the same replaces it."""
    RESULTS.mkdir(exist_ok=True)
    version = scale_table.version_of(result)
    path = RESULTS / f"scale-{result['ranks']}-{result['interval']}s-{version}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")


def measure(ranks: int, interval: int, minutes: float, suite: str) -> dict[str, Any]:
    """The raw data of one fleet at one interval; takes a few minutes more than `minutes`."""
    print(f"{ranks} ranks at {interval} s ...", file=sys.stderr, flush=True)
    before = load()
    with tempfile.TemporaryDirectory(prefix="trainbeacon-scale-") as scratch:
        folder = Path(scratch)
        with simulator(ranks, folder), prometheus(folder, interval, suite) as address:
            time.sleep(60 * minutes)
            return {
                "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
                "ranks": ranks,
                "interval": interval,
                "minutes": minutes,
                "load_before": before,
                "surroundings": surroundings(),
                **Reading(address, interval).all(),
                "load_after": load(),
            }


@contextlib.contextmanager
def simulator(ranks: int, folder: Path) -> Iterator[None]:
    """A fleet of that size, with its targets in `folder`."""
    runs = max(2, ranks // RANKS_A_RUN)
    line = [sys.executable, "-m", "trainbeacon", "simulate", "--sd-dir", str(folder / "targets")]
    line += ["--ranks", str(ranks), "--nodes", str(ranks // RANKS_A_NODE), "--runs", str(runs)]
    line += ["--scenario", "straggler-data"]  # something to find for the rules
    variables = {"PYTHONPATH": str(REPOSITORY / "exporter")}
    child = processes.start(line, folder / "simulator.log", variables)
    try:
        if not processes.wait_until(lambda: any((folder / "targets").glob("*.json")), 300.0):
            raise RuntimeError(processes.last_lines(folder / "simulator.log"))
        yield
    finally:
        processes.stop([child], patience=60.0)


@contextlib.contextmanager
def prometheus(folder: Path, interval: int, suite: str) -> Iterator[str]:
    """A real Prometheus with the shipped rules that scrapes the fleet; its address."""
    port = free_port()
    every, timeout = f"{interval}s", f"{min(10, interval)}s"
    config = {
        "global": {
            "scrape_interval": every,
            "scrape_timeout": timeout,
            "evaluation_interval": every,
        },
        "rule_files": [str(path) for path in sorted(REPOSITORY.glob("prometheus/rules/*/*.yml"))],
        "scrape_configs": [
            {"job_name": "trainbeacon", "file_sd_configs": [{"files": [str(folder / "targets/*.json")]}]}
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    line = [
        program(suite),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
    ]
    line.append(f"--web.listen-address=127.0.0.1:{port}")
    child = processes.start(line, folder / "prometheus.log")
    address = f"http://127.0.0.1:{port}"
    try:
        if not processes.wait_until(lambda: web.answers(f"{address}/-/ready"), 60.0):
            raise RuntimeError(processes.last_lines(folder / "prometheus.log"))
        yield address
    finally:
        processes.stop([child], patience=60.0)


def program(suite: str) -> str:
    """The path of the Prometheus to measure."""
    path = stack.find("prometheus", suite)
    if path is None:
        raise SystemExit("no Prometheus here: `make tools`, or put it on the PATH")
    return path


class Reading:
    """What is read of a Prometheus that has scraped for a while."""

    def __init__(self, address: str, interval: int) -> None:
        self._address = address
        self._interval = interval

    def all(self) -> dict[str, Any]:
        """Everything; blocks for `READS` intervals at most, and as long as the queries take."""
        samples = self._own("prometheus_tsdb_head_samples_appended_total")
        processor, begun = self._own("process_cpu_seconds_total"), time.monotonic()
        groups = self._groups()
        elapsed = time.monotonic() - begun
        appended = self._own("prometheus_tsdb_head_samples_appended_total") - samples
        used = self._own("process_cpu_seconds_total") - processor
        return {
            "version": self._version(),
            "targets_up": self._number("count(up == 1)"),
            "series": self._own("prometheus_tsdb_head_series"),
            "samples_a_second": significant(appended / elapsed),
            "prometheus_cores": significant(used / elapsed, 3),
            "resident_bytes": self._own("process_resident_memory_bytes"),
            "scrape_seconds": {
                "median": self._number("quantile(0.5, scrape_duration_seconds)"),
                "most": self._number("max(scrape_duration_seconds)"),
            },
            "rule_groups": groups,
            "missed_evaluations": self._own("prometheus_rule_group_iterations_missed_total"),
            "rules": self._rules(),
            "panels": self._panels(),
            "resident_bytes_after_panels": self._own("process_resident_memory_bytes"),
        }

    def _groups(self) -> dict[str, Any]:
        """Seconds of each group's evaluation, over several evaluations, and of all that one interval brings.

        A group that is evaluated less often than each interval counts for its share of them.
        """
        rounds: list[dict[str, float]] = []
        every: dict[str, float] = {}
        for _ in range(READS):
            answer = web.get_json(f"{self._address}/api/v1/rules", seconds=60.0)
            rounds.append({group["name"]: group["evaluationTime"] for group in answer["data"]["groups"]})
            every = {group["name"]: group["interval"] for group in answer["data"]["groups"]}
            time.sleep(self._interval)
        told = {name: summary([one[name] for one in rounds]) for name in rounds[0]}
        shares = {name: min(1.0, self._interval / seconds) for name, seconds in every.items()}
        everything = summary([sum(shares[name] * one[name] for name in one) for one in rounds])
        return {
            "all": {"median": everything.median, "most": everything.most},
            **{
                name: {"every": every[name], "median": one.median, "most": one.most}
                for name, one in told.items()
            },
        }

    def _rules(self) -> list[dict[str, Any]]:
        """The most expensive rules of the last evaluation."""
        answer = web.get_json(f"{self._address}/api/v1/rules", seconds=60.0)
        rules = [
            {
                "rule": rule["name"],
                "group": group["name"],
                "every": group["interval"],
                "seconds": significant(rule["evaluationTime"], 4),
            }
            for group in answer["data"]["groups"]
            for rule in group["rules"]
        ]
        return sorted(rules, key=lambda rule: -rule["seconds"] / rule["every"])[:20]

    def _panels(self) -> list[dict[str, Any]]:
        """Every query of every dashboard, the slowest first."""
        run = self._largest_run()
        told = [self._time(query, run) for query in queries(REPOSITORY / "grafana/dashboards")]
        return sorted(told, key=lambda one: -one["seconds"])

    def _time(self, query: Query, run: str) -> dict[str, Any]:
        now = time.time()
        path, parameters = query.request(run, now, self._interval)
        times: list[float] = []
        size = 0
        while len(times) < 3 and sum(times) < MOST_SECONDS_A_QUERY:
            start = time.perf_counter()
            body = web.get(f"{self._address}{path}", seconds=120.0, **parameters)
            times.append(time.perf_counter() - start)
            size = len(body)
        return {
            "dashboard": query.dashboard,
            "panel": query.panel,
            "seconds": significant(sorted(times)[len(times) // 2], 4),
            "first": significant(times[0], 4),
            "bytes": size,
            "expr": query.expr,
        }

    def _largest_run(self) -> str:
        answer = web.get_json(
            f"{self._address}/api/v1/query",
            seconds=60.0,
            query="sort_desc(count by (run) (training_world_size))",
        )
        run: str = answer["data"]["result"][0]["metric"]["run"]
        return run

    def _number(self, query: str) -> float:
        answer = web.get_json(f"{self._address}/api/v1/query", seconds=60.0, query=query)
        return significant(float(answer["data"]["result"][0]["value"][1]))

    def _own(self, name: str) -> float:
        """One of Prometheus' own metrics, from its own page; samples of one name are added up."""
        page = web.get(f"{self._address}/metrics", seconds=60.0).splitlines()
        lines = [line for line in page if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def _version(self) -> str:
        answer = web.get_json(f"{self._address}/api/v1/status/buildinfo", seconds=60.0)
        return str(answer["data"]["version"])


if __name__ == "__main__":
    sys.exit(main())
