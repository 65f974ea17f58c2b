"""The demo's display is read from /metrics."""

from __future__ import annotations

import math

from trainbeacon import catalogue
from trainbeacon.demo import progress
from trainbeacon.demo.terminal import figures


def sample(name: str, value: float, **labels: str) -> str:
    """One line of an exposition; the name must be in the catalogue, with these labels."""
    assert set(catalogue.BY_NAME[name].label_names) == {"run", *labels}
    text = ",".join(f'{label}="{value}"' for label, value in ({"run": "demo"} | labels).items())
    return f"{name}{{{text}}} {value}\n"


EXPOSITION = "".join(
    sample("training_step", step, rank=rank)
    + sample("training_loss", 2.0 + step, rank=rank, split="train")
    + sample("training_tokens_per_second", 100.0, rank=rank)
    + sample("training_state", 1.0, rank=rank, state=state)
    + sample("training_state", 0.0, rank=rank, state="finished")
    for rank, step, state in (("0", 7, "running"), ("1", 5, "crashed"))
)
FROM_RANK_0 = sample("training_steps_planned", 40.0) + sample(
    "training_accuracy_ratio", 0.25, rank="0", split="validation"
)


def test_the_ranks_become_one_line() -> None:
    """Slowest step, mean loss, summed throughput, and the ranks that are not running."""
    read = progress.parse(EXPOSITION + FROM_RANK_0, "demo")
    assert (read.step, read.planned, read.loss, read.tokens_per_second) == (5, 40, 8.0, 200.0)
    assert read.validation_accuracy == 0.25
    assert read.states == {"0": "running", "1": "crashed"}
    assert figures(read) == "loss 8.00  accuracy 25%  tokens/s 200  rank 1 crashed"


def test_other_runs_do_not_count() -> None:
    """Series of another run on the same port are not mixed in."""
    assert progress.parse(EXPOSITION, "other") == progress.Progress()


def test_a_nan_is_shown() -> None:
    """A loss that is NaN is shown as such."""
    assert figures(progress.Progress(loss=math.nan)) == "loss nan"
