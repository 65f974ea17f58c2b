"""Are the alert rules tested? Each is broken in every one way, and the tests that name it have to find that.

    make mutants                                # all alerts, half an hour; writes docs/mutants.md
    make mutants ARGS="--alert TrainingStalled" # some, printed
    make mutants ARGS="--sample 40"             # a sample, printed

A mutant dies by the lint of the rules (tools/rule_lint.py), which reads all of them, or by a scenario of its
alert (tests/rules/*.test.yml) on promtool. Those that live need a written reason in
tools/mutants/reasons.yml, else this ends with 1. Inhibitions have their mutants in
tests/routes/test_inhibition.py, on a real Alertmanager.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

from tools import stack
from tools.mutants import report
from tools.mutants.scenarios import Mutant, all_mutants, survivors
from tools.rule_lint import problems

REASONS = Path(__file__).with_name("reasons.yml")


def main(arguments: Sequence[str] | None = None) -> int:
    """Break the rules and say which tests did not notice."""
    parser = argparse.ArgumentParser(prog="make mutants", description="Mutants of the alert rules.")
    parser.add_argument("--alert", action="append", default=[], help="only of this alert; more than once")
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="only N of them, chosen by --seed")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--jobs", type=int, default=2, help="alerts at a time")
    chosen = parser.parse_args(arguments)
    tried = all_mutants(chosen.alert)
    if missing := set(chosen.alert) - set(tried):
        parser.error(f"--alert {', '.join(sorted(missing))}: no alert of this name in prometheus/rules")
    if chosen.sample:
        tried = sampled(tried, chosen.sample, chosen.seed)
    result = judge(tried, chosen.jobs)
    print(result.summary())
    if not chosen.alert and not chosen.sample:
        report.write(result)
    return 1 if result.unexplained else 0


def sampled(tried: Mapping[str, Sequence[Mutant]], count: int, seed: int) -> dict[str, list[Mutant]]:
    """So many of all mutants; the same seed gives the same."""
    everything = [mutant for mutants in tried.values() for mutant in mutants]
    picked = random.Random(seed).sample(everything, min(count, len(everything)))
    return {alert: [one for one in picked if one.alert == alert] for alert in {one.alert for one in picked}}


def judge(tried: Mapping[str, Sequence[Mutant]], jobs: int) -> report.Result:
    """Which of the mutants live, alert by alert."""
    promtool = stack.find("promtool")
    if promtool is None:
        sys.exit("promtool is not there: run `make tools` first")
    linted = [mutant for mutants in tried.values() for mutant in mutants if problems(dict(mutant.rule))]
    dead = set(linted)

    def of(alert: str) -> list[Mutant]:
        left = survivors(promtool, alert, [mutant for mutant in tried[alert] if mutant not in dead])
        print(f"{alert}: {len(left)} of {len(tried[alert])} live", file=sys.stderr, flush=True)
        return left

    with ThreadPoolExecutor(jobs) as pool:
        living = [mutant for left in pool.map(of, sorted(tried)) for mutant in left]
    reasons = yaml.safe_load(REASONS.read_text("utf-8")) or {}
    return report.Result(
        {alert: len(mutants) for alert, mutants in tried.items()}, len(linted), tuple(living), reasons
    )


if __name__ == "__main__":
    sys.exit(main())
