"""Watching a PyTorch model and its optimizers: steps, phases, gradient norm and learning rate by hooks.

Hooks sit on the optimizer and on the outermost module only; `backward` and `clip_grad_norm_` are seen
where torch itself looks them up. A hook that `torch.compile` traces into
its graph returns at once there, so that `fullgraph=True` holds; the phases inside such a graph are
then not told apart.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from trainbeacon.identity.devices import visible_gpu
from trainbeacon.recorder.core.patch import Ended, observe
from trainbeacon.recorder.core.recorder import Recorder
from trainbeacon.recorder.core.timeline import FORWARD, OPTIMIZER, OTHER
from trainbeacon.recorder.device.events import DevicePhases
from trainbeacon.recorder.device.scalars import on_device
from trainbeacon.recorder.hooks.copies import keep_out_of_copies
from trainbeacon.recorder.hooks.traced import Hook, reporting_outside_graphs
from trainbeacon.recorder.hooks.waits import observe_waits, replica_in
from trainbeacon.recorder.numerics.watch import GradientMonitor

if TYPE_CHECKING:
    import torch

_MOST_GROUPS = 4


class Hooks:
    """Everything that one call of `Beacon.watch` put in place, to be taken away by `remove`.

    Args:
        end_step: called after each step of the first optimizer.
    """

    def __init__(
        self,
        recorder: Recorder,
        model: Any,
        optimizers: Sequence[torch.optim.Optimizer],
        scaler: Any,
        end_step: Callable[[], None],
    ) -> None:
        self._recorder = recorder
        self._timeline, self._writer = recorder.timeline, recorder.writer
        self._end_step = end_step
        self._removals: list[Callable[[], None]] = []
        self._of_model: list[Callable[[], None]] = []
        self._of_optimizer: list[Callable[[], None]] = []
        self._guard = recorder.guard
        self._norm_seen = False
        self._scale: float | None = None  # after the last update
        self._scale_at = recorder.at("training_loss_scale")
        self._rate_at = [recorder.at("training_learning_rate", str(group)) for group in range(_MOST_GROUPS)]
        self._device = self._device_phases(model)
        self._hides = False  # whether the backward pass of the last forward hides collectives
        self._numerics = GradientMonitor(recorder, model, next(iter(optimizers), None), scaler)
        if model is not None:
            self._watch_model(model)
            weakref.finalize(model, self._model_is_gone).atexit = False
            for parameter in filter(on_device, islice(model.parameters(), 1)):
                recorder.deferred.prepare(parameter)
        for number, optimizer in enumerate(optimizers):
            self._watch_optimizer(optimizer, counts=number == 0)
        if optimizers:
            self._watch_clipping()
            weakref.finalize(optimizers[0], self._optimizer_is_gone).atexit = False
        if recorder.probes("self_time"):
            self._removals += self._guard("hooks", observe_waits, recorder) or ()
        if scaler is not None:
            self._watch_scaler(scaler)

    def remove(self) -> None:
        """Take every hook away."""
        self._model_is_gone()
        self._optimizer_is_gone()
        _run_all(self._removals)

    @property
    def is_over(self) -> bool:
        """Whether what was watched is gone: nothing of it is kept alive."""
        return not (self._of_model or self._of_optimizer)

    def _model_is_gone(self) -> None:
        """The script let go of its model, which nothing here has kept; in any thread."""
        self._numerics.let_go_of_model()
        _run_all(self._of_model)

    def _optimizer_is_gone(self) -> None:
        self._numerics.let_go_of_optimizer()
        _run_all(self._of_optimizer)

    def _device_phases(self, model: Any) -> DevicePhases | None:
        """What takes device events, if the model is on a device that has some."""
        parameters = islice(model.parameters(), 1) if hasattr(model, "parameters") else ()
        return self._recorder.device_phases if any(map(on_device, parameters)) else None

    # The model

    def _watch_model(self, model: torch.nn.Module) -> None:
        see, guarded, device = self._timeline.observe, self._recorder.guarded, self._device
        replica = self._guard("hooks", replica_in, model)
        replicated = weakref.ref(replica) if replica is not None else _nobody

        def forward_begins(module: Any, inputs: Any) -> None:
            if module.training:
                see(FORWARD)
                if device is not None:
                    device.begin("forward")
                replica = replicated()
                if replica is not None:
                    self._hides = replica.require_backward_grad_sync  # not inside no_sync()

        def forward_ends(module: Any, inputs: Any, output: Any) -> None:
            if module.training:
                see(OTHER)
                if device is not None:
                    device.end()

        before = Hook(model, guarded("hooks", forward_begins))
        after = Hook(model, guarded("hooks", forward_ends))
        self._of_model.append(keep_out_of_copies(model))
        self._of_model.append(model.register_forward_pre_hook(before).remove)
        self._of_model.append(model.register_forward_hook(after).remove)
        self._watch_backward()

    def _watch_backward(self) -> None:
        """See every `backward()` begin and end. A hook on the model's output would cost ten times as much."""
        import torch

        timeline, device, look = self._timeline, self._device, self._numerics.poll

        def begin(args: Sequence[Any], keywords: Mapping[str, Any]) -> Ended | None:
            if not timeline.begin_backward():
                return None
            if device is not None:
                device.begin("backward")
            if look is not None:
                self._guard("hooks", look, args[0] if args else keywords.get("tensors"))
            return ended

        def end(result: Any, error: BaseException | None) -> None:
            timeline.end_backward(hides=self._hides)
            if device is not None:
                device.end()

        ended = self._recorder.guarded("hooks", end)
        self._of_model.append(observe(torch.autograd, "backward", self._recorder.guarded("hooks", begin)))

    # The optimizer

    def _watch_optimizer(self, optimizer: torch.optim.Optimizer, *, counts: bool) -> None:
        see, before, after = self._timeline.observe, self._before_step, self._after_step
        guarded = self._recorder.guarded

        def step_begins(stepped: Any, inputs: Any, keywords: Any) -> None:
            see(OPTIMIZER)
            if counts:
                before()

        def step_ends(stepped: Any, inputs: Any, keywords: Any) -> None:
            after(stepped)

        begins = Hook(optimizer, guarded("hooks", step_begins))
        self._of_optimizer.append(optimizer.register_step_pre_hook(begins).remove)
        if counts:
            ends = Hook(optimizer, guarded("hooks", step_ends))
            self._of_optimizer.append(optimizer.register_step_post_hook(ends).remove)

    def _before_step(self) -> None:
        norm = self._numerics.before_step(norm_is_known=self._norm_seen)
        if norm is not None:
            self._recorder.gradient_norm(norm)
        if self._device is not None:
            self._device.begin("optimizer")

    def _after_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self._device is not None:
            self._device.end()
            self._device.step_over()
        if self._numerics.sampling:
            self._numerics.after_step()
        self._norm_seen = False
        slots = self._writer.slots
        for at, group in zip(self._rate_at, optimizer.param_groups, strict=False):
            rate = group["lr"]
            if rate.__class__ is float:
                slots[at] = rate
            else:
                self._recorder.gauge(at, "lr", rate)
        self._end_step()

    # Clipping and scaling

    def _watch_clipping(self) -> None:
        """Read the norm that `clip_grad_norm_` works out, at the one place that all its callers pass."""
        from torch.nn.utils import clip_grad

        def clip(args: Sequence[Any], keywords: Mapping[str, Any]) -> None:
            given = dict(zip(("parameters", "max_norm", "total_norm"), args, strict=False), **keywords)
            self._clipped(given["max_norm"], given["total_norm"])

        if hasattr(clip_grad, "_clip_grads_with_norm_"):
            started = self._recorder.guarded("hooks", clip)
            self._of_optimizer.append(
                observe(clip_grad, "_clip_grads_with_norm_", started, reporting_outside_graphs)
            )

    def _clipped(self, max_norm: float, total_norm: Any) -> None:
        total_norm = self._numerics.clipped(total_norm)
        if total_norm is None:  # sharded, and to read all of it would take a collective
            return
        self._norm_seen = True
        self._recorder.gradient_norm(total_norm, None if on_device(max_norm) else float(max_norm))

    def _watch_scaler(self, scaler: Any) -> None:
        """See each update. A method of the object's own would go with every copy of it."""
        watched = weakref.ref(scaler)

        def read(*_: Any) -> None:
            self._read_scale(watched())

        after = self._recorder.guarded("hooks", read)

        def begin(args: Sequence[Any], keywords: Mapping[str, Any]) -> Ended | None:
            if not args or args[0] is not watched():
                return None
            if self._scale is None:
                self._read_scale(args[0])
            return after

        owner = next(kind for kind in type(scaler).__mro__ if "update" in vars(kind))
        self._removals.append(observe(owner, "update", self._recorder.guarded("hooks", begin)))

    def _read_scale(self, scaler: Any) -> None:
        """Read the scale as it is after an update; `get_scale` would wait for the device."""
        scale = getattr(scaler, "_scale", None)
        if not on_device(scale):
            scale = float(scaler.get_scale())
        self._recorder.take(self._scale_at, "loss scale", scale, self._scaled)

    def _scaled(self, scale: float) -> None:
        self._recorder.set("training_loss_scale", scale)
        if self._scale is not None and scale < self._scale:  # it backs off exactly when it left a step out
            self._recorder.add("training_optimizer_steps_skipped_total", 1.0)
        self._scale = scale


def _run_all(removals: list[Callable[[], None]]) -> None:
    while removals:
        removals.pop()()


def _nobody() -> None:
    """In the place of a reference to a model that there is not."""


def gpu_of(model: Any, optimizers: Sequence[Any] = ()) -> tuple[str, str]:
    """Index on the node and UUID of the GPU that the first parameter is on; empty where unknown.

    The exporter puts NVML's index in place of ours wherever it finds the UUID.
    """
    parameter = _first_parameter(model, optimizers)
    if parameter is None or parameter.device.type != "cuda":
        return "", ""
    import torch

    index = parameter.device.index or 0
    named = visible_gpu(index)
    known = getattr(torch.cuda.get_device_properties(index), "uuid", None)
    uuid = f"GPU-{known}" if known else ""
    if named.startswith("MIG-") or not uuid:  # torch does not tell an instance from its GPU
        uuid = "" if named.isdigit() else named
    return named if named.isdigit() else "", uuid


def _first_parameter(model: Any, optimizers: Sequence[Any]) -> Any:
    if model is not None:
        return next(iter(model.parameters()), None)
    groups = (group for optimizer in optimizers for group in optimizer.param_groups)
    return next((parameter for group in groups for parameter in group["params"]), None)
