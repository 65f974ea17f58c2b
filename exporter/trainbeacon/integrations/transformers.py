"""Hugging Face transformers: `Trainer(callbacks=[TrainBeaconCallback()])`, or `report_to="trainbeacon"`.

Once this module is imported, `report_to="trainbeacon"` names the callback through the Trainer's own list of
integrations. The Trainer has no event before an evaluation or a checkpoint and gives its callbacks means
only, so four of its methods are observed while a run is recorded: `training_step`, `evaluate`, `predict`
and `_save_checkpoint`. They do, take and return what they did before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from trainbeacon.integrations.session import MissingFrameworkError, Session, chosen
from trainbeacon.integrations.signals import LoaderWaits
from trainbeacon.recorder.api.beacon import Beacon
from trainbeacon.recorder.core.patch import Ended, Started, observe
from trainbeacon.recorder.device.scalars import batch_size

try:
    from transformers import Trainer, TrainerCallback
    from transformers.integrations import integration_utils
except ImportError as error:
    raise MissingFrameworkError("transformers", "transformers") from error

#: Of `TrainingArguments`, in the order in which a run has room for them.
IMPORTANT = (
    "learning_rate",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "max_steps",
    "weight_decay",
    "lr_scheduler_type",
    "warmup_steps",
    "warmup_ratio",
    "optim",
    "max_grad_norm",
    "adam_beta1",
    "adam_beta2",
    "bf16",
    "fp16",
    "gradient_checkpointing",
    "torch_compile",
    "seed",
    "dataloader_num_workers",
    "group_by_length",
)
#: What `on_log` has of the step or of the end: recorded in a truer form elsewhere, or no number of a step.
_NOT_METRICS = {"loss", "grad_norm", "learning_rate", "epoch", "step"}
#: What says how an evaluation went, not what came of it.
_OF_AN_EVALUATION = (
    "runtime",
    "samples_per_second",
    "steps_per_second",
    "epoch",
    "model_preparation_time",
)
_OF_OTHERS = ("eval_", "test_", "train_", "total_flos")


class TrainBeaconCallback(TrainerCallback):  # type: ignore[misc,unused-ignore]
    """Records a Trainer's run on every rank.

    The loss of a step is the sum of what its micro-batches return, which the Trainer has divided already: it
    is known for each step, where the Trainer logs means, and a NaN shows in it.

    Args:
        **settings: for `trainbeacon.start`, if the script has not called it: run, owner, thresholds, ...

    Threads: for the thread that trains. Each event costs microseconds and asks no device.
    """

    def __init__(self, **settings: Any) -> None:
        self._session = Session(settings)
        self._stops: list[Callable[[], None]] = []
        self._trainer: Any = None
        self._loss: Any = None

    # The Trainer's events

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Start recording; again after `auto_find_batch_size` has made the batch smaller."""
        if self._session.beacon is not None:
            return
        named = args.run_name if args.run_name != args.output_dir else None
        beacon = self._session.begin(
            run=named,
            hyperparameters=chosen(_plain(args), IMPORTANT),
            steps_planned=state.max_steps,
            resumed_at=state.global_step,
        )
        self._observe(beacon)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Count the epoch."""
        if (beacon := self._session.beacon) is not None:
            beacon.recorder.add("training_epochs_total", 1.0)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Record the number of the epoch."""
        if (beacon := self._session.beacon) is not None:
            beacon.log(epoch=int(state.epoch or 0))

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Record the loss of the step that the optimizer has just made."""
        loss, self._loss = self._loss, None
        if (beacon := self._session.beacon) is not None and loss is not None:
            beacon.log(loss=loss)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **more: Any
    ) -> None:
        """Record further numbers that the script or a subclass of the Trainer logs, such as rewards."""
        if (beacon := self._session.beacon) is not None and logs and self._session.depth == 0:
            beacon.log(**_further(logs))

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """End the run, if it started here."""
        while self._stops:
            self._stops.pop()()
        self._trainer = self._loss = None
        self._session.end()

    # The Trainer's methods

    def _observe(self, beacon: Beacon) -> None:
        methods = {
            "training_step": self._step_begins,
            "evaluate": self._evaluation_begins,
            "predict": self._prediction_begins,
            "_save_checkpoint": self._checkpoint_begins,
        }
        self._stops = [observe(Trainer, name, self._guarded(begins)) for name, begins in methods.items()]
        self._stops.append(LoaderWaits(beacon).install())

    def _guarded(self, begins: Callable[..., Ended | None]) -> Started:
        """For calls of the Trainer that this callback belongs to: there may be others in the process."""

        def started(args: Sequence[Any], keywords: Mapping[str, Any]) -> Ended | None:
            beacon = self._session.beacon
            if beacon is None or self not in args[0].callback_handler.callbacks:
                return None
            ended: Ended | None = beacon.recorder.guard("hooks", begins, beacon, *args, keywords)
            return ended

        return started

    def _step_begins(self, beacon: Beacon, trainer: Any, *args: Any) -> Ended:
        *positional, keywords = args
        model, inputs = (*positional, *keywords.values())[:2]
        if self._trainer is not trainer:  # only now are the model as it is wrapped and the optimizer known
            self._trainer = trainer
            beacon.watch(model, trainer.optimizer)
        beacon.timeline.pending_samples += batch_size(inputs)
        tokens: Any = inputs.get("input_ids") if hasattr(inputs, "get") else None
        if hasattr(tokens, "numel"):
            beacon.timeline.pending_tokens += tokens.numel()
        return self._step_ends

    def _step_ends(self, loss: Any, error: BaseException | None) -> None:
        if error is None and hasattr(loss, "detach"):
            loss = loss.detach()
            self._loss = loss if self._loss is None else self._loss + loss

    def _evaluation_begins(self, beacon: Beacon, trainer: Any, *args: Any) -> Ended:
        prefix = args[-1].get("metric_key_prefix", "eval")
        self._session.enter(beacon.evaluate())

        def ended(metrics: Any, error: BaseException | None) -> None:
            if error is None:
                beacon.recorder.guard("value", self._evaluated, beacon, metrics, prefix)
            self._session.leave(error)

        return ended

    def _prediction_begins(self, beacon: Beacon, trainer: Any, *args: Any) -> Ended:
        return self._within(beacon.phase("evaluate"))

    def _checkpoint_begins(self, beacon: Beacon, trainer: Any, *args: Any) -> Ended:
        folder = f"{trainer.args.output_dir}/checkpoint-{trainer.state.global_step}"
        return self._within(beacon.checkpoint(folder))

    def _within(self, context: AbstractContextManager[Any]) -> Ended:
        self._session.enter(context)
        return lambda result, error: self._session.leave(error)

    def _evaluated(self, beacon: Beacon, metrics: Mapping[str, Any], prefix: str) -> None:
        """Record what an evaluation gives, before its context closes and judges it."""
        found = {
            name.removeprefix(f"{prefix}_"): value for name, value in metrics.items() if _is_number(value)
        }
        named = {name: value for name, value in found.items() if name not in _OF_AN_EVALUATION}
        accuracy = named.pop("accuracy", None)
        if accuracy is not None and not 0 <= accuracy <= 1:
            named["accuracy_percent"], accuracy = accuracy, None
        beacon.log(loss=named.pop("loss", None), accuracy=accuracy, **named)


def _plain(args: Any) -> dict[str, Any]:
    """The arguments as plain values: enumerations by their text."""
    return {name: getattr(value, "value", value) for name, value in vars(args).items()}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _further(logs: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in logs.items()
        if name not in _NOT_METRICS and not name.startswith(_OF_OTHERS) and _is_number(value)
    }


# The Trainer's own list of names for `report_to`.
integration_utils.INTEGRATION_TO_CALLBACK.setdefault("trainbeacon", TrainBeaconCallback)
