"""Checkpoints seen by themselves: `torch.save` and `torch.distributed.checkpoint`, where torch looks them up.

A saving counts if the training thread makes it to a file with a name, outside `beacon.checkpoint` and
outside another saving. Files that are saved after the same step are one checkpoint.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from trainbeacon.recorder.checkpoints.checkpoints import Checkpoints, Saving, is_future
from trainbeacon.recorder.checkpoints.save_hooks import Ended, observed, target_of_distributed, target_of_save
from trainbeacon.recorder.core.recorder import Recorder
from trainbeacon.recorder.core.timeline import CHECKPOINT

_DISTRIBUTED = "torch.distributed.checkpoint"
_Target = Callable[[Sequence[Any], Mapping[str, Any]], "str | None"]


class TorchSaveHooks:
    """Our functions in the place of torch's, until `remove`. Made in the training thread."""

    def __init__(self, recorder: Recorder, checkpoints: Checkpoints) -> None:
        self._recorder = recorder
        self._checkpoints = checkpoints
        self._thread = threading.get_ident()
        self._step = -1
        self._over = False
        self._removals: list[Callable[[], None]] = []
        self._replace(sys.modules["torch"], "save", target_of_save, anonymous=False)
        self._distributed = False
        self.poll()

    def poll(self) -> None:
        """Watch `torch.distributed.checkpoint` once the script has loaded it; from any thread."""
        module = sys.modules.get(_DISTRIBUTED)
        if (
            self._distributed
            or self._over
            or not hasattr(module, "async_save")
            or not hasattr(module, "save")
        ):
            return
        self._distributed = True
        self._replace(module, "save", target_of_distributed, anonymous=True)
        self._replace(module, "async_save", target_of_distributed, anonymous=True)

    def remove(self) -> None:
        """Put torch's own functions back."""
        self._over = True
        while self._removals:
            self._removals.pop()()

    def _replace(self, module: Any, name: str, target: _Target, *, anonymous: bool) -> None:
        original = getattr(module, name)

        def begins(args: Sequence[Any], keywords: Mapping[str, Any]) -> Ended | None:
            found: Ended | None = self._recorder.guard(
                "hooks", self._begin, target, args, keywords, anonymous
            )
            return found

        ours = observed(original, begins)
        setattr(module, name, ours)

        def restore() -> None:
            if getattr(module, name) is ours:
                setattr(module, name, original)

        self._removals.append(restore)

    def _begin(
        self, target: _Target, args: Sequence[Any], keywords: Mapping[str, Any], anonymous: bool
    ) -> Ended | None:
        if self._over or threading.get_ident() != self._thread:
            return None
        within = self._checkpoints.current
        if within is not None:
            return partial(self._recorder.guard, "hooks", _adopt, within) if anonymous else None
        path = target(args, keywords)
        if path is None and not anonymous:
            return None
        timeline = self._recorder.timeline
        step = timeline.step_end[0]
        saving = self._checkpoints.begin(path, named=False, goes_on=step == self._step)
        self._step = step
        timeline.push_phase(CHECKPOINT)
        return partial(self._recorder.guard, "hooks", self._end, saving)

    def _end(self, saving: Saving, result: Any, error: BaseException | None) -> None:
        if not self._over:
            _adopt(saving, result, error)
            saving.left(error)
            self._recorder.timeline.pop_phase()


def _adopt(saving: Saving, result: Any, error: BaseException | None) -> None:
    """What a saving returned may be the future that it finishes with."""
    if error is None and is_future(result):
        saving.finishes_with(result)
