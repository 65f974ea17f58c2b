"""How many steps fit into the time given, agreed by all ranks: they must stop after the same step."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import distributed

_TRIES = 8
_SHARE_FOR_STEPS = 0.85  # the rest goes into evaluations and checkpoints


def steps_in(seconds: float, work: Callable[[], object]) -> int:
    """How often the slowest rank could do `work` in this time. A collective: all ranks must call it."""
    work()  # the first time is slower: memory, buckets, connections
    started = time.perf_counter()
    for _ in range(_TRIES):
        work()
    one = torch.tensor((time.perf_counter() - started) / _TRIES)
    distributed.all_reduce(one, op=distributed.ReduceOp.MAX)
    return max(1, int(_SHARE_FOR_STEPS * seconds / one.item()))


class Deadline:
    """The end of the time given, in seconds from now."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def over(self) -> bool:
        """Whether the time is up on any rank. A collective: all ranks must call it at the same step."""
        late = torch.tensor(float(time.monotonic() >= self._end))
        distributed.all_reduce(late, op=distributed.ReduceOp.MAX)
        return bool(late.item())
