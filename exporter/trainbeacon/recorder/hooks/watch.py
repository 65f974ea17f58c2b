"""What `Beacon.watch` puts in place, over all its calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trainbeacon.recorder.checkpoints.checkpoints import Checkpoints
from trainbeacon.recorder.core.recorder import Recorder
from trainbeacon.recorder.core.steps import StepCount
from trainbeacon.recorder.goodput.mfu import Flops
from trainbeacon.recorder.hooks.compiler import skip_in_dynamo

if TYPE_CHECKING:
    import torch

    from trainbeacon.recorder.checkpoints.torch_saves import TorchSaveHooks
    from trainbeacon.recorder.hooks.flops import FlopHooks
    from trainbeacon.recorder.hooks.hooks import Hooks


class ModelWatcher:
    """The hooks, the watch over saves and the count of FLOPs of one beacon.

    Attributes:
        hooks: one for each call of `watch`.
    """

    def __init__(self, recorder: Recorder, steps: StepCount, checkpoints: Checkpoints, flops: Flops) -> None:
        self._recorder = recorder
        self._steps = steps
        self._checkpoints = checkpoints
        self._flops = flops
        self._saves: TorchSaveHooks | None = None
        self._watches_saves = False
        self._removable: list[Hooks | TorchSaveHooks | FlopHooks] = []
        self.hooks: list[Hooks] = []

    def watch(self, model: Any, optimizers: Sequence[torch.optim.Optimizer], scaler: Any) -> None:
        """As `Beacon.watch`."""
        from trainbeacon.recorder.hooks.hooks import Hooks, gpu_of

        recorder, identity = self._recorder, self._recorder.identity
        skip_in_dynamo()
        hooks = Hooks(recorder, model, optimizers, scaler, self._steps.optimizer_stepped)
        self.hooks = [*(each for each in self.hooks if not each.is_over), hooks]
        self._removable.append(hooks)
        if optimizers:
            self._steps.expect_optimizer()
        if model is not None:
            recorder.guard("hooks", self._count_flops, model)
        if recorder.probes("checkpoints") and not self._watches_saves:
            self._watches_saves = True
            recorder.guard("hooks", self._watch_saves)
        gpu, uuid = gpu_of(model, optimizers)
        if uuid or gpu:
            recorder.rank_info(gpu, uuid)
        if identity.rank == 0:
            recorder.run_info()

    def _count_flops(self, model: Any) -> None:
        from trainbeacon.recorder.hooks.flops import FlopHooks

        if self._flops.watch(model):
            self._removable.append(FlopHooks(self._recorder, model, self._flops.counted))

    def _watch_saves(self) -> None:
        from trainbeacon.recorder.checkpoints.torch_saves import TorchSaveHooks

        self._saves = TorchSaveHooks(self._recorder, self._checkpoints)
        self._removable.append(self._saves)

    def poll(self) -> None:
        """For the background thread, once a second."""
        if self._saves is not None:
            self._saves.poll()

    def remove(self) -> None:
        """Take everything away again; what was put over another one goes first."""
        for each in reversed(self._removable):
            self._recorder.guard("hooks", each.remove)
