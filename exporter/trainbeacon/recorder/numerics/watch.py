"""What is read of a model's gradients and weights around each step, by the probes that read it.

One object for each call of `Beacon.watch`. Everything here is for the training thread.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from math import inf, isfinite
from time import monotonic
from typing import TYPE_CHECKING, Any

from trainbeacon.recorder.core.recorder import Recorder
from trainbeacon.recorder.device.scalars import on_device
from trainbeacon.recorder.numerics.gradients import NormProbe
from trainbeacon.recorder.numerics.layers import LayerProbe, layers_of
from trainbeacon.recorder.numerics.norms import joined, total_norm
from trainbeacon.recorder.numerics.origin import MOST_SECONDS, Search, bad_layers, gathered, parameter_names
from trainbeacon.recorder.numerics.shards import is_sharded, local
from trainbeacon.recorder.numerics.step_norm import StepNorm

if TYPE_CHECKING:
    import torch

    from trainbeacon.recorder.numerics.norms import Norm

#: Elements at most of the one gradient that is looked at in each backward pass.
MOST_WATCHED = 1 << 16
_WATCHED_AMONG = 8  # of the first parameters


class GradientMonitor:
    """Norms, layers, and where the first NaN or infinity came from.

    Args:
        model: the outermost module, or None.
        optimizer: the one that counts the steps, or None.
        scaler: the AMP gradient scaler: with one, gradients that are not finite are no fault.

    Attributes:
        look: to be called with what each backward pass goes back from, as it begins: the last moment in
            which activations are there. None if nothing is to be looked at.
        due: when the next sample is, by the monotonic clock.
        step_norm: what clipping has found of the gradients of the step under way; None without an optimizer.
        sampling: whether `before_step` began a sample that `after_step` is to finish.
    """

    def __init__(self, recorder: Recorder, model: Any, optimizer: Any, scaler: Any, prefix: str = "") -> None:
        self._recorder = recorder
        self._timeline = recorder.timeline
        self._nonfinite = recorder.nonfinite
        self._model = weakref.ref(model) if model is not None else _nobody
        self._layers = layers_of(model, prefix) if model is not None else []
        self._on = recorder.probes("gradients")
        self._norms: NormProbe | None = None
        self._probe: LayerProbe | None = None
        self._plain: Any = None  # torch.Tensor, once it is needed
        self._armed = False
        self._looked_at = -1  # the step whose gradients were looked through
        self._asked_for: int | None = None  # the step whose layer a device was asked for
        self._own_bad_step = -1  # in which this rank's own backward pass made a non-finite gradient
        self._remove: Callable[[], None] | None = None
        self._watched: Any = None  # the parameter whose gradient is looked at before each step
        self.step_norm: StepNorm | None = None
        self._left: tuple[int, int] | None = None  # the first gradient, as the backward pass left it
        self._parameters: list[Any] = []
        self.due = 0.0
        self.sampling = False
        self.poll: Callable[[Any], None] | None = None
        if self._on and model is not None:
            from torch import Tensor

            self._plain, self.poll = Tensor, self._look_at_loss
        if scaler is not None:
            self._nonfinite.ignored = frozenset({"gradient", "reduced"})
        if optimizer is not None:
            self._parameters = [each for group in optimizer.param_groups for each in group["params"]]
            self.step_norm = StepNorm(self._parameters)
            self._make_probes()

    def _make_probes(self) -> None:
        recorder = self._recorder
        if self._on:
            self._norms = NormProbe(self._parameters, self._set, world_size=recorder.identity.world_size)
        if self._layers and recorder.identity.rank == 0 and recorder.probes("layers"):
            self._probe = LayerProbe(self._layers, self._read_layer, self._set_layer)

    def let_go_of_model(self) -> None:
        """Keep nothing of the model alive, and take away the one hook on a gradient."""
        if self._remove is not None:
            self._remove()
        self._layers, self._probe, self._watched, self._remove = [], None, None, None
        self.poll = None

    def let_go_of_optimizer(self) -> None:
        """Keep none of its parameters alive."""
        self._norms = self.step_norm = None
        self._parameters = []
        self.sampling = False

    # Numbers

    def _set(self, metric: str, value: Norm) -> None:
        self._recorder.gauge(self._recorder.at(metric), metric, value)
        if isinstance(value, float) and metric == "training_gradient_squared_norm" and not isfinite(value):
            self._gradient_is_bad()

    def _read_layer(self, series: str, number: Norm, apply: Callable[[float], None]) -> None:
        self._recorder.take(series, series, number, apply)

    def _set_layer(self, metric: str, layer: str, number: float | None) -> None:
        slot = self._recorder.run_slot(metric, layer)
        if number is None:
            self._recorder.writer.unset(slot)
        else:
            self._recorder.writer.slots[slot] = number

    def backward_begins(self) -> None:
        """What clipping has found does not hold for gradients that change again."""
        if self.step_norm is not None:
            for part in self.step_norm.parts:
                self._recorder.unused_norm(part.norm)
            self.step_norm.clear()

    def remember_gradients(self) -> None:
        """The gradients are what the backward pass, or the scaler, made of them."""
        if monotonic() >= self.due:
            self._left = self._first_gradient()

    def _first_gradient(self) -> tuple[int, int] | None:
        """Which tensor it is, and how often that was written to."""
        gradients = (parameter.grad for parameter in self._parameters)
        first = next((gradient for gradient in gradients if gradient is not None), None)
        return None if first is None else (id(first), int(first._version))

    def before_step(self, *, scale: Any = None, sampled: bool = True) -> None:
        """The optimizer is about to step: record the norm of its gradients, as far as it is known.

        Args:
            scale: what the gradients are still multiplied by.
            sampled: whether the gradients are as the backward pass made them.
        """
        if self._watched is not None and self._watched.grad is not None:
            self._look_at_gradient(self._watched.grad)
        step = self._timeline.step + 1
        if self._own_bad_step == step or self._nonfinite.step == step:
            self._gradient_is_bad()
        if self._nonfinite.step not in (None, self._asked_for):
            self._ask_device()
        due = monotonic() >= self.due
        found = self.step_norm
        if found is not None and found.parts:
            self._take_joint(found, due=due)
        if due:
            known = found is None or bool(found.parts) or found.spoilt or not sampled
            norm = self._sample(norm_is_known=known or self._was_changed(), scale=scale)
            if norm is not None:
                self._recorder.gradient_norm(norm)

    def _was_changed(self) -> bool:
        """Whether the gradients were changed since the backward pass, as clipping out of sight does."""
        return self._left is not None and self._left != self._first_gradient()

    def _take_joint(self, found: StepNorm, *, due: bool) -> None:
        """Record what clipping worked out; the norm of the rest is read where a sample is due."""
        rest = found.rest()
        if not rest and len(found.parts) == 1:
            self._recorder.gradient_norm(found.parts[0].norm, found.parts[0].limit)
            return
        joint, excess = found.joint, found.excess
        if not rest:
            self._recorder.gradient_norm(joint, excess=excess)
            return
        if due and self._norms is not None and not any(map(is_sharded, rest)):
            self._recorder.gradient_norm(joined(joint, total_norm(rest)), excess=excess)
        else:
            self._recorder.clipped(excess)

    def sample_layers(self) -> None:
        """An optimizer that does not count the steps is about to make one: sample the layers of its model."""
        if self._probe is not None and monotonic() >= self.due:
            self._probe.before_step()
            self.due = self._probe.next

    def step_is_over(self) -> None:
        """The optimizer has stepped."""
        if self.step_norm is not None:
            self.step_norm.clear()

    def changes(self, parameters: Any) -> None:
        """Gradients are about to be changed in a way that gives no norm: read theirs, if a sample is due."""
        found = self.step_norm
        if found is None or found.parts or found.spoilt or not found.concerns(parameters):
            return
        found.spoilt = True
        if monotonic() >= self.due and self._norms is not None and not self._was_changed():
            norm = self._norms.norm_now()
            if norm is not None:
                found.add(None, norm, None)

    def _sample(self, *, norm_is_known: bool, scale: Any = None) -> Norm | None:
        """Let the probes take the samples that are due."""
        norm = None
        if self._probe is not None:
            self._probe.before_step(scale)
        if self._norms is not None:
            norm = self._norms.before_step(norm_is_known=norm_is_known)
            if norm is not None and scale is not None:
                norm = norm / scale
                norm = norm if on_device(norm) else float(norm)
            if isinstance(norm, float) and not isfinite(norm):
                self._gradient_is_bad()
            self.sampling = self._norms.sampling
        if not self.sampling:
            self._wait()
        return norm

    def after_step(self) -> None:
        """The optimizer has stepped: finish the sample under way."""
        if self._norms is not None:
            self._norms.after_step()
        self.sampling = False
        self._wait()

    def _wait(self) -> None:
        """Do nothing more until the next sample of either probe."""
        self.due = min((probe.next for probe in (self._norms, self._probe) if probe is not None), default=inf)

    def clipped(self, parameters: Any, norm: Any, limit: float | None) -> None:
        """Clipping worked out the norm of these gradients and has not scaled anything yet.

        Where this rank knows a part of it only, that is recorded as a square.
        """
        found = self.step_norm
        if found is None or not found.concerns(parameters):
            return
        if is_sharded(norm):
            if not all(placement.is_replicate() for placement in norm.placements):
                self._take_part(norm)
                found.spoilt = True
                return
            norm = local(norm)
        if getattr(norm, "is_cpu", True):
            norm = float(norm)
            if not isfinite(norm):
                self._gradient_is_bad()
        found.add(parameters, norm, limit)

    def _take_part(self, norm: Any) -> None:
        """The rank's own part of an L2 norm; parts of another norm do not add up."""
        held = 1
        for dim, placement in enumerate(norm.placements):
            if placement.is_replicate():
                held *= norm.device_mesh.size(dim)
            elif getattr(placement, "norm_type", 0) != 2:
                return
        part = local(norm).double()
        share = part * part / held
        self._set("training_gradient_squared_norm", share if on_device(share) else float(share.item()))

    # The first NaN

    def _look_at_loss(self, loss: Any) -> None:
        # One number on the host, which is read without a wait and without a collective.
        if loss.__class__ is self._plain and loss.is_cpu and loss.numel() == 1:
            number = loss.item()
            if number - number != 0.0:  # NaN or infinite; cheaper than a call
                self._loss_is_bad(loss)
        if not self._armed:
            self._armed = True
            self._watch_a_gradient()

    def _loss_is_bad(self, loss: Any) -> None:
        step = self._timeline.step + 1
        if self._nonfinite.would_take(step, "weight"):
            layer, kind = self._origin(loss)
            self._nonfinite.saw(step, kind, layer)

    def _origin(self, loss: Any) -> tuple[str, str]:
        """Layer and kind of what made the loss non-finite."""
        deadline = monotonic() + MOST_SECONDS
        bad = bad_layers(self._layers, gradients=False, deadline=deadline)
        if bad:
            everywhere = len(bad) == len(self._layers) > 1  # spoilt by an earlier step: it says nothing
            return ("", "reduced") if everywhere else (bad[-1], "weight")
        search = Search(parameter_names(self._model(), self._layers) if self._layers else {}, deadline)
        return search.origin(loss) or ("", "loss")

    def _watch_a_gradient(self) -> None:
        """Look at one small gradient near the input, which all that goes wrong in a backward pass reaches.

        It is looked at before it is averaged over the ranks, to know on which one it went wrong. On a rank
        that is alone that can wait until the optimizer steps: a hook on a gradient costs more than the look.
        """
        whole = {id(parameter): used for parameter, used in gathered(self._model())} if self._layers else {}
        first = [p for layer in self._layers for p in layer.parameters if p.requires_grad][:_WATCHED_AMONG]
        fit = [whole.get(id(p), p) for p in first]
        fit = [p for p in fit if not is_sharded(p) and p.device.type == "cpu" and p.numel() <= MOST_WATCHED]
        if fit and self._recorder.identity.world_size == 1:
            self._watched = fit[0]
        elif fit:
            self._remove = fit[0].register_hook(self._look_at_gradient).remove

    def _look_at_gradient(self, gradient: torch.Tensor) -> None:
        try:
            total = gradient.sum().item()
            if total - total != 0.0:
                self._own_bad_step = self._timeline.step + 1
        except Exception as error:  # the boundary, as in `guard`, without its call
            if not self._recorder.takes("hooks", error):
                raise

    def _gradient_is_bad(self) -> None:
        """The gradients of this step are not finite: find the layer from which it went towards the input."""
        step = self._timeline.step + 1
        own = self._own_bad_step == step or self._recorder.identity.world_size == 1
        kind = "gradient" if own else "reduced"
        if step == self._looked_at or not self._nonfinite.would_take(step, kind):
            return
        self._looked_at = step  # clipping spoils them all after that
        bad = bad_layers(self._layers, gradients=True, deadline=monotonic() + MOST_SECONDS)
        self._nonfinite.saw(step, kind, self._last_of(bad, own))

    def _last_of(self, bad: list[str], own: bool) -> str:
        """The layer nearest to the loss, from which bad gradients went on.

        Empty where that says nothing: of averaged gradients that are all bad, the loss of some rank was. A
        rank holds a part of a sharded gradient only, and the next layer's bad part may lie on another one.
        """
        everywhere = len(bad) == len(self._layers)
        if not bad or (everywhere and not own):
            return ""
        names = [layer.name for layer in self._layers]
        at = names.index(bad[-1])
        sharded = any(map(is_sharded, self._layers[at].parameters))
        return "..".join(names[at : at + 2]) if sharded else bad[-1]

    def _ask_device(self) -> None:
        """Have a device tell which layers' weights are bad, once in an episode: its losses come late.

        It names a layer only where the optimizer has not spoilt all of them, as with a scaler that leaves
        bad steps out.
        """
        import torch

        self._asked_for = self._nonfinite.step
        layers = [layer for layer in self._layers if all(map(on_device, layer.parameters))]
        if not layers or self._nonfinite.layer:
            return
        with torch.no_grad():
            sums = [torch.stack([local(p).float().sum() for p in layer.parameters]).sum() for layer in layers]
            bad = torch.stack(sums).isfinite().logical_not().int()
            last = len(layers) - bad.flip(0).argmax()  # counted from 1
            answer = last * ((bad.sum() > 0) & (bad.sum() < len(layers)))
        names = [layer.name for layer in layers]
        self._recorder.deferred.read(
            "nonfinite", answer.double(), lambda place: self._answered(names, int(place))
        )

    def _answered(self, names: list[str], place: int) -> None:
        if place and self._nonfinite.step is not None and self._nonfinite.step == self._asked_for:
            self._nonfinite.saw(self._nonfinite.step, self._nonfinite.kind, names[place - 1])


def _nobody() -> None:
    """In the place of a reference to a model that there is not."""
