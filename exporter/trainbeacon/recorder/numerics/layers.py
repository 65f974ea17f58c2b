"""The layers of a model, and the few of them whose gradients and weights are served.

Which few: those with the largest share of the gradient, and those whose gradient norm has left its own
course. So that series do not come and go, a newcomer must clearly beat the least of them several times.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainbeacon.catalogue import MOST_LAYERS
from trainbeacon.recorder.device.scalars import on_device
from trainbeacon.recorder.numerics.gradients import LEAST_INTERVAL, TIME_SHARE, device_seconds
from trainbeacon.recorder.numerics.shards import local

if TYPE_CHECKING:
    import torch

    from trainbeacon.recorder.numerics.norms import Norm

#: Layers that are looked at: each is a number to read from a device.
MOST_SEEN = 256
#: Names that are ever served, because a name once in the box stays in it.
MOST_NAMES = 4 * MOST_LAYERS
#: How often in a row a newcomer must beat the least of those served, and by how much: half as much again
#: and this. A layer whose norm has grown or shrunk to the e-th part scores 1, one that has all of it too.
LEAST_WINS = 3
LEAST_LEAD = 0.75
_MEMORY = 0.1  # weight of the newest sample in a layer's own course
_NEWEST = 0.2  # in its score
_SPOILT = 100.0  # score of a norm that is not finite
_SMALLEST = 1e-30
_WRAPPERS = ("module", "_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")


@dataclass(frozen=True)
class Layer:
    """A module with parameters of its own, in the order in which the model registers them."""

    name: str
    parameters: tuple[torch.nn.Parameter, ...]


def layers_of(model: torch.nn.Module, prefix: str = "") -> list[Layer]:
    """The layers of a model, without the names that wrappers add, and with a prefix."""
    found = []
    for path, module in model.named_modules():
        own = tuple(parameter for parameter in module.parameters(recurse=False))
        if own:
            found.append(Layer(prefix + (plain_name(path) or type(module).__name__), own))
    return found


def plain_name(path: str) -> str:
    """Name of a module as the script knows it: `module._orig_mod.blocks.0` is `blocks.0`."""
    return ".".join(part for part in path.split(".") if part not in _WRAPPERS)


class Selection:
    """Which layers are served, chosen anew with each sample and changed seldom."""

    def __init__(self, most: int = MOST_LAYERS, most_names: int = MOST_NAMES) -> None:
        self._most = most
        self._most_names = most_names
        self._usual: dict[str, float] = {}
        self._scores: dict[str, float] = {}
        self._wins: dict[str, int] = {}
        self._named: set[str] = set()
        self.chosen: list[str] = []

    def take(self, norms: dict[str, float]) -> tuple[str, str] | None:
        """Look at the gradient norms of one sample. Returns who leaves and who comes, if anybody does."""
        self._rate(norms)
        scores = self._scores
        if not self.chosen:
            self.chosen = sorted(scores, key=scores.__getitem__, reverse=True)[: self._most]
            self._named.update(self.chosen)
            return None
        others = [name for name in scores if name not in self.chosen and self._may_be_named(name)]
        if not others:
            return None
        newcomer = max(others, key=scores.__getitem__)
        least = min(self.chosen, key=scores.__getitem__)
        won = scores[newcomer] > 1.5 * scores[least] + LEAST_LEAD
        self._wins = {newcomer: self._wins.get(newcomer, 0) + 1} if won else {}
        if self._wins.get(newcomer, 0) < LEAST_WINS:
            return None
        self._wins = {}
        self.chosen[self.chosen.index(least)] = newcomer
        self._named.add(newcomer)
        return least, newcomer

    def _may_be_named(self, name: str) -> bool:
        return name in self._named or len(self._named) < self._most_names

    def _rate(self, norms: dict[str, float]) -> None:
        """Score each layer: its share of the squared norm, and the distance from its own course, smoothed."""
        total = sum(norm * norm for norm in norms.values() if math.isfinite(norm)) or 1.0
        for name, norm in norms.items():
            score = _SPOILT
            if math.isfinite(norm):
                size = math.log(max(norm, _SMALLEST))
                usual = self._usual.get(name, size)
                self._usual[name] = usual + _MEMORY * (size - usual)
                score = norm * norm / total + abs(size - usual)
            before = self._scores.get(name, score)
            self._scores[name] = before + _NEWEST * (score - before)


class LayerProbe:
    """Samples the gradient norm of every layer, and more of the chosen ones; for rank 0.

    Of sharded weights it sees this rank's shard, and estimates the norm of the whole from it. Never waits
    for a device and never runs a collective.

    Args:
        layers: of the model; the first 256 are looked at.
        read: called with a series, a number or a tensor of one element, and what takes the number, now or
            later; numbers of one series are taken in order.
        set_gauge: called with a metric's name, a layer and a number; None unsets it.
        clock: monotonic seconds.

    Attributes:
        next: when the next sample is due, by the clock.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        read: Callable[[str, Norm, Callable[[float], None]], None],
        set_gauge: Callable[[str, str, float | None], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._layers = {layer.name: layer for layer in layers[:MOST_SEEN]}
        self._read = read
        self._set = set_gauge
        self._clock = clock
        self.next = 0.0
        self._selection = Selection()
        self._norms: dict[str, float] = {}

    def before_step(self, scale: Any = None) -> None:
        """Take a sample if one is due: the gradients are there, the weights are those that made them.

        Args:
            scale: what the gradients are still multiplied by.
        """
        start = self._clock()
        if start < self.next or not self._layers:
            return
        norms = {name: _unscaled(norm, scale) for name, norm in self._gradient_norms()}
        for name, norm in norms.items():
            self._take("layers", norm, self._norms.__setitem__, name)
        self._take("layers", 0.0, self._choose)
        for name in self._selection.chosen:
            if name in norms:
                self._look_at(name, norms[name], scale)
        end = self._clock()
        spent = max(end - start, device_seconds(p for each in self._layers.values() for p in each.parameters))
        self.next = end + max(LEAST_INTERVAL, spent / TIME_SHARE)

    def _take(self, series: str, number: Norm, take: Callable[..., None], *before: str) -> None:
        self._read(series, number, lambda value: take(*before, value))

    def _gradient_norms(self) -> Iterator[tuple[str, Norm]]:
        import torch

        with torch.no_grad():
            for name, layer in self._layers.items():
                parts = _parts(layer, gradients=True)
                if parts:
                    yield name, _scaled_norm(parts, layer)

    def _choose(self, _: float) -> None:
        norms, self._norms = self._norms, {}
        change = self._selection.take(norms)
        if change is not None:
            for metric in _METRICS:
                self._set(metric, change[0], None)

    def _look_at(self, name: str, norm: Norm, scale: Any) -> None:
        import torch

        layer = self._layers[name]
        gradients, weights = _parts(layer, gradients=True), _parts(layer, gradients=False)
        count = sum(part.numel() for part in gradients)
        with torch.no_grad():
            numbers = (
                norm,
                _unscaled(_sum([part.sum(dtype=torch.float64) for part in gradients]) / count, scale),
                1.0 - _sum([torch.count_nonzero(part) for part in gradients]) / count,
                _scaled_norm(weights, layer),
                _deviation(weights),
            )
        for metric, number in zip(_METRICS, numbers, strict=True):
            self._take(metric + name, _plain(number), self._set_if_chosen, metric, name)

    def _set_if_chosen(self, metric: str, name: str, number: float) -> None:
        if name in self._selection.chosen:
            self._set(metric, name, number)


_METRICS = (
    "training_layer_gradient_norm",
    "training_layer_gradient_mean",
    "training_layer_zero_ratio",
    "training_layer_weight_norm",
    "training_layer_weight_stddev",
)


def _parts(layer: Layer, *, gradients: bool) -> list[torch.Tensor]:
    """What this rank holds of the layer's weights, or of their gradients."""
    parameters: list[Any] = [parameter for parameter in layer.parameters if parameter.grad is not None]
    parts = [local(parameter.grad if gradients else parameter) for parameter in parameters]
    kept = [part for part in parts if part.numel() and not part.is_sparse]
    return [part if not part.is_complex() else _real(part) for part in kept]


def _real(part: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.view_as_real(part.resolve_conj())


def _unscaled(number: Any, scale: Any) -> Any:
    return number if scale is None else _plain(number / scale)


def _scaled_norm(parts: list[torch.Tensor], layer: Layer) -> Norm:
    """Norm of the whole layer, as it follows from the part of it that is here."""
    import torch

    held = sum(part.numel() for part in parts)
    whole = sum(parameter.numel() for parameter in layer.parameters if parameter.grad is not None)
    norms = torch.stack([torch.linalg.vector_norm(_wide(part)).double() for part in parts])
    return _plain(torch.linalg.vector_norm(norms) * math.sqrt(max(1.0, whole / held)))


def _wide(part: torch.Tensor) -> torch.Tensor:
    """With squares that do not overflow."""
    import torch

    return part.float() if part.dtype in (torch.float16, torch.bfloat16) else part


def _sum(parts: list[torch.Tensor]) -> torch.Tensor:
    import torch

    return torch.stack(parts).sum()


def _deviation(parts: list[torch.Tensor]) -> torch.Tensor:
    """Standard deviation of all elements together, without a copy of them."""
    import torch

    count = sum(part.numel() for part in parts)
    moments = [(part.numel() / count, *torch.var_mean(part, correction=0)) for part in parts]
    mean = _sum([share * mean.float() for share, _, mean in moments])
    squares = _sum([share * (var.float() + each.float() ** 2) for share, var, each in moments])
    return (squares - mean * mean).clamp(min=0.0).sqrt()


def _plain(number: Any) -> Norm:
    return number if isinstance(number, float) or on_device(number) else float(number.item())
