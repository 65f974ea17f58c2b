"""What `Beacon.watch` puts in place, over all its calls."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trainbeacon.recorder.checkpoints.checkpoints import Checkpoints
from trainbeacon.recorder.core.recorder import Recorder
from trainbeacon.recorder.core.steps import StepCount
from trainbeacon.recorder.goodput.mfu import Flops
from trainbeacon.recorder.hooks.compiler import skip_in_dynamo

if TYPE_CHECKING:
    from trainbeacon.recorder.checkpoints.torch_saves import TorchSaveHooks
    from trainbeacon.recorder.hooks.flops import FlopHooks
    from trainbeacon.recorder.hooks.hooks import Hooks
    from trainbeacon.recorder.hooks.optimizers import Found


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
        self._known: list[weakref.ref[Any]] = []
        self._counting: list[tuple[weakref.ref[Any], int]] = []  # with the id of the first parameter
        self._names: Counter[str] = Counter()
        self.hooks: list[Hooks] = []

    def watch(self, model: Any, optimizer: Any, scaler: Any) -> None:
        """As `Beacon.watch`. What is watched already stays so.

        Raises:
            TypeError: what is given as a model is none of torch's, or as an optimizer holds none.
        """
        if isinstance(model, list | tuple):
            first, *others = model or [None]
            self.watch(first, optimizer, scaler)
            for other in others:
                self.watch(other, None, None)
            return
        if model is not None and not hasattr(model, "register_forward_pre_hook"):
            raise TypeError(f"model={type(model).__name__}(...) is no torch.nn.Module, nor a list of them")
        from trainbeacon.recorder.hooks.hooks import gpu_of
        from trainbeacon.recorder.hooks.optimizers import optimizers_in

        recorder = self._recorder
        found = [] if optimizer is None else optimizers_in(optimizer)
        skip_in_dynamo()
        new = [each for each in found if self._is_new(each.optimizer)]
        model = model if model is not None and self._is_new(model) else None
        scaler = scaler if scaler is not None and self._is_new(scaler) else None
        if model is not None or new or scaler is not None:
            recorder.guard("hooks", self._hook, model, new, scaler)
        if recorder.probes("checkpoints") and not self._watches_saves:
            self._watches_saves = True
            recorder.guard("hooks", self._watch_saves)
        gpu, uuid = gpu_of(model, new)
        if uuid or gpu:
            recorder.runs_on(gpu, uuid)
        if recorder.identity.rank == 0:
            recorder.run_info()

    def _hook(self, model: Any, found: Sequence[Found], scaler: Any) -> None:
        from trainbeacon.recorder.hooks.hooks import Hooks
        from trainbeacon.recorder.hooks.optimizers import parameters_of, versions_of

        recorder, steps = self._recorder, self._steps
        counts = bool(found) and self._counts(found[0].optimizer)
        named = self._name(model) if model is not None else ""
        hooks = Hooks(recorder, model, found, scaler, steps if counts or not found else None, named)
        self.hooks = [*(each for each in self.hooks if not each.is_over), hooks]
        self._removable.append(hooks)
        if counts:
            counting = found[0].optimizer
            self._counting = [*self._counting, (weakref.ref(counting), id(parameters_of(counting)[0]))]
            steps.expect_optimizer(versions_of(counting))
        for each in (*(each.optimizer for each in found), model, scaler):
            if each is not None:
                self._known.append(weakref.ref(each))
        if model is not None:
            if steps.model is None:
                steps.model = weakref.ref(model)
            recorder.guard("hooks", self._count_flops, model)

    def _is_new(self, thing: Any) -> bool:
        self._known = [reference for reference in self._known if reference() is not None]
        return all(reference() is not thing for reference in self._known)

    def _counts(self, optimizer: Any) -> bool:
        """Whether the steps of an optimizer count: of the first one, and of one that takes its place."""
        from trainbeacon.recorder.hooks.optimizers import parameters_of

        self._counting = [entry for entry in self._counting if entry[0]() is not None]
        own = {id(parameter) for parameter in parameters_of(optimizer)}
        return not self._counting or any(parameter in own for _, parameter in self._counting)

    def _name(self, model: Any) -> str:
        """What goes before the names of a model's layers: nothing for the first, then the model's class."""
        inner = model
        while hasattr(inner, "module") or hasattr(inner, "_orig_mod"):
            inner = getattr(inner, "module", None) or inner._orig_mod
        name = type(inner).__name__
        self._names[name] += 1
        if sum(self._names.values()) == 1:
            return ""
        return f"{name}." if self._names[name] == 1 else f"{name}{self._names[name]}."

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
