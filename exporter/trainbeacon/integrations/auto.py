"""Recording a script that says nothing of us: `trainbeacon run train.py`, or `TRAINBEACON=1`.

Nothing happens before the script makes its first optimizer. The run starts as that, or a module with its
parameters, is first used, and what all training on torch passes is observed: steps of the optimizer that
steps first, the module that is called first, backward passes, loaders. A framework with an adapter of its own
is left to that, and so is a script that has started a run of its own until then. What was not seen is not
claimed.
"""

from __future__ import annotations

import atexit
import functools
import logging
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trainbeacon.config.environment import autostart_wanted
from trainbeacon.integrations.imports import on_import
from trainbeacon.integrations.signals import LoaderWaits, StepLoss, observe_batches
from trainbeacon.recorder.api.beacon import Beacon
from trainbeacon.recorder.api.start import current_beacon, start
from trainbeacon.recorder.api.workers import is_worker
from trainbeacon.recorder.core.patch import Ended, observe

log = logging.getLogger("trainbeacon")

#: What launchers raise about a process that they have started, which has reported itself.
_OF_A_CHILD = {"ProcessRaisedException", "ProcessExitedException", "ChildFailedError"}
_OPTIMIZERS = "torch.optim.optimizer"
_CALLBACKS_OF_FIT = (
    5  # their place among the arguments of Keras' `fit`, after x, y, batch_size, epochs, verbose
)


