"""PyTorch Lightning 2: `Trainer(callbacks=[TrainBeaconCallback()])`, and a logger for what `self.log` gives.

Both may be used together, and record one run. Works with `lightning` and `pytorch_lightning`, whichever the
script has imported.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any

from trainbeacon.integrations.names import meaning
from trainbeacon.integrations.session import MissingFrameworkError, Session, chosen
from trainbeacon.integrations.signals import LoaderWaits
from trainbeacon.recorder.core.patch import Ended, observe
from trainbeacon.recorder.core.timeline import FORWARD
from trainbeacon.recorder.device.scalars import batch_size

try:
    if "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules:
        from pytorch_lightning import Callback, Trainer
        from pytorch_lightning.loggers import Logger
    else:
        from lightning.pytorch import Callback, Trainer
        from lightning.pytorch.loggers import Logger
except ImportError as error:
    raise MissingFrameworkError("lightning", "lightning") from error

#: Of the module's own hyperparameters and of the Trainer's, in the order in which a run has room for them.
IMPORTANT = (
    "learning_rate",
    "lr",
    "batch_size",
    "weight_decay",
    "optimizer",
    "hidden_size",
    "num_layers",
    "dropout",
    "max_epochs",
    "max_steps",
    "accumulate_grad_batches",
    "gradient_clip_val",
    "precision",
    "strategy",
    "devices",
    "num_nodes",
)
_LOSSES = ("val_loss", "valid_loss", "validation_loss", "val/loss", "valid/loss", "loss/val", "eval_loss")
_ACCURACIES = ("val_acc", "val_accuracy", "valid_acc", "val/acc", "val/accuracy", "validation_accuracy")


class TrainBeaconCallback(Callback):  # type: ignore[misc,unused-ignore]
    """Records a Trainer's fit on every rank.

    The loss of a step is the one that its backward passes go back from; with `accumulate_grad_batches`
    Lightning has divided it already, and the sum is that of the step. With manual optimisation, where
    several losses make a step, only what `self.log` gives is recorded.

    Args:
        **settings: for `trainbeacon.start`, if the script has not called it: run, owner, thresholds, ...

    Threads: for the thread that trains. Each event costs microseconds and asks no device.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self._session = Session(settings)
        self._stops: list[Callable[[], None]] = []
        self._loss: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """What a copy in another process gets: the settings, and a run of its own."""
        return {"settings": self._session.settings}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__(**state["settings"])  # type: ignore[misc]

    # Begin and end

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Start recording: from here on the rank, the model as it is wrapped and the optimizers are known."""
        found = {**_plain(trainer), **dict(getattr(pl_module, "hparams", None) or {})}
        beacon = self._session.begin(hyperparameters=chosen(found, (*IMPORTANT, *found)))
        beacon.watch(trainer.model, list(trainer.optimizers))
        if not self._stops:
            self._stops = [
                LoaderWaits(beacon).install(),
                observe(Trainer, "save_checkpoint", self._checkpoint_begins),
            ]

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Record the planned end, and the step that a resumed run goes on after."""
        beacon = self._session.beacon
        if beacon is None:
            return
        planned = beacon.recorder.guard("value", lambda: float(trainer.estimated_stepping_batches))
        if planned is not None and planned > 0 and isfinite(planned) and beacon.config.steps_planned is None:
            beacon.recorder.set_of_run("training_steps_planned", planned)
        if trainer.global_step and beacon.timeline.resumed is None:
            beacon.resume(trainer.global_step)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """The fit ends by this exception."""
        self._close(exception)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """End the run, if it started here."""
        if stage == "fit":
            self._close(None)

    def _close(self, error: BaseException | None) -> None:
        while self._stops:
            self._stops.pop()()
        self._loss = None
        self._session.end(error)

    # Steps

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Record the number of the epoch."""
        if (beacon := self._session.beacon) is not None:
            beacon.log(epoch=trainer.current_epoch)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Count the epoch."""
        if (beacon := self._session.beacon) is not None:
            beacon.recorder.add("training_epochs_total", 1.0)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """The samples of a batch that is trained on."""
        if (beacon := self._session.beacon) is not None:
            beacon.timeline.observe(FORWARD)  # what `training_step` does up to its backward pass
            beacon.timeline.pending_samples += beacon.recorder.guard("value", batch_size, batch) or 0

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
        """A loss, divided by the number of batches that are accumulated."""
        if self._session.beacon is not None and pl_module.automatic_optimization:
            loss = loss.detach()
            self._loss = loss if self._loss is None else self._loss + loss

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the loss once the optimizer has made its step."""
        beacon = self._session.beacon
        if beacon is None or self._loss is None or trainer.fit_loop._should_accumulate():
            return
        loss, self._loss = self._loss, None
        beacon.log(loss=loss)

    # Evaluation and checkpoints

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """An evaluation begins; the one before training is a trial of the code, and its loss says nothing."""
        if (beacon := self._session.beacon) is not None:
            trial = trainer.sanity_checking
            self._session.enter(beacon.phase("evaluate") if trial else beacon.evaluate())

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Record what the evaluation gives, and judge it."""
        beacon = self._session.beacon
        if beacon is None:
            return
        if not trainer.sanity_checking:
            beacon.recorder.guard("value", self._evaluated, trainer.callback_metrics)
        self._session.leave()

    def _evaluated(self, metrics: Mapping[str, Any]) -> None:
        beacon = self._session.beacon
        if beacon is not None:
            loss = next((metrics[name] for name in _LOSSES if name in metrics), None)
            accuracy = next((metrics[name] for name in _ACCURACIES if name in metrics), None)
            beacon.log(loss=loss, accuracy=accuracy)

    def _checkpoint_begins(self, args: Sequence[Any], keywords: Mapping[str, Any]) -> Ended | None:
        beacon = self._session.beacon
        if beacon is None or self not in args[0].callbacks:
            return None
        path = args[1] if len(args) > 1 else keywords.get("filepath")
        self._session.enter(beacon.checkpoint(path))
        return lambda result, error: self._session.leave(error)


