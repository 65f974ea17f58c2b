"""How long the panels of "Efficiency" take over a quarter of a year in which a run is started every hour.

python -m benchmarks.efficiency [--days 90] [--times 3] [--out FILE]

The recorded series of the runs are written as text, and promtool makes blocks of them. The queries of a panel
are asked one after another, in the form in which Grafana sends them. Processor time, which other work on the
machine changes little, is given beside the time on the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from benchmarks.panels import Query, queries
from benchmarks.rule_costs import prometheus
from tools import stack
from trainbeacon.simulate.blocks import BLOCK_SECONDS, BlockMaker
from trainbeacon.stack import web

DASHBOARDS = Path(__file__).resolve().parents[1] / "grafana/dashboards"
INTERVAL = 60
#: The longest blocks that Prometheus makes where it keeps a quarter of a year: 81 times the first ones.
MERGED_SECONDS = 81 * BLOCK_SECONDS
KINDS = {"productive": 46.0, "data_wait": 5.0, "checkpoint": 3.0, "evaluation": 4.0, "straggler": 2.0}
RATIOS = {"run:training_mfu_ratio:avg5m": 0.41, "run:training_ofu_ratio:avg5m": 0.45}


def main() -> int:
    """Print what each panel takes, and write it down."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.efficiency", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--days", type=int, default=90, help="days of history (default 90)")
    parser.add_argument("--times", type=int, default=3, help="how often a panel is asked (default 3)")
    parser.add_argument("--out", type=Path, help="file for the figures, as JSON")
    arguments = parser.parse_args()
    end = int(time.time()) // INTERVAL * INTERVAL
    with tempfile.TemporaryDirectory(prefix="trainbeacon-efficiency-") as scratch:
        data = Path(scratch) / "data"
        samples = write_blocks(data, Path(scratch), end, arguments.days)
        with prometheus(str(data), "--storage.tsdb.retention.time=400d") as (address, process):
            panels = measure(address, process, end, 86400 * arguments.days, arguments.times)
    print(f"{arguments.days} days, {samples} samples, load {os.getloadavg()[0]:.1f}")
    for panel, took in sorted(panels.items(), key=lambda item: -item[1]["cpu"]):
        print(f"{took['cpu']:7.2f} s of a processor, {took['clock']:7.2f} s on the clock: {panel}")
    if arguments.out:
        figures = {
            "days": arguments.days,
            "runs": 24 * arguments.days,
            "samples": samples,
            "machine": f"{os.cpu_count()} x {platform.processor() or platform.machine()}",
            "load": os.getloadavg(),
            "panels": panels,
        }
        arguments.out.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


def write_blocks(data: Path, scratch: Path, end: int, days: int) -> int:
    """Make the blocks; returns how many samples are in them."""
    promtool = stack.find("promtool")
    if promtool is None:
        raise SystemExit("no promtool here: `make tools`, or put it on the PATH")
    data.mkdir()
    maker, samples = BlockMaker(scratch, str(data), promtool, MERGED_SECONDS), 0
    for now in range(end - 86400 * days, end + 1, INTERVAL):
        lines = [f"{line} {now}\n" for line in moment(now)]
        samples += len(lines)
        maker.add(float(now), lines)
    maker.finish()
    return samples


def moment(now: int) -> Iterator[str]:
    """What the rules record at an evaluation: of the run of this hour, and of the cluster."""
    number, minute = divmod(now // INTERVAL, 60)
    noise = random.Random(number)
    project, owner = f"project-{noise.randrange(12)}", f"team-{noise.randrange(8)}"
    of = f'cluster="cluster-{noise.randrange(2)}",namespace="training",run="run-{number}"'
    whose = f'{of},project="{project}",owner="{owner}"'
    ranks = 2 ** noise.randrange(3, 10)
    kinds = {"startup": 60.0} if minute < 2 else {"restart": 60.0} if minute == 30 else KINDS
    for kind, seconds in kinds.items():
        labels = f'{whose},kind="{kind}",counted="gpu"'
        yield f"run_kind:training_gpu_seconds:increase{{{labels}}} {seconds * ranks}"
    yield f'run:training_gpu_seconds:increase{{{whose},counted="gpu"}} {sum(kinds.values()) * ranks}'
    lost = sum(seconds for kind, seconds in kinds.items() if kind != "productive")
    yield f'run:training_lost_gpu_seconds:increase{{{whose},counted="gpu"}} {lost * ranks}'
    yield f"run:training_ownership:info{{{whose}}} 1"
    for name, ratio in RATIOS.items():
        yield f"{name}{{{of}}} {ratio}"
    slow = f'{of},rank="3",hostname="node-{noise.randrange(64)}",cause="forward"'
    yield f"run_rank_cause:training_straggler_gpu_seconds:increase{{{slow}}} {2.0 * ranks}"
    for cluster in ("cluster-0", "cluster-1"):
        yield f'cluster:training_gpus_held:sum{{cluster="{cluster}"}} {ranks}'
        yield f'cluster:training_gpus_idle:count{{cluster="{cluster}"}} 3'
        idle = f'cluster="{cluster}",counted="gpu"'
        yield f'run_kind:training_gpu_seconds:increase{{{idle},kind="idle"}} 180'
        yield f"run:training_gpu_seconds:increase{{{idle}}} 180"
        yield f"run:training_lost_gpu_seconds:increase{{{idle}}} 180"


def measure(
    address: str, process: psutil.Process, end: int, seconds: int, times: int
) -> dict[str, dict[str, float]]:
    """Of each panel the median of the time on the clock, and of Prometheus' processor time."""
    panels: dict[str, list[Query]] = {}
    for query in queries(DASHBOARDS, collapsed=True):
        if query.dashboard == "efficiency":
            panels.setdefault(query.panel, []).append(query)
    found = {}
    for panel, asked in panels.items():
        took, used = [], []
        for _ in range(times):
            before = process.cpu_times()
            took.append(sum(answer(address, query, end, seconds) for query in asked))
            after = process.cpu_times()
            used.append(after.user + after.system - before.user - before.system)
        found[panel] = {"clock": round(statistics.median(took), 3), "cpu": round(statistics.median(used), 3)}
    return found


def answer(address: str, query: Query, end: int, seconds: int) -> float:
    """Seconds until a query is answered."""
    path, parameters = query.request(".*", end, INTERVAL, seconds)
    begun = time.perf_counter()
    web.get_json(f"{address}{path}", seconds=120.0, **parameters)
    return time.perf_counter() - begun


if __name__ == "__main__":
    sys.exit(main())