class AutoRecorder:
    """The recording of one process.

    Args:
        settings: for `trainbeacon.start`.
        say: takes the two lines about what is recorded.
    """

    def __init__(self, settings: Mapping[str, Any], say: Callable[[str], None] = log.info) -> None:
        self._settings = dict(settings)
        self._say = say
        self._stops: list[Callable[[], None]] = []
        self._waiting: list[Callable[[], None]] = []  # for what is trained with to be used first
        self._records_itself = False
        self._is_first = True  # the first step, whose loss may have been scaled before anybody looked
        self._left_to: str | None = None  # the framework that has an adapter
        self._beacon: Beacon | None = None
        self._loss: StepLoss | None = None
        self._fetched = 0
        self._parameters: set[int] = set()
        self._model: Any = None
        self._stepping: weakref.ref[Any] | None = None
        self._evaluation: Any = None
        self._evaluations = 0
        self._losses = 0

    def install(self) -> None:
        """Wait for torch, and for the frameworks that have adapters, to be imported."""
        on_import(_OPTIMIZERS, self._watch_optimizers)
        on_import("transformers.trainer", self._add_to_transformers)
        for package in ("lightning.pytorch", "pytorch_lightning"):
            on_import(f"{package}.trainer.trainer", self._add_to_lightning)
        on_import("keras.src.backend.torch.trainer", self._add_to_keras)

    @property
    def beacon(self) -> Beacon | None:
        """The run that this recorder has started, while it is under way."""
        return self._beacon if self._beacon is not None and self._beacon.recording else None

    # What is recorded without an adapter

    def _watch_optimizers(self, module: Any) -> None:
        self._stops.append(observe(module.Optimizer, "__init__", self._optimizer_begins))

    def _optimizer_begins(self, args: Sequence[Any], keywords: Mapping[str, Any]) -> Ended:
        def ended(result: Any, error: BaseException | None) -> None:
            if error is None:
                _try("this script", self._made, args[0])

        return ended

    def _made(self, optimizer: Any) -> None:
        if self._left_to is not None or self._records_itself or is_worker():
            return
        groups = getattr(optimizer, "param_groups", ())
        self._parameters |= {id(parameter) for group in groups for parameter in group["params"]}
        if self._beacon is None and not self._waiting:
            self._await_use()

    def _await_use(self) -> None:
        """Start with the first use of what is trained: a script that records itself has started before."""
        import torch
        from torch.nn.modules.module import register_module_forward_pre_hook

        def used() -> bool:
            """Whether a run starts here."""
            self._stop_waiting()
            if current_beacon() is not None:
                self._records_itself = True
            elif self._left_to is None and self._beacon is None:
                _try("this script", lambda _: self._start(), None)
            return self._loss is not None

        def called(module: Any, inputs: Any) -> None:
            if any(id(each) in self._parameters for each in module.parameters()) and used():
                self._called(module, inputs)

        def backward(args: Sequence[Any], keywords: Mapping[str, Any]) -> None:
            if used() and self._loss is not None:  # without a module
                self._loss.begins(args, keywords)

        self._waiting += [
            observe_batches(self._took),
            register_module_forward_pre_hook(called).remove,
            observe(torch.autograd, "backward", backward),
        ]

    def _stop_waiting(self) -> None:
        while self._waiting:
            self._waiting.pop()()

    def _start(self) -> None:
        from torch.nn.modules.module import register_module_forward_pre_hook
        from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

        beacon = self._beacon = start(**self._settings)
        if beacon.identity.local_rank == 0:
            self._say(f"recording run {beacon.run!r} (docs/integrations.md says what is seen without code)")
        self._loss = StepLoss(beacon, self._trained)
        self._stops += [
            *self._loss.install(),
            LoaderWaits(beacon, self._took).install(),
            register_module_forward_pre_hook(self._called).remove,
            register_optimizer_step_pre_hook(self._step_begins).remove,
            register_optimizer_step_post_hook(self._step_ends).remove,
        ]

    def _stop(self) -> None:
        self._stop_waiting()
        while self._stops:
            self._stops.pop()()

    def _took(self, samples: int) -> None:
        self._fetched = samples

    def _trained(self) -> None:
        """A backward pass: the batch fetched last is one that is trained on."""
        self._end_evaluation()
        if self._beacon is not None and self._fetched:
            self._beacon.timeline.pending_samples += self._fetched
            self._fetched = 0

    def _called(self, module: Any, inputs: Any) -> None:
        """A module is called; the first one that holds what an optimizer trains is the model."""
        beacon = self.beacon
        if beacon is None or self._model is not None or not self._parameters:
            return
        try:
            if any(id(parameter) in self._parameters for parameter in module.parameters()):
                self._model = weakref.ref(module)
                beacon.watch(module)
                self._stops.append(module.register_forward_pre_hook(self._model_called).remove)
        except Exception as error:  # noqa: BLE001 - the boundary
            beacon.recorder.error("hooks", error)

    def _model_called(self, module: Any, inputs: Any) -> None:
        """In evaluation mode, and without gradients, this is an evaluation."""
        import torch

        beacon = self.beacon
        if beacon is None or torch.compiler.is_compiling():
            return
        if module.training or torch.is_grad_enabled():
            self._end_evaluation()
        elif self._evaluation is None and beacon.timeline.declared is None:
            self._evaluation = beacon.evaluate()
            self._evaluation.__enter__()
            self._evaluations += 1

    def _end_evaluation(self) -> None:
        evaluation, self._evaluation = self._evaluation, None
        if evaluation is not None:
            evaluation.__exit__(None, None, None)

    def _step_begins(self, optimizer: Any, *_: Any) -> None:
        beacon = self.beacon
        if beacon is None or self._loss is None:
            return
        if (
            self._stepping is None and self._loss.passes
        ):  # a step without a backward pass only makes its state
            self._stepping = weakref.ref(optimizer)
            beacon.watch(None, optimizer)

    def _step_ends(self, optimizer: Any, *_: Any) -> None:
        beacon = self.beacon
        if (
            beacon is None
            or self._loss is None
            or self._stepping is None
            or self._stepping() is not optimizer
        ):
            return
        loss, first, self._is_first = self._loss.take(), self._is_first, False
        if loss is not None and not first:
            self._losses += 1
            beacon.log(loss=loss)

    # Frameworks

    def _leave_to(self, framework: str) -> None:
        """An adapter records from here on; a run that has started already goes on in it."""
        if self._left_to is None:
            self._left_to = framework
            self._end_evaluation()
            self._stop()

    def _add_to_transformers(self, module: Any) -> None:
        self._after_init(module.Trainer, "transformers", self._callback_of_transformers)

    def _callback_of_transformers(self, trainer: Any) -> None:
        from trainbeacon.integrations.transformers import TrainBeaconCallback

        if not any(isinstance(each, TrainBeaconCallback) for each in trainer.callback_handler.callbacks):
            trainer.add_callback(TrainBeaconCallback(**self._settings))

    def _add_to_lightning(self, module: Any) -> None:
        self._after_init(module.Trainer, "lightning", self._callback_of_lightning)

    def _callback_of_lightning(self, trainer: Any) -> None:
        from trainbeacon.integrations.lightning import TrainBeaconCallback

        if not any(isinstance(each, TrainBeaconCallback) for each in trainer.callbacks):
            trainer.callbacks.append(TrainBeaconCallback(**self._settings))

    def _after_init(self, owner: Any, framework: str, add: Callable[[Any], None]) -> None:
        def started(args: Sequence[Any], keywords: Mapping[str, Any]) -> Ended:
            def ended(result: Any, error: BaseException | None) -> None:
                if error is None:
                    self._leave_to(framework)
                    _try(f"this {framework} Trainer", add, args[0])

            return ended

        observe(owner, "__init__", started)

    def _add_to_keras(self, module: Any) -> None:
        observe(module.TorchTrainer, "fit", lambda args, keywords: None, make=self._with_callback)

    def _with_callback(self, fit: Callable[..., Any], _: Any) -> Callable[..., Any]:
        """Keras' `fit`, which is given one callback more."""

        @functools.wraps(fit)
        def call(model: Any, *args: Any, **keywords: Any) -> Any:
            if len(args) <= _CALLBACKS_OF_FIT:
                keywords["callbacks"] = _try("this fit", self._keras_callbacks, keywords.get("callbacks"))
            return fit(model, *args, **keywords)

        return call

    def _keras_callbacks(self, given: Any) -> Any:
        from keras.callbacks import CallbackList

        from trainbeacon.integrations.keras import TrainBeaconCallback

        if isinstance(given, CallbackList):
            return given
        callbacks = list(given) if isinstance(given, (list, tuple)) else [given] if given is not None else []
        if not any(isinstance(each, TrainBeaconCallback) for each in callbacks):
            self._leave_to("keras")
            callbacks.append(TrainBeaconCallback(**self._settings))
        return callbacks

    # The end

    def finish(self, error: BaseException | None = None) -> None:
        """The script is over; without a run so far, an error makes one that says so."""
        records_itself = self._records_itself or current_beacon() not in (None, self._beacon)
        alone = self._beacon is None and self._left_to is None and not records_itself and not is_worker()
        if alone and _is_failure(error):
            self._beacon = start(**self._settings)
        beacon = self.beacon
        self._end_evaluation()
        self._stop()
        if beacon is None:
            if alone and error is None and "torch" in sys.modules:
                self._say("nothing is recorded: no torch optimizer was used here (docs/integrations.md)")
            return
        if beacon.identity.local_rank == 0:
            self._say(self._summary(beacon))
        beacon.__exit__(type(error) if error is not None else None, error, None)

    def at_exit(self) -> None:
        """The process ends by itself: say what was seen. The beacon itself closes the box."""
        if (beacon := self.beacon) is not None and beacon.identity.local_rank == 0:
            self._say(self._summary(beacon))

    def _summary(self, beacon: Beacon) -> str:
        seen, missing = [f"{beacon.timeline.step} steps"], list[str]()
        parts = {
            "a model": self._model is not None,
            "losses": self._losses > 0,
            "samples": beacon.recorder.writer.step[beacon.recorder.at("training_samples_total")] > 0,
            "evaluations": self._evaluations > 0,
        }
        for name, found in parts.items():
            (seen if found else missing).append(name)
        left = f"; not seen: {', '.join(missing)}" if missing else ""
        adapter = f", by the {self._left_to} adapter" if self._left_to else ""
        return f"run {beacon.run!r} is over: saw {', '.join(seen)}{adapter}{left}"


