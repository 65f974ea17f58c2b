"""DeepSpeed: `watch(engine)` after `deepspeed.initialize`, for ZeRO 0 to 2.

    engine, _, loader, _ = deepspeed.initialize(model=model, config=config, ...)
    with watch(engine, run="gpt-small") as beacon:
        for inputs, targets in beacon.batches(loader):
            engine.backward(loss_of(engine(inputs), targets))
            engine.step()

DeepSpeed has no callbacks: the engine's own methods are observed. Pipelines, whose `train_batch` does
everything, have no loss here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trainbeacon.integrations.session import MissingFrameworkError, Session
from trainbeacon.recorder.api.beacon import Beacon
from trainbeacon.recorder.core.patch import Ended, observe

try:
    from deepspeed.runtime import engine as deepspeed_engine
except ImportError as error:
    raise MissingFrameworkError("deepspeed", "deepspeed") from error

_MOST_STAGE = 2


def watch(engine: Any, **settings: Any) -> Beacon:
    """Record on this rank what the engine does.

    The loss of a step is the mean of its micro-batches, of this rank; the gradient norm is the one that
    DeepSpeed works out before it clips, else sampled. Where a checkpoint was loaded before, the run goes on
    after its step.

    Args:
        engine: as `deepspeed.initialize` gives it.
        **settings: for `trainbeacon.start`, if the script has not called it.

    Returns:
        The beacon: a context manager, or to be ended with `finish`.

    Raises:
        TypeError: something that is no engine of DeepSpeed's.
        ValueError: ZeRO 3, whose optimizer steps in parts.
        ConfigError: a setting is impossible.

    Threads: for the thread that trains. Each call of the engine's costs microseconds and asks no device.
    """
    if not isinstance(engine, deepspeed_engine.DeepSpeedEngine):
        raise TypeError(
            f"watch(engine) takes what deepspeed.initialize returns first, not {type(engine).__name__}"
        )
    if engine.zero_optimization_stage() > _MOST_STAGE:
        raise ValueError(
            "watch(engine) does not know the steps of ZeRO 3: call trainbeacon.start() and put "
            "`with beacon.step():` around each step"
        )
    found = {"hyperparameters": _hyperparameters(engine), **settings}
    beacon = Session(found).begin(resumed_at=int(engine.global_steps))
    if beacon.recording:
        beacon.watch(engine, engine.optimizer)
        beacon.recorder.endings.append(_Watched(beacon, engine).stop)
    return beacon


class _Watched:
    """The calls of one engine."""

    def __init__(self, beacon: Beacon, engine: Any) -> None:
        self._beacon = beacon
        self._engine = engine
        self._losses: list[Any] = []
        self._norm: Any = None
        self._stepping = False
        owner = deepspeed_engine.DeepSpeedEngine
        self._stops: list[Callable[[], None]] = [
            observe(owner, "backward", self._backward_begins),
            observe(owner, "step", self._step_begins),
            observe(owner, "save_checkpoint", self._checkpoint_begins),
            observe(deepspeed_engine, "clip_grad_norm_", self._clipping_begins),
        ]

    def stop(self) -> None:
        """The run is over: observe no longer, and hold the engine no longer."""
        while self._stops:
            self._stops.pop()()
        self._engine = None
        self._losses.clear()

    def _is_ours(self, args: Sequence[Any]) -> bool:
        return bool(args) and args[0] is self._engine and self._beacon.recording

    def _backward_begins(self, args: Sequence[Any], keywords: Mapping[str, Any]) -> None:
        if self._is_ours(args):
            loss = args[1] if len(args) > 1 else keywords.get("loss")
            scaled = args[3] if len(args) > 3 else keywords.get("scale_wrt_gas", True)
            self._beacon.recorder.guard("hooks", self._saw, loss, scaled)

    def _saw(self, loss: Any, scaled: bool) -> None:
        """A micro-batch. One that the script has divided itself is made whole again."""
        loss = loss.detach()
        self._losses.append(loss if scaled else loss * self._engine.gradient_accumulation_steps())

    def _clipping_begins(self, args: Sequence[Any], keywords: Mapping[str, Any]) -> Ended | None:
        """Without ZeRO the engine clips right before the step, by a function that gives the norm."""
        return self._clipped if self._stepping and self._beacon.recording else None

    def _clipped(self, norm: Any, error: BaseException | None) -> None:
        if error is None:
            self._norm = norm
            self._beacon.log(gradient_norm=norm)

    def _step_begins(self, args: Sequence[Any], keywords: Mapping[str, Any]) -> Ended | None:
        if not self._is_ours(args):
            return None
        before, self._norm, self._stepping = self._engine.global_steps, None, True

        def ended(result: Any, error: BaseException | None) -> None:
            self._stepping = False
            if error is None and self._engine is not None and self._engine.global_steps != before:
                self._beacon.recorder.guard("hooks", self._stepped)

        return ended

    def _stepped(self) -> None:
        losses, self._losses = self._losses, []
        if losses:
            self._beacon.log(loss=sum(losses) / len(losses))
        limit = self._engine.gradient_clipping()
        norm = self._norm if self._norm is not None else self._engine.get_global_grad_norm()
        if limit > 0.0 and norm is not None:
            self._beacon.recorder.clipped(norm / limit)

    def _checkpoint_begins(self, args: Sequence[Any], keywords: Mapping[str, Any]) -> Ended | None:
        if not self._is_ours(args):
            return None
        folder = args[1] if len(args) > 1 else keywords.get("save_dir")
        tag = args[2] if len(args) > 2 else keywords.get("tag")
        tag = tag or f"global_step{self._engine.global_steps}"
        session = Session({})
        session.enter(self._beacon.checkpoint(os.path.join(str(folder), str(tag))))
        return lambda result, error: session.leave(error)


def _hyperparameters(engine: Any) -> dict[str, Any]:
    """The engine's own settings, the important ones first."""
    rates = [group.get("lr") for group in getattr(engine.optimizer, "param_groups", ())]
    found = {
        "learning_rate": rates[0] if rates else None,
        "train_batch_size": engine.train_batch_size(),
        "micro_batch_size": engine.train_micro_batch_size_per_gpu(),
        "gradient_accumulation_steps": engine.gradient_accumulation_steps(),
        "gradient_clipping": engine.gradient_clipping(),
        "zero_stage": engine.zero_optimization_stage(),
        "precision": "fp16" if engine.fp16_enabled() else "bf16" if engine.bfloat16_enabled() else "fp32",
    }
    return {name: value for name, value in found.items() if value is not None}
