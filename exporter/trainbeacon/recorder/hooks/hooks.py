"""Watching a PyTorch model and its optimizers: steps, phases, gradient norm and learning rate by hooks.

Hooks sit on the optimizer and on the outermost module only; `backward` and `clip_grad_norm_` are seen
where torch itself looks them up. A hook that `torch.compile` traces into
its graph returns at once there, so that `fullgraph=True` holds; the phases inside such a graph are
then not told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from trainbeacon.identity import Identity
from trainbeacon.identity.devices import visible_gpu
from trainbeacon.recorder.core.recorder import Recorder
from trainbeacon.recorder.core.timeline import FORWARD, OPTIMIZER, OTHER
from trainbeacon.recorder.device.events import DevicePhases
from trainbeacon.recorder.device.scalars import on_device
from trainbeacon.recorder.hooks.backward import announced
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
        self._guard = recorder.guard
        self._norm_seen = False
        self._scale: float | None = None  # after the last update
        self._scale_at = recorder.at("training_loss_scale")
        self._rate_at = [recorder.at("training_learning_rate", str(group)) for group in range(_MOST_GROUPS)]
        self._device = self._device_phases(model)
        self._hides = False  # whether the backward pass of the last forward hides collectives
        self._numerics = GradientMonitor(recorder, model, next(iter(optimizers), None), scaler)
        self._removals.append(self._numerics.remove)
        if model is not None:
            self._watch_model(model)
            for parameter in filter(on_device, islice(model.parameters(), 1)):
                recorder.deferred.prepare(parameter)
        for number, optimizer in enumerate(optimizers):
            self._watch_optimizer(optimizer, counts=number == 0)
        if optimizers:
            self._watch_clipping()
        if recorder.probes("self_time"):
            self._guard("hooks", observe_waits, self._timeline, self._replace)
        if scaler is not None:
            self._watch_scaler(scaler)

    def remove(self) -> None:
        """Take every hook away."""
        while self._removals:
            self._removals.pop()()

    def _device_phases(self, model: Any) -> DevicePhases | None:
        """What takes device events, if the model is on a device that has some."""
        parameters = islice(model.parameters(), 1) if hasattr(model, "parameters") else ()
        return self._recorder.device_phases if any(map(on_device, parameters)) else None

    # The model

    def _watch_model(self, model: torch.nn.Module) -> None:
        from torch.compiler import is_compiling

        replica = self._guard("hooks", replica_in, model)
        see, error, device = self._timeline.observe, self._recorder.error, self._device

        def forward_begins(module: Any, inputs: Any) -> None:
            if not is_compiling() and module.training:
                try:
                    see(FORWARD)
                    if device is not None:
                        device.begin("forward")
                    if replica is not None:
                        self._hides = replica.require_backward_grad_sync  # not inside no_sync()
                except Exception as problem:  # noqa: BLE001 - the boundary, as in `guard`, without its calls
                    error("hooks", problem)

        def forward_ends(module: Any, inputs: Any, output: Any) -> None:
            if not is_compiling() and module.training:
                try:
                    see(OTHER)
                    if device is not None:
                        device.end()
                except Exception as problem:  # noqa: BLE001 - as above
                    error("hooks", problem)

        self._removals.append(model.register_forward_pre_hook(forward_begins).remove)
        self._removals.append(model.register_forward_hook(forward_ends).remove)
        self._watch_backward()

    def _watch_backward(self) -> None:
        """See every `backward()` begin and end. A hook on the model's output would cost ten times as much."""
        import torch

        timeline, error, device = self._timeline, self._recorder.error, self._device
        look = self._numerics.poll

        def begins(loss: Any) -> bool:
            outermost = False
            try:
                outermost = timeline.begin_backward()
                if outermost:
                    if device is not None:
                        device.begin("backward")
                    if look is not None:
                        look(loss)
            except Exception as problem:  # noqa: BLE001 - as above
                error("hooks", problem)
            return outermost

        def ends() -> None:
            try:
                timeline.end_backward(hides=self._hides)
                if device is not None:
                    device.end()
            except Exception as problem:  # noqa: BLE001 - as above
                error("hooks", problem)

        self._replace(torch.autograd, "backward", announced(torch.autograd.backward, begins, ends))

    def _replace(self, module: Any, name: str, ours: Callable[..., Any]) -> None:
        """Put our function in the place of a module's, until `remove`, unless somebody did so after us."""
        original = getattr(module, name)
        setattr(module, name, ours)

        def restore() -> None:
            if getattr(module, name) is ours:
                setattr(module, name, original)

        self._removals.append(restore)

    # The optimizer

    def _watch_optimizer(self, optimizer: torch.optim.Optimizer, *, counts: bool) -> None:
        from torch.compiler import is_compiling

        see, before, after, error = (
            self._timeline.observe,
            self._before_step,
            self._after_step,
            self._recorder.error,
        )

        def step_begins(stepped: Any, inputs: Any, keywords: Any) -> None:
            if not is_compiling():
                try:
                    see(OPTIMIZER)
                    if counts:
                        before()
                except Exception as problem:  # noqa: BLE001 - as above
                    error("hooks", problem)

        def step_ends(stepped: Any, inputs: Any, keywords: Any) -> None:
            if counts and not is_compiling():
                try:
                    after(optimizer)
                except Exception as problem:  # noqa: BLE001 - as above
                    error("hooks", problem)

        self._removals.append(optimizer.register_step_pre_hook(step_begins).remove)
        self._removals.append(optimizer.register_step_post_hook(step_ends).remove)

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
        from torch.compiler import is_compiling
        from torch.nn.utils import clip_grad

        name = "_clip_grads_with_norm_"
        original = getattr(clip_grad, name, None)
        if original is None:
            return

        def clip(parameters: Any, max_norm: float, total_norm: Any, *args: Any, **keywords: Any) -> Any:
            if not is_compiling():
                self._guard("hooks", self._clipped, max_norm, total_norm)
            return original(parameters, max_norm, total_norm, *args, **keywords)

        self._replace(clip_grad, name, clip)

    def _clipped(self, max_norm: float, total_norm: Any) -> None:
        total_norm = self._numerics.clipped(total_norm)
        if total_norm is None:  # sharded, and to read all of it would take a collective
            return
        self._norm_seen = True
        self._recorder.gradient_norm(total_norm, None if on_device(max_norm) else float(max_norm))

    def _watch_scaler(self, scaler: Any) -> None:
        original = scaler.update

        def update(*args: Any, **keywords: Any) -> Any:
            if self._scale is None:
                self._guard("hooks", self._read_scale, scaler)
            result = original(*args, **keywords)
            self._guard("hooks", self._read_scale, scaler)
            return result

        scaler.update = update
        self._removals.append(lambda: scaler.__dict__.pop("update", None))

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


def check_rank(identity: Identity) -> None:
    """Hold the launcher's variables against torch.distributed, which is right where they differ.

    Raises:
        RankError: they differ; what is recorded keeps the rank that it began with.
    """
    from torch import distributed

    if not distributed.is_available() or not distributed.is_initialized():
        return
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    if (rank, world_size) != (identity.rank, identity.world_size):
        raise RankError(
            f"torch.distributed calls this process rank {rank} of {world_size}, but it records as rank "
            f"{identity.rank} of {identity.world_size} (launcher: {identity.launcher}): "
            "set RANK, LOCAL_RANK and WORLD_SIZE before the start"
        )


class RankError(ValueError):
    """The launcher's variables and torch.distributed disagree."""


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
