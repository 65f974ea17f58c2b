"""Counting the FLOPs of a model's first whole step, by hooks that are gone afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trainbeacon.recorder.core.patch import Ended, observe
from trainbeacon.recorder.core.recorder import Recorder
from trainbeacon.recorder.goodput.flop_counter import Counter
from trainbeacon.recorder.hooks.traced import Hook


class FlopHooks:
    """The hooks of one model.

    Args:
        model: not compiled: torch's counter does not see into compiled modules.
        take: called with the FLOPs of the first step, once.
    """

    def __init__(self, recorder: Recorder, model: Any, take: Callable[[float], None]) -> None:
        import torch

        self._take = take
        self._timeline = recorder.timeline
        self._counter = Counter()
        self._begun_at = recorder.timeline.step_end[0]
        self._over = False
        begins = Hook(model, recorder, self._forward_begins)
        ends = Hook(model, recorder, self._forward_ends)
        self._backward_ends = recorder.guarded("hooks", self._end)
        self._removals = [
            observe(torch.autograd, "backward", recorder.guarded("hooks", self._backward_begins)),
            model.register_forward_pre_hook(begins).remove,
            model.register_forward_hook(ends, always_call=True).remove,
        ]

    def remove(self) -> None:
        """Count no more, and take the hooks away."""
        self._over = True
        self._counter.end()
        while self._removals:
            self._removals.pop()()

    def _forward_begins(self, module: Any, *_: Any) -> None:
        if not module.training or self._over:
            return
        if self._counter.total and self._timeline.step_end[0] > self._begun_at:  # a whole step was counted
            self.remove()
            self._take(float(self._counter.total))
        else:
            self._counter.begin()

    def _forward_ends(self, *_: Any) -> None:
        self._counter.end()

    def _backward_begins(self, args: Sequence[Any], keywords: Mapping[str, Any]) -> Ended | None:
        if not self._counter.total or self._over:  # of another model's, before the first forward pass
            return None
        self._counter.begin()
        return self._backward_ends

    def _end(self, result: Any, error: BaseException | None) -> None:
        self._counter.end()
