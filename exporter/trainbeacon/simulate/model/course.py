"""The course of a training by its step: loss, accuracy, learning rate, norms. Pure functions with noise."""

from __future__ import annotations

import math

from .noise import normal
from .workload import Workload

_TRAIN, _VALIDATION, _TEST, _NORM, _LAYER = range(5)
_SPLITS = {"train": _TRAIN, "validation": _VALIDATION, "test": _TEST}
#: How much the loss of one batch scatters, of its size, and of a whole evaluation.
_SCATTER = {"train": 0.018, "validation": 0.003, "test": 0.003}


def smooth_loss(workload: Workload, step: int, split: str = "train") -> float:
    """The loss at a step without scatter: a power law down to a floor."""
    fallen = (1.0 + step / workload.loss_steps) ** -workload.loss_exponent
    smooth = workload.loss_floor + (workload.loss_first - workload.loss_floor) * fallen
    gap = 1.0 if split == "train" else 1.025 + 0.03 * step / workload.steps_planned
    return float(smooth * gap)


def loss(workload: Workload, seed: int, step: int, split: str = "train", rank: int = 0) -> float:
    """The loss at a step; ranks differ by their batches."""
    # The scatter has a memory: batches are drawn at random, weights move slowly.
    slow = normal(seed, _SPLITS[split], step // 40) * 0.4
    scatter = _SCATTER[split] * (normal(seed, _SPLITS[split], step, rank) + slow)
    return smooth_loss(workload, step, split) * (1.0 + scatter)


def accuracy(workload: Workload, loss: float) -> float:
    """The accuracy that goes with a loss, 0 to 1."""
    if not loss < workload.loss_first:
        return 0.001
    span = workload.loss_first - 0.8 * workload.loss_floor
    return float(min(0.995, max(0.001, ((workload.loss_first - loss) / span) ** 1.7)))


def learning_rate(workload: Workload, step: int) -> float:
    """Linear warm-up, then a cosine down to a tenth."""
    if step < workload.warmup_steps:
        return workload.learning_rate * (step + 1) / workload.warmup_steps
    done = (step - workload.warmup_steps) / max(1, workload.steps_planned - workload.warmup_steps)
    return workload.learning_rate * (0.1 + 0.45 * (1.0 + math.cos(math.pi * min(1.0, done))))


def gradient_norm(workload: Workload, seed: int, step: int) -> float:
    """High at first, then settling a little below the limit that it is clipped to."""
    settled = 0.55 + 4.0 / (1.0 + step / 150)
    return settled * math.exp(0.16 * normal(seed, _NORM, step))


def parameter_norm(workload: Workload, step: int) -> float:
    """Grows with the logarithm of the steps."""
    return math.sqrt(workload.checkpoint_bytes / 1e6) * (1.0 + 0.06 * math.log1p(step / 500))


def layer(workload: Workload, seed: int, step: int, index: int) -> dict[str, float]:
    """What is recorded of one layer, by metric."""
    share = 0.2 + 0.6 / (1 + index)
    wiggle = 1.0 + 0.08 * normal(seed, _LAYER, step // 20, index)
    return {
        "training_layer_gradient_norm": gradient_norm(workload, seed, step // 20 * 20) * share * wiggle,
        "training_layer_gradient_mean": 1e-6 * normal(seed, _LAYER, step // 20, index, 7),
        "training_layer_zero_ratio": 0.002 * (1 + index) * abs(wiggle),
        "training_layer_weight_norm": parameter_norm(workload, step) * share,
        "training_layer_weight_stddev": 0.02 + 0.004 * share * math.log1p(step / 500),
    }