class TrainBeaconLogger(Logger):  # type: ignore[misc,unused-ignore]
    """Records what the module gives to `self.log`, under the names that it gives.

    `train_loss`, `val_loss`, `val_acc` and the like are the loss and the accuracy where nobody else records
    the run; beside the callback, which knows them of each step, they are left to it. Everything else is
    `training_metric{name}`. Lightning calls a logger every `log_every_n_steps` only.

    Args:
        **settings: for `trainbeacon.start`, if nobody has called it.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self._session = Session(settings)
        self._hyperparameters: dict[str, Any] = {}

    @property
    def name(self) -> str:
        """Of the logger."""
        return "trainbeacon"

    @property
    def version(self) -> str:
        """Of the run: its name."""
        beacon = self._session.beacon
        return beacon.run if beacon is not None else ""

    def log_hyperparams(self, params: Any, *args: Any, **keywords: Any) -> None:
        """Keep what the run is started with."""
        found = params if isinstance(params, Mapping) else vars(params)
        self._hyperparameters.update(found)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Record numbers of the module's own."""
        beacon = self._session.beacon or self._session.begin(
            hyperparameters=chosen(self._hyperparameters, (*IMPORTANT, *self._hyperparameters))
        )
        others = self._session.is_shared  # a callback knows the loss of each step better
        for name, value in metrics.items():
            found = meaning(name, value)
            if found.name == "epoch" or (others and found.name in ("loss", "accuracy", "gradient_norm")):
                continue
            beacon.log(split=found.split, **{found.name: found.value})

    def finalize(self, status: str) -> None:
        """End the run, if it started here."""
        self._session.end()


def _plain(trainer: Any) -> dict[str, Any]:
    """What the Trainer was made with, as far as it tells."""
    return {
        "max_epochs": trainer.max_epochs,
        "max_steps": trainer.max_steps if trainer.max_steps > 0 else None,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "gradient_clip_val": trainer.gradient_clip_val,
        "precision": str(trainer.precision),
        "strategy": type(trainer.strategy).__name__,
        "devices": trainer.num_devices,
        "num_nodes": trainer.num_nodes,
    }