def _is_failure(error: BaseException | None) -> bool:
    """Whether a script ended by an error of its own, not by a clean exit or because a child of it failed."""
    if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return False
    return type(error).__name__ not in _OF_A_CHILD


def _try(what: str, work: Callable[..., Any], argument: Any) -> Any:
    """Do something of ours; where it fails the script goes on, with what it had, and is not recorded."""
    try:
        return work(argument)
    except Exception as error:  # noqa: BLE001 - the boundary
        log.warning("%s is not recorded: %s", what, error)
        return argument


_recorder: AutoRecorder | None = None


def install(
    settings: Mapping[str, Any] | None = None, say: Callable[[str], None] | None = None
) -> AutoRecorder:
    """Record this process, whatever it will train with; once."""
    global _recorder
    if _recorder is None:
        _recorder = AutoRecorder(settings or {}, say or _say)
        _recorder.install()
    return _recorder


def install_if_wanted() -> None:
    """For the site hook: record this process if `TRAINBEACON=1` says so. Never raises."""
    try:
        if autostart_wanted():
            atexit.register(install().at_exit)
    except Exception as error:  # noqa: BLE001 - a process that is not recorded runs all the same
        log.warning("this process is not recorded: %s", error)


def _say(text: str) -> None:
    if sys.stderr is not None:
        print(f"trainbeacon: {text}", file=sys.stderr, flush=True)  # noqa: T201 - the script has no logging yet
