"""A history from the simulator in a real Prometheus: it goes in through promtool and is found again."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from trainbeacon.simulate.fleet import Size
from trainbeacon.simulate.history import History
from trainbeacon.simulate.scenarios import Plan
from trainbeacon.stack import processes, web
from trainbeacon.stack.ports import free_port

pytestmark = pytest.mark.e2e
HOURS = 3
INTERVAL = 60.0
NAN_AFTER = 1.5 * 3600


def history(end: float) -> History:
    """Some hours of two runs; one of them has a NaN in the middle."""
    return History(
        Size(2, 1, 2), Plan(["nan"], NAN_AFTER), seconds=HOURS * 3600.0, end=end, interval=INTERVAL
    )


@contextmanager
def served(prometheus: str, data: Path) -> Iterator[str]:
    """A Prometheus over that data that scrapes nothing; its address."""
    port = free_port()
    config = data / "prometheus.yml"
    config.write_text("{}\n")
    options = [
        f"--config.file={config}",
        f"--storage.tsdb.path={data}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    process = processes.start([prometheus, *options], data / "prometheus.log")
    try:
        assert processes.wait_until(lambda: web.answers(f"http://127.0.0.1:{port}/-/ready"), 30.0)
        yield f"http://127.0.0.1:{port}"
    finally:
        processes.stop([process])


def ask(address: str, query: str, at: float) -> list[dict[str, Any]]:
    """The series of a query at that time."""
    answer = web.get_json(f"{address}/api/v1/query", query=query, time=f"{at:.3f}")
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found


@pytest.mark.parametrize("way", ["text", "blocks"])
def test_a_history_is_found_again(way: str, tmp_path: Path, prometheus: str, promtool: str) -> None:
    """Labels as a scrape adds them, values as the model has them, the fault when the truth says."""
    end, data = time.time(), tmp_path / "data"
    data.mkdir()
    written = history(end)
    if way == "text":
        path = tmp_path / "day.om"
        with path.open("w") as file:
            result = written.write(file)
        line = [promtool, "tsdb", "create-blocks-from", "openmetrics", "--quiet", str(path), str(data)]
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
    else:
        result = written.write_blocks(str(data), promtool)
    (truth,) = result.injections
    with served(prometheus, data) as address:
        (up,) = ask(address, "up", end)
        assert {
            "__name__": "up",
            "job": "trainbeacon",
            "instance": "127.0.0.1:9900",
            "cluster": "simulated",
            "namespace": "training",
        } == up["metric"]
        assert truth.struck is not None
        bad = f'training_loss_nonfinite_total{{run="{truth.run}"}} > 0'
        assert [] == ask(address, bad, truth.struck - INTERVAL)
        assert 1 == len(ask(address, bad, truth.struck + 2 * INTERVAL))
        (steps,) = ask(address, f'rate(training_steps_total{{run="{truth.run}"}}[10m])', end - 600)
        run = written.fleet.runs[0]
        assert float(steps["value"][1]) == pytest.approx(1 / run.step_duration(), rel=0.1)
        assert (
            HOURS * 60
            <= float(ask(address, f"count_over_time(up[{HOURS + 1}h])", end)[0]["value"][1])
            <= HOURS * 60 + 1
        )
