"""GPU-hours by run and kind, of a fleet by script: each comes to what the script says, within a hundredth."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.rules.scripted_fleet import HANG, SCRAPE_SECONDS, VANISHED, Attempt, Run

HOURS = 2
SECONDS = HOURS * 3600
RECORDED = "run_kind:training_gpu_seconds:increase"
#: The same without the kinds, and without what was not lost.
HELD, LOST = "run:training_gpu_seconds:increase", "run:training_lost_gpu_seconds:increase"
#: Of what a run held.
TOLERANCE = 0.01


def hour(start: float, **changes: Any) -> Attempt:
    """About an hour of everything that a healthy run does."""
    steps = ("productive", 150.0)
    lap = (steps, ("data_wait", 55.0), steps, ("evaluate", 70.0), ("productive", 100.0), ("checkpoint", 45.0))
    return Attempt(start, (("init", 130.0), *6 * lap), **changes)


def gpus(name: str, number: int) -> tuple[str, ...]:
    return tuple(f"GPU-{name}-{each}" for each in range(number))


FLEET = (
    Run("healthy", gpus("a", 3), (hour(97),)),
    Run("healthy", gpus("b", 1), (hour(1800),), cluster="two", project="speech", owner="bob"),
    Run("unseen", ("",) * 2, (hour(311),)),
    Run(
        "resumed",
        gpus("c", 2),
        (
            Attempt(40, (("init", 100), ("productive", 1800)), "failed"),
            Attempt(2030, (("init", 150), ("lost", 400), ("productive", 2500))),
        ),
    ),
    Run("hung", gpus("d", 2), (Attempt(222, (("init", 60), ("productive", 1000), (HANG, 1500)), "failed"),)),
    Run(
        "one-died",
        gpus("e", 3),
        (Attempt(15, (("init", 60), ("productive", 1740), (HANG, 1800)), "failed", {1: 1800.0}),),
    ),
    Run(
        "rank-0-died",
        gpus("k", 3),
        (Attempt(15, (("init", 60), ("productive", 1740), (HANG, 1800)), "failed", {0: 1800.0}),),
    ),
    Run("deleted", gpus("l", 2), (hour(205, state=VANISHED),)),
    Run("shared", ("GPU-s",), (hour(333),)),
    Run("sharing", ("GPU-s",), (hour(333),)),
    Run("out-of-sight", gpus("f", 2), (hour(97),), gap=(1500, 3000)),
    Run(
        "anew",
        gpus("g", 2),
        (
            Attempt(9, (("init", 60), ("productive", 3000))),
            Attempt(3400, (("init", 60), ("productive", 3000))),
        ),
    ),
    Run(
        "much-later",
        gpus("h", 2),
        (
            Attempt(9, (("init", 60), ("productive", 2500)), "failed"),
            Attempt(3760, (("init", 60), ("productive", 2500))),
        ),
    ),
    Run("no-account", gpus("i", 2), (hour(200),), accounts=False),
    Run("slow", gpus("j", 3), (Attempt(30, (("init", 60), ("productive", 5000))),), straggler=2),
)
#: GPUs of one host, as two exporters see all of them; on the first one a run of `FLEET` is.
SEEN = ("GPU-a-0", "GPU-idle-1", "GPU-idle-2")
SHARES = Counter(gpu for run in FLEET for gpu in run.gpus)
#: What the rules of GPU-hours read of the other ones; without the rest a test of hours takes seconds.
READ = re.compile(r"\b[a-z_]+:[a-z0-9_]+:[a-z0-9_]+\b")


def needed_rules(repository: Path) -> dict[str, Any]:
    """The rules of GPU-hours and all that they read, group by group as shipped."""
    groups = [
        group
        for path in sorted(repository.glob("prometheus/rules/*/*.yml"))
        for group in yaml.safe_load(path.read_text())["groups"]
    ]
    rules = {rule["record"]: rule["expr"] for group in groups for rule in group["rules"] if "record" in rule}
    wanted, new = set[str](), {RECORDED, HELD, LOST, "run_rank_cause:training_straggler_gpu_seconds:increase"}
    while new:
        wanted |= new
        new = {name for each in new for name in READ.findall(rules.get(each, ""))} - wanted
    kept = [
        group | {"rules": [rule for rule in group["rules"] if rule.get("record") in wanted]}
        for group in groups
    ]
    return {"groups": [group for group in kept if group["rules"]]}


def promtool_test(folder: Path, repository: Path, interval: str, asked: list[dict[str, Any]]) -> Path:
    """A test of promtool over the fleet."""
    series = [
        {"series": name, "values": " ".join(samples)}
        for run in FLEET
        for name, samples in run.series(SECONDS).items()
    ]
    for instance in ("x", "y"):
        for number, uuid in enumerate(SEEN):
            of = f'cluster="one",namespace="m",job="j",instance="{instance}",gpu="{number}"'
            every = f"x{SECONDS // SCRAPE_SECONDS}"
            series.append({"series": f"training_gpu_up{{{of}}}", "values": f"1{every}"})
            series.append({"series": f'training_gpu_info{{{of},uuid="{uuid}"}}', "values": f"1{every}"})
    test = {"interval": f"{SCRAPE_SECONDS}s", "input_series": series, "promql_expr_test": asked}
    (folder / "rules.yml").write_text(yaml.safe_dump(needed_rules(repository)))
    path = folder / "fleet.test.yml"
    path.write_text(
        yaml.safe_dump({"rule_files": ["rules.yml"], "evaluation_interval": interval, "tests": [test]})
    )
    return path


def holds(expr: str) -> dict[str, Any]:
    """That a comparison is true at the end."""
    return {"expr": expr, "eval_time": f"{HOURS}h", "exp_samples": [{"labels": "{}", "value": 1}]}


def within(matchers: str, seconds: float, of: float, name: str = "") -> dict[str, Any]:
    """That the GPU-seconds of some series are as many, give or take a hundredth `of` something."""
    name = name or (RECORDED if "kind" in matchers else HELD)
    found = f"(sum(sum_over_time({name}{{{matchers}}}[{HOURS}h])) or vector(0))"
    return holds(f"abs({found} - {seconds:.3f}) <= bool {TOLERANCE * of:.3f}")


def questions() -> list[dict[str, Any]]:
    """Each run by kind and as a whole, and all by cluster, project and owner."""
    asked = []
    held: Counter[tuple[str, str]] = Counter()
    for run in FLEET:
        truth = run.truth(SHARES)
        whole = sum(truth.values())
        this = f'cluster="{run.cluster}",run="{run.name}"'
        asked.append(within(this, whole, whole))
        asked += [within(f'{this},kind="{kind}"', seconds, whole) for kind, seconds in truth.items()]
        lost = sum(seconds for kind, seconds in truth.items() if kind not in {"productive", "unknown"})
        asked.append(within(this, lost, whole, LOST))
        asked.append(within(f'{this},kind!~"{"|".join(truth)}"', 0.0, whole))
        for name in ("cluster", "project", "owner"):
            held[name, getattr(run, name)] += whole
        held["counted", "gpu" if run.gpus[0] else "rank"] += whole
    # Two of the three GPUs all the time, and the first one while its run is not there.
    idle = 2 * SECONDS + SECONDS - (FLEET[0].attempts[0].end - FLEET[0].attempts[0].start)
    asked.append(within('run="",kind="idle"', idle, idle))
    for name, value in (("cluster", "one"), ("project", ""), ("owner", ""), ("counted", "gpu")):
        held[name, value] += idle
    asked += [within(f'{name}="{value}"', seconds, seconds) for (name, value), seconds in held.items()]
    return asked


@pytest.mark.parametrize("interval", ["1m", "45s"])
def test_gpu_hours_are_those_of_the_script(
    interval: str, promtool: str, repository: Path, tmp_path: Path
) -> None:
    """By run, kind, cluster, project and owner, whatever the interval of evaluation; no kind is made up."""
    test = promtool_test(tmp_path, repository, interval, questions())
    done = subprocess.run(
        [promtool, "test", "rules", str(test)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
