"""Remote write for real: a simulated fleet, Prometheus with the shipped example, VictoriaMetrics.

    python -m tests.chart.remote_write /path/to/victoria-metrics [--ranks 16] [--nodes 2] [--seconds 90]

Everything listens on loopback and is ended afterwards. Prints what arrived, and what it cost. Not part of
the test suite, which has a short form: tests/e2e/test_shards.py, with the VictoriaMetrics of `make tools`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from tests.serving import PATIENCE, request, wait_for
from tools import stack
from trainbeacon.stack.ports import free_port

REPOSITORY = Path(__file__).resolve().parents[2]
QUERIES = {
    "series of ranks": 'count({__name__=~"training_.+"})',
    "recorded series": 'count({__name__=~".+:.+:.+"})',
    "dropped on the way": "count(training_step_duration_seconds_bucket)",
    "steps of all ranks": "sum(training_step)",
}
OF_PROMETHEUS = (
    "prometheus_tsdb_head_series ",
    "prometheus_remote_storage_samples_total",
    "prometheus_remote_storage_samples_failed_total",
    "prometheus_remote_storage_samples_dropped_total",
)


@contextmanager
def running(command: list[str], log: Path) -> Iterator[psutil.Process]:
    """A program until the end of the block."""
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(PATIENCE)


def ask(port: int, query: str, at: float) -> float | None:
    """The one value of a query, None without any."""
    arguments = urllib.parse.urlencode({"query": query, "time": at})
    answer = request(f"http://127.0.0.1:{port}/api/v1/query?{arguments}")
    result = json.loads(answer.text)["data"]["result"]
    return float(result[0]["value"][1]) if result else None


def answers(url: str) -> bool:
    try:
        return request(url).status == 200
    except OSError:
        return False


def configure(folder: Path, storage: int) -> Path:
    """The shipped example with loopback in place of its names and an interval of 5 s."""
    text = (REPOSITORY / "deploy/scale-out/victoria-metrics.yml").read_text()
    text = text.replace("victoria-metrics:8428", f"127.0.0.1:{storage}").replace("15s", "5s")
    (folder / "rules").symlink_to(REPOSITORY / "prometheus/rules")
    file = folder / "prometheus.yml"
    file.write_text(text)
    return file


def main() -> int:
    """Run it all; 1 if what arrived differs from what was scraped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("victoria_metrics")
    parser.add_argument("--ranks", type=int, default=16)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=90)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as programs:
        folder, web, storage = Path(name), free_port(), free_port()
        fleet = [sys.executable, "-m", "trainbeacon", "simulate", f"--sd-dir={folder / 'targets'}"]
        fleet += [f"--ranks={options.ranks}", f"--nodes={options.nodes}"]
        store = [options.victoria_metrics, f"-storageDataPath={folder / 'vm'}"]
        store += [f"-httpListenAddr=127.0.0.1:{storage}", "-search.latencyOffset=0s"]
        server = [str(stack.find("prometheus")), f"--config.file={configure(folder, storage)}"]
        server += [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{web}"]
        programs.enter_context(running(fleet, folder / "fleet.log"))
        wait_for(lambda: list((folder / "targets").glob("*.json")), what="targets")
        of_store = programs.enter_context(running(store, folder / "vm.log"))
        of_server = programs.enter_context(running(server, folder / "prometheus.log"))
        wait_for(lambda: answers(f"http://127.0.0.1:{web}/-/ready"), what="Prometheus")
        wait_for(lambda: answers(f"http://127.0.0.1:{storage}/health"), what="VictoriaMetrics")
        time.sleep(options.seconds)
        at = time.time() - 20  # arrived by now on both sides
        found = {title: (ask(web, q, at), ask(storage, q, at)) for title, q in QUERIES.items()}
        for title, (scraped, arrived) in found.items():
            print(f"{title:20} Prometheus {scraped} VictoriaMetrics {arrived}")
        for title, process in (("Prometheus", of_server), ("VictoriaMetrics", of_store)):
            print(f"{title:20} {process.memory_info().rss / 2**20:.0f} MiB resident")
        for line in request(f"http://127.0.0.1:{web}/metrics").text.splitlines():
            if line.startswith(OF_PROMETHEUS):
                print(line)
    kept = ("recorded series", "steps of all ranks")
    whole = all(found[title][0] == found[title][1] is not None for title in kept)
    return 0 if whole and found["dropped on the way"][1] is None else 1


if __name__ == "__main__":
    sys.exit(main())
