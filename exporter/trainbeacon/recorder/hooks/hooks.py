"""Watching a PyTorch model and its optimizers: steps, phases, gradient norm and learning rate by hooks.

Hooks sit on the optimizer and on the outermost module only; `backward` and `clip_grad_norm_` are seen
where torch itself looks them up. A hook that `torch.compile` traces into
its graph returns at once there, so that `fullgraph=True` holds; the phases inside such a graph are
then not separate.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Any

from trainbeacon.identity.devices import visible_gpu
from trainbeacon.recorder.core.patch import Ended, observe
from trainbeacon.recorder.core.recorder import Recorder
from trainbeacon.recorder.core.steps import StepCount
from trainbeacon.recorder.core.timeline import FORWARD, OPTIMIZER, OTHER
from trainbeacon.recorder.device.events import DevicePhases
from trainbeacon.recorder.device.scalars import on_device
from trainbeacon.recorder.hooks.clipping import observe_clipping
from trainbeacon.recorder.hooks.copies import keep_out_of_copies
from trainbeacon.recorder.hooks.optimizers import Found, parameters_of
from trainbeacon.recorder.hooks.traced import Hook
from trainbeacon.recorder.hooks.waits import EndOfGradients, observe_waits, replica_in
from trainbeacon.recorder.numerics.watch import GradientMonitor

if TYPE_CHECKING:
    import torch

_MOST_GROUPS = 4


class Hooks:
    """Everything that one call of `Beacon.watch` put in place, to be taken away by `remove`.

    Args:
        recorder: where the numbers go.
        model, optimizers, scaler: as of `Beacon.watch`.
        steps: counts the steps of the first optimizer, None where another call's does.
        prefix: goes before the names of the layers.
    """

    def __init__(
        self,
        recorder: Recorder,
        model: Any,
        optimizers: Sequence[Found],
        scaler: Any,
        steps: StepCount | None,
        prefix: str = "",
    ) -> None:
        self._recorder = recorder
        self._timeline, self._writer = recorder.timeline, recorder.writer
        self._steps = steps
        self._stepped_in_backward = False
        self._removals: list[Callable[[], None]] = []
        self._of_model: list[Callable[[], None]] = []
        self._of_optimizer: list[Callable[[], None]] = []
        self._guard = recorder.guard
        self._scale: float | None = None  # after the last update
        self._scale_at = recorder.at("training_loss_scale")
        self._rate_at = [recorder.at("training_learning_rate", str(group)) for group in range(_MOST_GROUPS)]
        self._device = self._device_phases(model)
        self._hides = False  # whether the backward pass of the last forward hides collectives
        first = optimizers[0].optimizer if optimizers else None
        self._numerics = GradientMonitor(recorder, model, first, scaler, prefix)
        if model is not None:
            self._watch_model(model)
            weakref.finalize(model, self._model_is_gone).atexit = False
            for parameter in filter(on_device, islice(model.parameters(), 1)):
                recorder.deferred.prepare(parameter)
        elif optimizers:
            self._watch_backward()
        for number, found in enumerate(optimizers):
            self._watch_optimizer(found, first=number == 0)
        if optimizers:
            if steps is not None:
                self._of_optimizer += self._guard("hooks", observe_clipping, recorder, self._numerics) or ()
            weakref.finalize(first, self._optimizer_is_gone).atexit = False
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
        see, recorder, device = self._timeline.observe, self._recorder, self._device
        steps = self._steps
        replica = self._guard("hooks", replica_in, model)
        replicated = weakref.ref(replica) if replica is not None else None

        def forward_begins(module: Any, inputs: Any) -> None:
            if module.training:
                if steps is not None and steps.hidden:
                    steps.look()
                see(FORWARD)
                if device is not None:
                    device.begin("forward")
                replica = replicated() if replicated is not None else None
                if replica is not None:
                    self._hides = replica.require_backward_grad_sync  # not inside no_sync()

        def forward_ends(module: Any, inputs: Any, output: Any) -> None:
            if module.training:
                see(OTHER)
                if device is not None:
                    device.end()

        before = Hook(model, recorder, forward_begins)
        after = Hook(model, recorder, forward_ends)
        self._of_model.append(keep_out_of_copies(model))
        self._of_model.append(model.register_forward_pre_hook(before).remove)
        # A pass that raises, as one that is tried again with a smaller batch, ends too.
        self._of_model.append(model.register_forward_hook(after, always_call=True).remove)
        self._watch_backward()

    def _watch_backward(self) -> None:
        """See every `backward()` begin and end. A hook on the model's output would cost ten times as much."""
        import torch

        timeline, device, numerics = self._timeline, self._device, self._numerics
        recorder, steps, look = self._recorder, self._steps, numerics.poll
        times_waits = self._recorder.probes("self_time")
        mark = EndOfGradients(self._recorder.guarded("hooks", timeline.gradients_computed))

        def begin(args: Sequence[Any], keywords: Mapping[str, Any]) -> Ended | None:
            if steps is not None and steps.hidden:
                steps.look()
            found = numerics.step_norm
            if found is not None and (found.parts or found.spoilt):
                numerics.backward_begins()
            if not timeline.begin_backward():  # inside another one, or seen by another call of `watch` first
                return inner_ended
            if device is not None:
                device.begin("backward")
            roots = args[0] if args else keywords.get("tensors")
            try:  # the end of the pass has to be seen all the same
                if look is not None:
                    look(roots)
                if self._hides and times_waits:
                    mark.place(roots)
            except Exception as problem:  # as `guard`, without its calls
                if not recorder.takes("hooks", problem):
                    raise
            return ended

        def end(result: Any, error: BaseException | None) -> None:
            if mark.is_placed:
                mark.remove()
            timeline.end_backward(hides=self._hides)
            if device is not None:
                device.end()
            if monotonic() >= numerics.due:
                numerics.remember_gradients()
            if self._stepped_in_backward:
                self._stepped_in_backward = False
                self._end_step()

        def inner_end(result: Any, error: BaseException | None) -> None:
            numerics.remember_gradients()

        inner_ended = self._recorder.guarded("hooks", inner_end)
        ended = self._recorder.guarded("hooks", end)
        self._of_model.append(observe(torch.autograd, "backward", self._recorder.guarded("hooks", begin)))

    # The optimizer

    def _watch_optimizer(self, found: Found, *, first: bool) -> None:
        """Hooks of the first optimizer count; those of the others tell the phase."""
        optimizer, timeline, guarded = found.optimizer, self._timeline, self._recorder.guarded
        numerics, device, wrapped = self._numerics, self._device, bool(found.wrappers)
        counts = first and self._steps is not None
        # DeepSpeed steps group after group: the step is that of the first.
        anchor = weakref.ref(parameters_of(optimizer)[0]) if found.wrappers else None
        # torch calls the hooks again where a subclass calls the step of its base class.
        entered = begun = False

        def step_begins(stepped: Any, inputs: Any, keywords: Any) -> Any:
            nonlocal entered, begun
            if timeline.in_backward:  # an optimizer for each parameter, as soon as its gradient is there
                return None
            entered = True
            if begun and (timeline.phase == "optimizer" or not timeline.warm):  # else the last one raised
                return None
            begun = False
            closure = inputs[1] if len(inputs) > 1 else keywords.get("closure")
            if closure is None:
                begins(stepped)
                return None
            timeline.observe(OTHER)
            watched = _watched_closure(closure, guarded("hooks", lambda: begins(stepped)), ended_badly)
            if len(inputs) > 1:
                return (inputs[0], watched, *inputs[2:]), keywords
            return inputs, {**keywords, "closure": watched}

        def begins(stepped: Any) -> None:
            nonlocal begun
            if begun:
                return
            begun = True
            timeline.observe(OPTIMIZER)
            if counts:
                scale = getattr(stepped, "grad_scale", None)  # a fused optimizer takes it off by itself
                numerics.before_step(scale=scale, sampled=not (wrapped and found.clips_by_itself))
                if device is not None:
                    device.begin("optimizer")
            elif first:
                numerics.sample_layers()

        def step_ends(stepped: Any, inputs: Any, keywords: Any) -> None:
            nonlocal entered, begun
            if timeline.in_backward:
                self._stepped_in_backward = True
                return
            first_end, entered, begun = entered, False, False
            if first_end and (anchor is None or anchor() is stepped.param_groups[0]["params"][0]):
                self._after_step(stepped, found.whole_norm() if wrapped else None)

        ended_badly = guarded("hooks", lambda: timeline.observe(OTHER))
        compiled = self._is_compiled if counts else None
        before = Hook(optimizer, self._recorder, step_begins, compiled)
        self._of_optimizer.append(optimizer.register_step_pre_hook(before).remove)
        if counts:
            after = Hook(optimizer, self._recorder, step_ends)
            self._of_optimizer.append(optimizer.register_step_post_hook(after).remove)
            if found.inner is not None:
                self._watch_inner(found.inner, step_begins, step_ends, lambda: entered)
            watched = weakref.ref(optimizer)
            self._read_rates = lambda: self._take_rates(watched())

    def _watch_inner(
        self, inner: Any, begins: Callable[..., Any], ends: Callable[..., Any], is_entered: Callable[[], bool]
    ) -> None:
        """Steps of an optimizer within another, where they are not made by the step of the outer one."""
        apart = False

        def step_begins(*given: Any) -> Any:
            nonlocal apart
            apart = not is_entered()
            return begins(*given) if apart else None

        def step_ends(*given: Any) -> None:
            nonlocal apart
            if apart:
                apart = False
                ends(*given)

        recorder, stops = self._recorder, self._of_optimizer
        stops.append(inner.register_step_pre_hook(Hook(inner, recorder, step_begins)).remove)
        stops.append(inner.register_step_post_hook(Hook(inner, recorder, step_ends)).remove)

    def _is_compiled(self) -> None:
        """The optimizer's step becomes part of a graph, in which no hook is called."""
        if self._steps is not None:
            self._steps.hide(self._read_rates)

    def _after_step(self, optimizer: Any, whole_norm: Any) -> None:
        if self._device is not None:
            self._device.end()
            self._device.step_over()
        if self._numerics.sampling:
            self._numerics.after_step()
        found = self._numerics.step_norm
        if found is not None and (found.parts or found.spoilt):
            self._numerics.step_is_over()
        if whole_norm is not None:
            self._recorder.gradient_norm(whole_norm)
        left_out = getattr(optimizer, "found_inf", None)  # of a fused optimizer, which makes no step then
        if left_out is not None and not on_device(left_out) and float(left_out):
            return
        self._take_rates(optimizer)
        if self._steps is not None:
            self._steps.optimizer_stepped()

    def _take_rates(self, optimizer: Any) -> None:
        slots = self._writer.slots
        for at, group in zip(self._rate_at, optimizer.param_groups if optimizer else (), strict=False):
            rate = group["lr"]
            if rate.__class__ is float:
                slots[at] = rate
            else:
                self._recorder.gauge(at, "lr", rate)

    def _end_step(self) -> None:
        if self._steps is not None:
            self._steps.optimizer_stepped()

    # Scaling

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


def _watched_closure(
    closure: Callable[[], Any], done: Callable[[], None], failed: Callable[[], None]
) -> Callable[[], Any]:
    """A closure as the optimizer calls it, reported after its first call: the gradients are there then."""
    waiting = [done]

    @functools.wraps(closure, updated=())
    def call(*args: Any, **keywords: Any) -> Any:
        try:
            result = closure(*args, **keywords)
        except BaseException:
            failed()
            raise
        if waiting:
            waiting.pop()()
        return result

    return call


def _run_all(removals: list[Callable[[], None]]) -> None:
    while removals:
        removals.pop()()


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
    if named.startswith("MIG-") or not uuid:  # torch names the GPU of an instance, not the instance
        uuid = "" if named.isdigit() else named
    return named if named.isdigit() else "", uuid


def _first_parameter(model: Any, optimizers: Sequence[Any]) -> Any:
    if model is not None:
        return next(iter(model.parameters()), None)
    return next((parameter for found in optimizers for parameter in parameters_of(found.optimizer)), None)
