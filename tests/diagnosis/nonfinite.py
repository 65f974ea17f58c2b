"""A NaN planted in a layer of a rank of a real job, and whether the shipped rules name both.

`inject` trains real processes over gloo, and has promtool evaluate the shipped rules over what the exporter
would serve of them.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import yaml

from tests.diagnosis.nonfinite_rank import Fault, layer_names
from tools import stack
from trainbeacon.blackbox.directory import open_directory
from trainbeacon.blackbox.reader import BoxDirectory
from trainbeacon.demo.launch import Ranks
from trainbeacon.exporter.collectors.base import Families
from trainbeacon.exporter.collectors.ranks import RanksCollector

REPOSITORY = Path(__file__).resolve().parents[2]
RULES = [
    REPOSITORY / f"prometheus/rules/{name}.yml"
    for name in ("recording/identity", "recording/numerics", "alerts/quality")
]
GROUPS = ["trainbeacon-identity", "trainbeacon-numerics", "trainbeacon-quality"]
NAMED = "run_rank:training_nonfinite_origin:info"
GRADIENT_NORM = "run:training_gradient_norm:total"
SQUARES = "training_gradient_squared_norm"
PARAMETER_NORM = "run:training_parameter_norm:total"
RECORDED = (NAMED, GRADIENT_NORM, PARAMETER_NORM)
START_SECONDS, RUN_SECONDS = 90, 15

Labels = dict[str, str]


@dataclass(frozen=True)
class Outcome:
    """What the rules said of one fault.

    Attributes:
        rank: `right` (the victim and nobody else), `wrong`, or `missed` (nobody).
        layer: likewise of the layer that is named for the victim; `range` if it is one of two named ones.
        step: whether the victim tells the very step.
        named: ranks that are named, with layer and kind.
        norms: recorded norms of the whole run, by the name of the rule.
        truth: the true ones, from the rank program.
        shares: ranks that serve a square of their own shards' gradients.
    """

    fault: Fault
    world_size: int
    rank: str
    layer: str
    step: bool
    named: tuple[tuple[int, str, str], ...]
    norms: dict[str, float]
    truth: dict[str, float]
    shares: int


def inject(
    place: str,
    layer: str,
    victim: int,
    *,
    world_size: int = 2,
    strategy: str = "ddp",
    step: int = 4,
    clip: bool = False,
    whole: bool = False,
    seed: int = 0,
) -> Outcome:
    """Plant one NaN and judge what the rules made of it; the arguments are those of `Fault`."""
    fault = Fault("run", "", strategy, place, layer, victim, step, clip, whole, seed)
    return inject_all([fault], world_size)[0]


def inject_all(faults: Sequence[Fault], world_size: int) -> list[Outcome]:
    """Several faults, one run after the other in the same processes."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        folder.chmod(0o700)
        named = [
            replace(fault, run=f"run-{number:03}", folder=scratch) for number, fault in enumerate(faults)
        ]
        truths = _train(named, world_size, folder)
        series = _scrape(folder)
    found = _evaluate(series)
    return [
        _judge(fault, world_size, series, found, truth) for fault, truth in zip(named, truths, strict=True)
    ]


def _train(faults: Sequence[Fault], world_size: int, folder: Path) -> list[dict[str, float]]:
    truths = []

    def on_line(rank: int, line: str) -> None:
        if rank == 0:
            truths.append(json.loads(line))

    arguments = [json.dumps([asdict(fault) for fault in faults])]
    with Ranks(world_size, arguments, folder, on_line, "tests.diagnosis.nonfinite_rank") as ranks:
        end = time.monotonic() + START_SECONDS + RUN_SECONDS * len(faults)
        while (ranks.alive or len(truths) < len(faults)) and time.monotonic() < end:
            if any(ranks.results()):
                break
            time.sleep(0.02)
        results = ranks.results()
    if results != [0] * world_size or len(truths) < len(faults):
        logs = "\n".join(path.read_text()[-2000:] for path in folder.glob("rank*.log"))
        raise RuntimeError(f"the ranks ended with {results}:\n{logs}")
    return truths


def _scrape(folder: Path) -> list[tuple[str, Labels, float]]:
    families = Families()
    RanksCollector(BoxDirectory(open_directory(str(folder))), linger_seconds=600).collect(families)
    return [
        (sample.name, sample.labels, sample.value)
        for family in families
        for sample in family.samples
        if not sample.name.endswith(("_bucket", "_created"))
    ]


