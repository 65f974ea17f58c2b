"""A training script that has metrics of its own, for tests: `python user_metrics_rank.py SETTINGS`.

Says `ready` once they are registered, and ends at the end of its input.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

from prometheus_client import REGISTRY, Counter, Enum, Gauge, Histogram, Info, Summary
from prometheus_client.core import GaugeMetricFamily

import trainbeacon


class Raising:
    """Registers well, and raises at every later collection."""

    def __init__(self) -> None:
        self.registered = False

    def collect(self) -> Iterator[GaugeMetricFamily]:
        if self.registered:
            raise RuntimeError("the user's collector is broken")
        self.registered = True
        yield GaugeMetricFamily("broken_metric", "Never there.", 1.0)


def register() -> None:
    episodes = Counter("episodes", "Episodes played.", ["env"])
    episodes.labels('cart\n"pole"').inc(3)
    Gauge("buffer_fill_ratio", "Share of the replay buffer in use.").set(0.25)
    rewards = Histogram("reward", "Reward of an episode.", ["rank"], buckets=(1.0, 10.0))
    for reward in (0.5, 5.0, 50.0):
        rewards.labels("first").observe(reward)
    Summary("rollout_seconds", "Time of a rollout.").observe(2.0)
    Info("policy", "Which policy.").info({"kind": "ppo"})
    Enum("stage", "Stage of the curriculum.", states=["easy", "hard"]).state("hard")
    Gauge("training_loss", "A name of ours.").set(99.0)
    Gauge("not_a_number", "NaN is a value.").set(float("nan"))


def main() -> None:
    settings = json.loads(sys.argv[1])
    broken = settings.pop("broken", False)
    with trainbeacon.start(**settings) as beacon:
        beacon.log(loss=1.0)
        if broken:
            REGISTRY.register(Raising())
        register()
        print("ready", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
