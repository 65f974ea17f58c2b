"""Which hyperparameters come first where there are more than a run has room for, as of `vars(args)`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

#: What a run is compared by, the most telling first; matched as words of a name.
_TELLING = (
    r"lr|learning_?rate",
    r"batch|batch_?size|accumulation(_?steps)?",
    r"optim(izer)?",
    r"seed",
    r"epochs|max_?steps|num_?steps|train_?steps",
    r"model|architecture|arch",
    r"weight_?decay|wd",
    r"warm_?up(_?(steps|ratio))?",
    r"scheduler|schedule",
    r"momentum|beta[s12]?|eps(ilon)?",
    r"dropout",
    r"clip|grad_?norm",
    r"precision|dtype|fp16|bf16|amp",
    r"layers?|hidden(_?size)?|dim|heads|width|depth",
    r"seq(uence)?_?len(gth)?|context|max_?length",
    r"dataset|data",
)
_PATTERNS = [re.compile(rf"(^|[._\-/])({words})([._\-/]|$)", re.IGNORECASE) for words in _TELLING]


def telling_first(given: Mapping[str, Any], most: int) -> Mapping[str, Any]:
    """The same hyperparameters; where there are more than `most`, the telling ones first."""
    if len(given) <= most:
        return given
    places = {name: _place(str(name)) for name in given}
    return {name: given[name] for name in sorted(given, key=places.__getitem__)}


def _place(name: str) -> int:
    found = (place for place, pattern in enumerate(_PATTERNS) if pattern.search(name))
    return next(found, len(_PATTERNS))