def _evaluate(series: Sequence[tuple[str, Labels, float]]) -> dict[str, list[tuple[Labels, float]]]:
    """What the shipped rules record, by promtool; by the name of the rule."""
    promtool = stack.find("promtool")
    if promtool is None:
        raise FileNotFoundError("promtool")
    text = {
        "rule_files": [str(rules) for rules in RULES],
        "evaluation_interval": "15s",
        "group_eval_order": GROUPS,
        "tests": [
            {
                "interval": "15s",
                "input_series": [
                    {"series": _as_text(name, labels), "values": " ".join([repr(value)] * 3)}
                    for name, labels, value in series
                ],
                "promql_expr_test": [
                    # The one sample that is expected makes promtool tell all that there are.
                    {"expr": expression, "eval_time": "30s", "exp_samples": [{"labels": "x", "value": 0}]}
                    for expression in RECORDED
                ],
            }
        ],
    }
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        yaml.safe_dump(text, file)
        file.flush()
        done = subprocess.run(
            [promtool, "test", "rules", file.name], capture_output=True, text=True, timeout=120, check=False
        )
    output = (done.stdout + done.stderr).replace('\\"', '"')  # older versions quote the labels
    parts = output.split("got:")[1:]
    if len(parts) != len(RECORDED):
        raise RuntimeError(output)
    return dict(zip(RECORDED, map(_samples, parts), strict=True))


def _samples(text: str) -> list[tuple[Labels, float]]:
    return [
        (dict(re.findall(r'(\w+)="([^"]*)"', sample.group(1))), float(sample.group(2)))
        for sample in re.finditer(r'\{([^{}]*)\}"? (?:Sample:)?(\S+?)[,}]*\s', text + "\n")
        if "run=" in sample.group(1)
    ]


def _as_text(name: str, labels: Labels) -> str:
    return name + "{" + ", ".join(f'{label}="{value}"' for label, value in labels.items()) + "}"


def _judge(
    fault: Fault,
    world_size: int,
    series: Sequence[tuple[str, Labels, float]],
    found: dict[str, list[tuple[Labels, float]]],
    truth: dict[str, float],
) -> Outcome:
    named = {
        (int(labels["rank"]), labels.get("layer", ""), labels["kind"])
        for labels, _ in found[NAMED]
        if labels["run"] == fault.run
    }
    ranks = {rank for rank, _, _ in named}
    layers = {layer for rank, layer, _ in named if rank == fault.victim and layer}
    norms = {
        name: value
        for name in (GRADIENT_NORM, PARAMETER_NORM)
        for labels, value in found[name]
        if labels["run"] == fault.run
    }
    steps = {
        value
        for name, labels, value in series
        if name == "training_nonfinite_first_step"
        and (labels["run"], labels["rank"]) == (fault.run, str(fault.victim))
    }
    return Outcome(
        fault,
        world_size,
        _verdict(ranks, {fault.victim} if fault.place != "nothing" else set()),
        "range"
        if any(fault.layer in each.split("..")[:2] for each in layers if ".." in each)
        else _verdict(layers, {fault.layer} if fault.place != "nothing" else set()),
        steps == {float(fault.step)},
        tuple(sorted(named)),
        norms,
        truth,
        [(name, labels["run"]) for name, labels, _ in series].count((SQUARES, fault.run)),
    )


def _verdict(found: set[int] | set[str], truth: set[int] | set[str]) -> str:
    if found == truth:
        return "right"
    return "wrong" if found else "missed"


def drawn(seed: int, count: int, world_size: int) -> list[Fault]:
    """Faults with random place, layer, victim, step, strategy and clipping."""
    draw = random.Random(seed)
    faults = []
    for _ in range(count):
        strategy = draw.choice(
            ("ddp", "fsdp2") if world_size % 2 or world_size < 4 else ("ddp", "fsdp2", "hsdp")
        )
        place = draw.choice(("weight", "activation", "gradient"))
        layer = draw.choice(layer_names())
        victim, step = draw.randrange(world_size), draw.randrange(2, 6)
        clip, whole = draw.random() < 0.5, draw.random() < 0.3
        faults.append(
            Fault("", "", strategy, place, layer, victim, step, clip, whole, draw.randrange(10_000))
        )
    return faults


def main() -> int:
    """`python -m tests.diagnosis.nonfinite --count 40`: the rates by place and strategy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20, help="faults for each world size")
    parser.add_argument("--worlds", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    outcomes: list[Outcome] = []
    for world_size in options.worlds:
        outcomes += inject_all(drawn(options.seed + world_size, options.count, world_size), world_size)
        _print_rates(f"up to {world_size} ranks", outcomes)
    return int(any(outcome.rank == "wrong" for outcome in outcomes))


def _print_rates(title: str, outcomes: Sequence[Outcome]) -> None:
    print(title, len(outcomes), "faults, right step:", sum(outcome.step for outcome in outcomes))
    for outcome in outcomes:
        if outcome.rank != "right" or outcome.layer not in ("right", "range") or not outcome.step:
            print(" ", outcome.rank, outcome.layer, outcome.step, outcome.named, outcome.fault)
    for subject in ("rank", "layer"):
        for key in sorted({(each.fault.strategy, each.fault.place) for each in outcomes}):
            chosen = [each for each in outcomes if (each.fault.strategy, each.fault.place) == key]
            print(" ", subject, *key, dict(Counter(getattr(each, subject) for each in chosen)))
        print(" ", subject, "all", dict(Counter(getattr(each, subject) for each in outcomes)), flush=True)


if __name__ == "__main__":
    sys.exit(main())
