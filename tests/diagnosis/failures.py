"""What broke first: one rank of a real job under torchrun fails, and the recording rule must name it.

`python -m tests.diagnosis.failures [TIMES]` repeats it with random victims and prints the rates. Real
parts: torchrun, gloo, the ranks, the exporter, Prometheus with the shipped rule, all at 1 s.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.serving import REPOSITORY, environment, wait_for
from tools import stack
from trainbeacon.stack import processes, web
from trainbeacon.stack.ports import free_port

RANK = Path(__file__).with_name("failing_rank.py")
RULES = REPOSITORY / "prometheus/rules"
FIRST = "run_rank:training_first_failure_timestamp_seconds:min"
#: Each fault with the kind that it must be reported by.
FAULTS = {
    "raise": "other",
    "kill": "crashed",
    "host_oom": "host_oom",
    "cuda_oom": "cuda_oom",
    "storage": "storage",
    "data": "data",
}
#: Without a name after so long it was missed.
PATIENCE_SECONDS = 60.0
#: What is named must stay named for so long after the last process has gone.
SETTLED_SECONDS = 4.0


@dataclass(frozen=True)
class Outcome:
    """`verdict` is right, wrong or missed; `seconds` from the fault to the name that stayed."""

    fault: str
    victim: int
    verdict: str
    seconds: float
    named: str


def run_one(fault: str, victim: int, world: int, seed: int) -> Outcome:
    """One job of `world` ranks in which `victim` fails after a while."""
    with contextlib.ExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="trainbeacon-failures-")))
        port = free_port()
        closing.enter_context(_agent(folder, port))
        prometheus = closing.enter_context(_prometheus(folder, port))
        step = random.Random(seed).randrange(20, 80)
        launcher = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={world}",
        ]
        job = processes.start(
            [*launcher, str(RANK), fault, str(victim), str(step), str(folder)],
            folder / "job.log",
            {**environment(), "PYTHONWARNINGS": "default", "OMP_NUM_THREADS": "1"},
        )
        closing.callback(processes.stop, [job])
        begun = float(wait_for(lambda: _text(folder / "fault"), 300, "fault"))
        return _judge(job, prometheus, fault, victim, begun)


def _judge(job: subprocess.Popen[str], prometheus: str, fault: str, victim: int, begun: float) -> Outcome:
    """Ask until the name has settled."""
    named, since, ended = "", begun, None
    while time.time() - begun < PATIENCE_SECONDS:
        found = _named(prometheus)
        if found != named:
            named, since = found, time.time()
        if job.poll() is not None and ended is None:
            ended = time.time()
        if ended is not None and named and time.time() - max(ended, since) > SETTLED_SECONDS:
            break
        time.sleep(0.1)
    verdict = {"": "missed", f"{victim} {FAULTS[fault]}": "right"}.get(named, "wrong")
    return Outcome(fault, victim, verdict, since - begun, named)


def _named(prometheus: str) -> str:
    """Rank and kind of what the rule names now."""
    answer = web.get_json(f"{prometheus}/api/v1/query", query=FIRST)
    return ", ".join(
        f"{each['metric']['rank']} {each['metric']['kind']}" for each in answer["data"]["result"]
    )


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@contextlib.contextmanager
def _agent(folder: Path, port: int) -> Iterator[None]:
    (folder / "boxes").mkdir()
    line = [sys.executable, "-m", "trainbeacon", "agent", f"--directory={folder / 'boxes'}", "--no-gpu"]
    agent = processes.start(
        [*line, "--host=127.0.0.1", f"--port={port}"], folder / "agent.log", environment()
    )
    try:
        yield
    finally:
        processes.stop([agent])


@contextlib.contextmanager
def _prometheus(folder: Path, target: int) -> Iterator[str]:
    """A real server with the shipped rule, at one second."""
    binary = stack.find("prometheus")
    assert binary, "no Prometheus: `make tools`"
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES / "recording/*.yml"), str(RULES / "alerts/*.yml")],
        "scrape_configs": [
            {"job_name": "trainbeacon", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    line = [str(binary), f"--config.file={folder / 'prometheus.yml'}", f"--web.listen-address={address}"]
    server = processes.start([*line, f"--storage.tsdb.path={folder / 'data'}"], folder / "prometheus.log")
    try:
        wait_for(lambda: web.answers(f"http://{address}/-/ready"), 30, "Prometheus")
        yield f"http://{address}"
    finally:
        processes.stop([server])


def main(times: int = 2, world: int = 4, seed: int = 4) -> None:
    """Every fault that many times, each with a victim drawn from a fixed seed."""
    draw = random.Random(seed)
    outcomes = []
    for number in range(times):
        for fault in FAULTS:
            outcomes.append(run_one(fault, draw.randrange(world), world, seed + number))
            print(outcomes[-1], flush=True)
    verdicts = Counter(outcome.verdict for outcome in outcomes)
    seconds = sorted(outcome.seconds for outcome in outcomes if outcome.verdict == "right")
    print(
        f"n={len(outcomes)} {dict(verdicts)}; seconds to the name: {', '.join(f'{s:.1f}' for s in seconds)}"
    )
    sys.exit(len(outcomes) != verdicts["right"])


if __name__ == "__main__":
    os.chdir(REPOSITORY)
    main(*map(int, sys.argv[1:]))
