"""Keras 3 on the torch backend: `model.fit(..., callbacks=[TrainBeaconCallback()])`.

Keras' optimizers are not torch's, so steps are counted by its own counter of updates, and the gradients
are read where the backward pass has left them, before the optimizer's own clipping. The loss is the one that
the backward pass goes back from: what Keras puts into its logs is a mean since the epoch began.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from trainbeacon.integrations.session import MissingFrameworkError, Session, chosen
from trainbeacon.integrations.signals import StepLoss
from trainbeacon.recorder.device.scalars import batch_size
from trainbeacon.recorder.numerics.gradients import NormProbe

try:
    from keras import backend
    from keras.callbacks import Callback
except ImportError as error:
    raise MissingFrameworkError("keras", "keras") from error

IMPORTANT = ("optimizer", "learning_rate", "epochs", "steps", "gradient_accumulation_steps", "clipnorm")


class TrainBeaconCallback(Callback):  # type: ignore[misc,unused-ignore]
    """Records a `fit` on the torch backend.

    Args:
        **settings: for `trainbeacon.start`, if the script has not called it: run, owner, thresholds, ...

    Raises:
        RuntimeError: Keras runs on another backend.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        if backend.backend() != "torch":
            raise RuntimeError(
                f"trainbeacon.integrations.keras records the torch backend, and KERAS_BACKEND is "
                f"{backend.backend()!r}: set KERAS_BACKEND=torch, or use trainbeacon.start() and beacon.log()"
            )
        self._session = Session(settings)
        self._stops: list[Callable[[], None]] = []
        self._loss: StepLoss | None = None
        self._norms: NormProbe | None = None
        self._hook: Any = None
        self._batches = 0

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Start recording."""
        params = self.params or {}
        epochs, steps, accumulate = params.get("epochs"), params.get("steps"), self._accumulation()
        planned = epochs * (steps // accumulate) if epochs and steps else None
        beacon = self._session.begin(
            hyperparameters=chosen({**self._settings_of_optimizer(), **params}, IMPORTANT),
            steps_planned=planned,
        )
        beacon.watch(self.model)
        self._loss = StepLoss(beacon)
        self._stops = self._loss.install()
        parameters = [variable.value for variable in self.model.trainable_variables]
        recorder = beacon.recorder
        self._norms = NormProbe(parameters, lambda name, norm: recorder.gauge(recorder.at(name), name, norm))
        self._hook = self.model.register_forward_pre_hook(self._forward)

    def _forward(self, module: Any, inputs: Any) -> None:
        """The samples of a batch that is trained on; of an evaluation the phase is another one."""
        beacon = self._session.beacon
        if beacon is not None and beacon.timeline.declared is None:
            beacon.timeline.pending_samples += beacon.recorder.guard("value", batch_size, inputs) or 0

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Record the number of the epoch."""
        if (beacon := self._session.beacon) is not None:
            beacon.log(epoch=epoch)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """A step, where the optimizer has made one: loss, norm, learning rate."""
        beacon = self._session.beacon
        if beacon is None or self._loss is None:
            return
        self._batches += 1
        if self._batches % self._accumulation():
            return
        loss = self._loss.take()
        if self._norms is not None:
            norm = beacon.recorder.guard("hooks", self._norm)
            if norm is not None:
                beacon.log(gradient_norm=norm)
        if loss is not None:
            beacon.log(loss=loss)
        rate = beacon.recorder.guard("value", lambda: self.model.optimizer.learning_rate)
        if rate is not None:
            beacon.log(learning_rate=getattr(rate, "value", rate))
        beacon.steps.optimizer_stepped()

    def _norm(self) -> Any:
        assert self._norms is not None
        norm = self._norms.before_step(norm_is_known=False)
        self._norms.after_step()
        return norm

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Count the epoch."""
        if (beacon := self._session.beacon) is not None:
            beacon.recorder.add("training_epochs_total", 1.0)

    def on_test_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """An evaluation begins."""
        if (beacon := self._session.beacon) is not None:
            self._session.enter(beacon.evaluate())

    def on_test_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Record what the evaluation gives, and judge it."""
        if (beacon := self._session.beacon) is None:
            return
        found = dict(logs or {})
        accuracy = next((found.pop(name) for name in list(found) if "accuracy" in name), None)
        loss = found.pop("loss", None)
        beacon.log(loss=loss, accuracy=accuracy, **found)
        self._session.leave()

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """End the run, if it started here."""
        while self._stops:
            self._stops.pop()()
        if self._hook is not None:
            self._hook.remove()
        self._loss = self._norms = self._hook = None
        self._session.end()

    def _accumulation(self) -> int:
        return int(getattr(self.model.optimizer, "gradient_accumulation_steps", None) or 1)

    def _settings_of_optimizer(self) -> dict[str, Any]:
        optimizer = self.model.optimizer
        return {
            "optimizer": type(optimizer).__name__,
            "learning_rate": float(optimizer.learning_rate),
            "clipnorm": getattr(optimizer, "clipnorm", None),
            "gradient_accumulation_steps": self._accumulation(),
        }
