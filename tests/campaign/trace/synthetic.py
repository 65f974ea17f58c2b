"""Traces of which it is known who is slow, by the hundred, and how often the shipped rules are right.

python -m tests.campaign.trace.synthetic --count 200 --results traces.jsonl
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tests.campaign.trace.play import Said, judge
from tests.campaign.trace.table import read

KINDS = ("slow rank", "slow stage", "moving", "healthy")
#: What a phase is of the time that a worker computes.
SHARES = {"data-load": 0.05, "forward-compute": 0.32, "backward-compute": 0.55, "optimizer": 0.08}
CAUSES = {
    "data-load": "data_wait",
    "forward-compute": "forward",
    "backward-compute": "backward",
    "optimizer": "optimizer",
}
#: Healthy stages are cut to within that of their mean, below what is worth a message.
MOST_UNEVEN = 0.08
AT_ONCE = 20


@dataclass(frozen=True)
class Case:
    """One job.

    Attributes:
        kind: of `KINDS`.
        stages, replicas, steps: its size.
        step_seconds: what a worker of a mean stage computes a step.
        noise: coefficient of variation of an operation.
        slower: by how much the victim takes longer than its peers, or the stage than the mean of all.
        phase: where the victim takes longer.
        rank, stage: the victim.
        begins: the part of the trace before it is slow.
        seed: of all that is drawn.
    """

    kind: str
    stages: int
    replicas: int
    steps: int
    step_seconds: float
    noise: float
    slower: float = 0.0
    phase: str = ""
    rank: int = -1
    stage: int = -1
    begins: float = 0.0
    seed: int = 0


def draw(count: int, seed: int) -> list[Case]:
    """Cases of each kind by turns, at least a tenth slower where somebody is."""
    dice = np.random.default_rng(seed)
    cases = []
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        stages = int(dice.choice([2, 3, 4] if kind == "slow stage" else [1, 2, 3, 4]))
        replicas = int(dice.choice([2, 4, 8] if stages > 1 else [4, 8]))
        slow_rank, slow_stage = kind == "slow rank", kind == "slow stage"
        cases.append(
            Case(
                kind,
                stages,
                replicas,
                steps=int(dice.choice([24, 60, 150])),
                step_seconds=float(dice.choice([0.4, 2.0, 6.0, 20.0])),
                noise=float(dice.uniform(0.15, 0.4) if kind == "moving" else dice.uniform(0.005, 0.03)),
                # Of a stage against the mean of all, of which it is one.
                slower=float(
                    dice.uniform(0.1, 0.5) if slow_rank else dice.uniform(0.15, 0.5) if slow_stage else 0
                ),
                phase=str(dice.choice([*CAUSES])) if slow_rank else "",
                rank=int(dice.integers(stages * replicas)) if slow_rank else -1,
                stage=int(dice.integers(stages)) if slow_stage else -1,
                begins=float(dice.choice([0.0, 0.5])) if slow_rank else 0.0,
                seed=seed * 100_003 + number,
            )
        )
    return cases


def rows(case: Case) -> Iterator[str]:
    """The job as a table."""
    dice = np.random.default_rng(case.seed)
    yield "worker,dp,pp,step,phase,start,end"
    cut = 1 + MOST_UNEVEN * dice.uniform(-1, 1, case.stages)
    cut /= cut.mean()
    if case.stage >= 0:
        cut = np.ones(case.stages)
        cut[case.stage] = (case.stages - 1) * (1 + case.slower) / (case.stages - 1 - case.slower)
    now = 1_700_000_000.0
    for step in range(case.steps):
        spent: list[dict[str, float]] = []
        for rank in range(case.stages * case.replicas):
            # The work of a batch is that of all its operations: long sequences are long in both passes.
            work = float(dice.lognormal(0, case.noise))
            seconds = {
                phase: case.step_seconds * share * cut[rank // case.replicas] * work
                for phase, share in SHARES.items()
            }
            if rank == case.rank and step >= case.begins * case.steps:
                seconds[case.phase] += case.slower * sum(seconds.values())
            spent.append(seconds)
        length = 1.25 * max(sum(each.values()) for each in spent)
        for rank, seconds in enumerate(spent):
            at, who = now, f"{rank},{rank % case.replicas},{rank // case.replicas},{step}"
            for phase, taken in seconds.items():
                yield f"{who},{phase},{at:.6f},{at + taken:.6f}"
                at += taken
            yield f"{who},{'forward-recv' if case.stages > 1 else 'grads-sync'},{at:.6f},{now + length:.6f}"
        now += length


def is_right(case: Case, said: Said) -> bool:
    """Whether the one at fault is named, and nobody else."""
    ranks = {case.rank} if case.kind == "slow rank" else set()
    stages = {str(case.stage)} if case.kind == "slow stage" else set()
    return ranks == set(said.slow) and stages == set(said.stages)


def play(cases: Sequence[Case]) -> list[Said]:
    """What the rules say of each."""
    found: list[Said] = []
    with tempfile.TemporaryDirectory() as folder:
        for first in range(0, len(cases), AT_ONCE):
            traces = {}
            for number, case in enumerate(cases[first : first + AT_ONCE]):
                path = Path(folder) / f"{number}.csv"
                path.write_text("\n".join(rows(case)) + "\n")
                traces[str(number)] = read(path)
            found += judge(traces).values()
    return found


def figures(cases: Sequence[Case], said: Sequence[Said]) -> dict[str, float]:
    """How often the rules are right: of ranks and stages alike."""
    pairs = list(zip(cases, said, strict=True))
    true = sum((case.rank in one.slow) + (str(case.stage) in one.stages) for case, one in pairs)
    named = sum(len(one.slow) + len(one.stages) for _, one in pairs)
    faults = sum(case.kind.startswith("slow") for case in cases)
    caught = [(case, one) for case, one in pairs if case.rank in one.slow]
    return {
        "cases": len(cases),
        "faults": faults,
        "recall": true / max(1, faults),
        "precision": true / max(1, named),
        "cause": sum(CAUSES[case.phase] == one.causes.get(case.rank) for case, one in caught)
        / max(1, len(caught)),
        "right": sum(is_right(case, one) for case, one in pairs) / max(1, len(pairs)),
        "healthy": sum(not case.kind.startswith("slow") for case in cases),
        "healthy named": sum(
            bool(one.slow or one.stages) for case, one in pairs if not case.kind.startswith("slow")
        ),
    }


def main() -> int:
    """Print the figures; 1 if they are below 0.97."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--results", type=Path, help="file that a line of JSON is added to for each case")
    options = parser.parse_args()
    cases = draw(options.count, options.seed)
    said = play(cases)
    for case, one in zip(cases, said, strict=True):
        line = json.dumps({**asdict(case), "right": is_right(case, one), "said": asdict(one)})
        if options.results:
            with options.results.open("a") as file:
                file.write(line + "\n")
        if not is_right(case, one):
            print(line)
    found = figures(cases, said)
    print(json.dumps({name: round(value, 3) for name, value in found.items()}))
    return int(min(found["recall"], found["precision"], found["cause"]) < 0.97 or found["healthy named"] > 0)


if __name__ == "__main__":
    sys.exit(main())
