"""What a name means that a script has chosen: `train/loss`, `val_acc`, `eval/perplexity`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

#: First part of a name: of which split it is.
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "eval": "validation",
    "evaluation": "validation",
    "dev": "validation",
    "test": "test",
}
#: What is left of a name: the argument of `Beacon.log` that means the same.
ARGUMENTS = {
    "loss": "loss",
    "acc": "accuracy",
    "accuracy": "accuracy",
    "lr": "learning_rate",
    "learning_rate": "learning_rate",
    "grad_norm": "gradient_norm",
    "gradient_norm": "gradient_norm",
    "epoch": "epoch",
}
#: Of the training only: a learning rate of the validation is somebody's own number.
_OF_TRAINING = {"learning_rate", "gradient_norm", "epoch"}
#: Arguments of `Beacon.log` that no name of a script may hit by chance.
_RESERVED = {"split", "step", *ARGUMENTS.values()}

_PARTS = re.compile(r"[/_.\-]")


@dataclass(frozen=True)
class Recorded:
    """One number on its way to `Beacon.log`: the argument or the name, the value, the split."""

    name: str
    value: Any
    split: str


def meaning(name: str, value: Any) -> Recorded:
    """What a number is, by its name. A name of no sure meaning stays as it is."""
    head, separator, rest = _split_off(name)
    split = SPLITS.get(head.lower(), "train") if separator else "train"
    bare = rest if separator and head.lower() in SPLITS else name
    argument = ARGUMENTS.get(bare.lower())
    if argument in _OF_TRAINING and split != "train":
        argument = None
    if argument == "accuracy" and not _is_ratio(value):
        argument = None
    if argument is not None:
        return Recorded(argument, value, split)
    return Recorded(f"{name}_logged" if name in _RESERVED else name, value, split)


def says_split(name: str) -> bool:
    """Whether a name begins with the split that it is of."""
    head, separator, _ = _split_off(name)
    return bool(separator) and head.lower() in SPLITS


def _split_off(name: str) -> tuple[str, str, str]:
    found = _PARTS.search(name)
    if found is None:
        return name, "", ""
    return name[: found.start()], found.group(), name[found.end() :]


def _is_ratio(value: Any) -> bool:
    """Whether it may be an accuracy from 0 to 1; a percentage is a number of the script's own."""
    if getattr(value, "is_cuda", False):
        return False
    try:
        return 0.0 <= float(value) <= 1.0
    except (TypeError, ValueError, RuntimeError):
        return False
