"""Hugging Face accelerate: `Accelerator(log_with=TrainBeaconTracker())`.

A tracker is set up on the main process only, so it is no place where every rank could start: there it records
what the script gives to `accelerator.log`, and what was prepared is watched by `watch(accelerator)`, on
every rank, after `prepare`:

    accelerator = Accelerator(log_with=TrainBeaconTracker())
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    watch(accelerator, run="gpt-small")
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainbeacon.integrations.names import meaning
from trainbeacon.integrations.session import MissingFrameworkError, Session, chosen
from trainbeacon.recorder.api.beacon import Beacon
from trainbeacon.recorder.api.start import current_beacon

try:
    from accelerate.tracking import GeneralTracker, on_main_process
except ImportError as error:
    raise MissingFrameworkError("accelerate", "accelerate") from error


def watch(accelerator: Any, **settings: Any) -> Beacon:
    """Record on this rank what `accelerator.prepare` has prepared so far.

    Args:
        accelerator: after `prepare`.
        **settings: for `trainbeacon.start`, if the script has not called it.

    Returns:
        The beacon: a context manager, or to be ended with `finish`.

    Raises:
        ValueError: nothing is prepared yet.
    """
    if not accelerator._models and not accelerator._optimizers:
        raise ValueError("watch(accelerator) comes after accelerator.prepare(model, optimizer, ...)")
    hyperparameters = {
        "gradient_accumulation_steps": accelerator.gradient_accumulation_steps,
        "mixed_precision": str(accelerator.mixed_precision),
        "num_processes": accelerator.num_processes,
    }
    beacon = Session({"hyperparameters": hyperparameters, **settings}).begin()
    model = next(iter(accelerator._models), None)
    beacon.watch(model, list(accelerator._optimizers), scaler=accelerator.scaler)
    return beacon


class TrainBeaconTracker(GeneralTracker):  # type: ignore[misc,unused-ignore]
    """Records what the script gives to `accelerator.log`.

    Args:
        **settings: for `trainbeacon.start`, if nobody has called it.
    """

    name = "trainbeacon"
    requires_logging_directory = False
    main_process_only = True

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self._session = Session(settings)
        self._hyperparameters: dict[str, Any] = {}

    @property
    def tracker(self) -> Beacon | None:
        """The beacon."""
        return self._session.beacon or current_beacon()

    @on_main_process  # type: ignore[untyped-decorator,unused-ignore]
    def start(self) -> None:
        """Nothing yet: the run starts with the first number, or with `watch`."""

    @on_main_process  # type: ignore[untyped-decorator,unused-ignore]
    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        """Keep what `init_trackers` is given, for a run that starts here."""
        self._hyperparameters.update(values)

    @on_main_process  # type: ignore[untyped-decorator,unused-ignore]
    def log(self, values: Mapping[str, Any], step: int | None = None, **more: Any) -> None:
        """Record numbers; `loss` and `train_loss` are the loss of the step, other names stay as they are.

        Args:
            values: numbers by name; what is no number is left out.
            step: counts only where no optimizer is watched.
            **more: what other trackers are given; not looked at.
        """
        beacon = self._session.begin(
            hyperparameters=chosen(self._hyperparameters, tuple(self._hyperparameters))
        )
        for name, value in values.items():
            if _is_number(value):
                found = meaning(name, value)
                beacon.log(split=found.split, **{found.name: found.value})
        if step is not None:
            beacon.log(step=step)

    @on_main_process  # type: ignore[untyped-decorator,unused-ignore]
    def finish(self) -> None:
        """End the run, if it started here."""
        self._session.end()


def _is_number(value: Any) -> bool:
    return hasattr(value, "item") or (isinstance(value, (int, float)) and not isinstance(value, bool))
