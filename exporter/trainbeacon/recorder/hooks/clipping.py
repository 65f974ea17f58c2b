"""Seeing a script clip its gradients, by whichever of torch's functions, before they are changed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trainbeacon.recorder.core.patch import Ended, observe
from trainbeacon.recorder.core.recorder import Recorder
from trainbeacon.recorder.device.scalars import on_device
from trainbeacon.recorder.hooks.traced import reporting_outside_graphs
from trainbeacon.recorder.numerics.watch import GradientMonitor


def observe_clipping(recorder: Recorder, monitor: GradientMonitor) -> list[Callable[[], None]]:
    """Report the norms that clipping computes to a monitor. Returns what ends that."""
    seen = _Clipping(monitor)
    clip_grad = sys.modules["torch.nn.utils.clip_grad"]
    utils = sys.modules["torch.nn.utils"]
    public = hasattr(utils, "clip_grads_with_norm_")
    places: list[tuple[Any, str, Callable[..., Any]]] = [
        # One function under two names, which a patch of the public one replaces both.
        (utils, "clip_grads_with_norm_", seen.with_norm)
        if public
        else (clip_grad, "_clip_grads_with_norm_", seen.with_norm),
        (clip_grad, "_get_total_norm", seen.total_norm),
        (utils, "clip_grad_value_", seen.by_value),
    ]
    sharded: Any = sys.modules.get("torch.distributed.fsdp.fully_sharded_data_parallel")
    whole: Any = getattr(sharded, "FullyShardedDataParallel", None)
    if whole is not None:
        places.append((whole, "clip_grad_norm_", seen.of_sharded))
    scaler: Any = getattr(sys.modules.get("torch.amp.grad_scaler"), "GradScaler", None)
    if scaler is not None:
        places.append((scaler, "unscale_", seen.unscaled))
    return [
        observe(owner, name, recorder.guarded("hooks", started), reporting_outside_graphs)
        for owner, name, started in places
        if hasattr(owner, name)
    ]


class _Clipping:
    """What each of the functions says of the gradients."""

    def __init__(self, monitor: GradientMonitor) -> None:
        self._monitor = monitor
        self._is_l2 = True  # whether the norm that was worked out last is the L2 norm

    def total_norm(self, args: Sequence[Any], keywords: Mapping[str, Any]) -> None:
        kind = args[1] if len(args) > 1 else keywords.get("norm_type", 2.0)
        self._is_l2 = float(kind) == 2.0

    def with_norm(self, args: Sequence[Any], keywords: Mapping[str, Any]) -> None:
        given = dict(zip(("parameters", "max_norm", "total_norm"), args, strict=False), **keywords)
        is_l2, self._is_l2 = self._is_l2, True
        if is_l2:
            limit = None if on_device(given["max_norm"]) else float(given["max_norm"])
            self._monitor.clipped(given["parameters"], given["total_norm"], limit)
        else:
            self._monitor.changes(given["parameters"])

    def by_value(self, args: Sequence[Any], keywords: Mapping[str, Any]) -> None:
        self._monitor.changes(args[0] if args else keywords.get("parameters"))

    def of_sharded(self, args: Sequence[Any], keywords: Mapping[str, Any]) -> Ended | None:
        """FSDP's own: its result is the norm of the whole, by a collective that the script asked for."""
        given = dict(zip(("module", "max_norm", "norm_type"), args, strict=False), **keywords)
        limit = None if on_device(given["max_norm"]) else float(given["max_norm"])
        if float(given.get("norm_type", 2.0)) != 2.0:
            self._monitor.changes(None)
            return None

        def ended(result: Any, error: BaseException | None) -> None:
            if error is None:
                self._monitor.clipped(None, result, limit)

        return ended

    def unscaled(self, args: Sequence[Any], keywords: Mapping[str, Any]) -> Ended:
        return lambda result, error: self._monitor.remember_gradients()
