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
from trainbeacon.recorder.checkpoints.targets import Target, target_of_distributed, target_of_save
from trainbeacon.recorder.core.patch import Ended, observe
from trainbeacon.recorder.core.recorder import Recorder
from trainbeacon.recorder.core.timeline import CHECKPOINT, Declared

_DISTRIBUTED = "torch.distributed.checkpoint"


class TorchSaveHooks:
    """Observes torch's functions that save, until `remove`. Made in the training thread."""

    def __init__(self, recorder: Recorder, checkpoints: Checkpoints) -> None:
        self._recorder = recorder
        self._checkpoints = checkpoints
        self._step = -1
        self._over = False
        self._removals: list[Callable[[], None]] = []
        self._observe(sys.modules["torch"], "save", target_of_save, anonymous=False)
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
        self._observe(module, "save", target_of_distributed, anonymous=True)
        self._observe(module, "async_save", target_of_distributed, anonymous=True)

    def remove(self) -> None:
        """Observe them no more."""
        self._over = True
        while self._removals:
            self._removals.pop()()

    def _observe(self, module: Any, name: str, target: Target, *, anonymous: bool) -> None:
        started = self._recorder.guarded("hooks", partial(self._begin, target, anonymous))
        self._removals.append(observe(module, name, started))

    def _begin(
        self, target: Target, anonymous: bool, args: Sequence[Any], keywords: Mapping[str, Any]
    ) -> Ended | None:
        if self._over or threading.get_ident() != self._recorder.timeline.thread:
            return None
        within = self._checkpoints.current
        if within is not None:
            return self._recorder.guarded("hooks", partial(_adopt, within)) if anonymous else None
        path = target(args, keywords)
        if path is None and not anonymous:
            return None
        timeline = self._recorder.timeline
        step = timeline.step_end[0]
        saving = self._checkpoints.begin(path, named=False, goes_on=step == self._step)
        self._step = step
        declared = timeline.push_phase(CHECKPOINT)
        return self._recorder.guarded("hooks", partial(self._end, saving, declared))

    def _end(
        self, saving: Saving, declared: Declared | None, result: Any, error: BaseException | None
    ) -> None:
        if not self._over:
            _adopt(saving, result, error)
            saving.left(error)
            self._recorder.timeline.pop_phase(declared)


def _adopt(saving: Saving, result: Any, error: BaseException | None) -> None:
    """What a saving returned may be the future that it finishes with."""
    if error is None and is_future(result):
        saving.finishes_with(result)
