"""The numbers that `Beacon.log` takes: a slot for each name, and not more names than a run has room for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from trainbeacon.blackbox.format import SINK
from trainbeacon.recorder.core.evaluations import Evaluations
from trainbeacon.recorder.core.recorder import Recorder, log

#: Names of the user's own that a run has room for.
MOST_NAMES = 40
_LONGEST_NAME = 64
#: A loop that invents a name at each step must not grow our memory: so many are remembered.
_MOST_REMEMBERED = 1000
_GAUGES = {
    "learning_rate": ("training_learning_rate", ("0",)),
    "loss_scale": ("training_loss_scale", ()),
    "parameter_norm": ("training_parameter_norm", ()),
    "update_ratio": ("training_update_ratio", ()),
}


class MetricSlots:
    """The user's own names of one run, over all splits. `misuse` is called with what is no name."""

    def __init__(self, recorder: Recorder, misuse: Callable[[Exception], None]) -> None:
        self._recorder = recorder
        self._misuse = misuse
        self._known: set[str] = set()
        self._told = False

    def slots(self, split: str) -> dict[str, int]:
        """The slots by name for one split; a name that is new gets one, or the sink if it cannot."""
        at = self._recorder.at
        return _Slots(self, split, {name: at(metric, *labels) for name, (metric, labels) in _GAUGES.items()})

    def forget(self) -> None:
        """The rank has another identity: names are no longer known."""
        self._known.clear()

    def new(self, name: str, split: str) -> int:
        """The slot of a name that is logged for the first time."""
        if not name.isprintable() or len(name) > _LONGEST_NAME:
            self._misuse(
                ValueError(
                    f"{name[:80]!r} is no name for a metric: at most {_LONGEST_NAME} printable characters"
                )
            )
            return SINK
        if name not in self._known and len(self._known) >= MOST_NAMES:
            self._leave_out(name)
            return SINK
        self._known.add(name)
        return self._recorder.run_slot("training_metric", name, split)

    def _leave_out(self, name: str) -> None:
        self._recorder.drop()
        if not self._told:
            self._told = True
            log.warning(
                "metric %r and further ones are left out: a run has room for %d names of its own",
                name,
                MOST_NAMES,
            )


class _Slots(dict[str, int]):
    def __init__(self, names: MetricSlots, split: str, known: dict[str, int]) -> None:
        super().__init__(known)
        self._names = names
        self._split = split

    def __missing__(self, name: str) -> int:
        if len(self) >= _MOST_REMEMBERED:
            return SINK
        slot = self[name] = self._names.new(name, self._split)
        return slot


class MetricLogger:
    """Takes the numbers of one rank that are more than a slot to fill.

    Each method raises TypeError or ValueError for a value that is not a number of its kind.
    """

    def __init__(self, recorder: Recorder, evaluations: Evaluations) -> None:
        self._recorder = recorder
        self._evaluations = evaluations

    def loss(self, loss: Any, split: str) -> None:
        """A loss; inside an evaluation, one that the evaluation is judged by."""
        self._recorder.loss(loss, split)
        if split != "train" and self._evaluations.here:
            self._evaluations.took(split)

    def accuracy(self, accuracy: Any, split: str) -> None:
        """An accuracy, 0 to 1."""
        recorder = self._recorder
        if accuracy.__class__ is float and not recorder.deferred.used:
            self._take_accuracy(split, accuracy)
        else:
            at = recorder.at("training_accuracy_ratio", split)
            recorder.take(at, "accuracy", accuracy, partial(self._take_accuracy, split))

    def _take_accuracy(self, split: str, number: float) -> None:
        if number < 0.0 or number > 1.0:
            raise ValueError(f"accuracy={number:g} is no ratio from 0 to 1: divide a percentage by 100")
        self._recorder.set("training_accuracy_ratio", number, split)

    def epoch(self, epoch: Any) -> None:
        """The number of the present epoch."""
        self._recorder.gauge(self._recorder.at("training_epoch"), "epoch", epoch)

    def value(self, name: str, value: Any, known: dict[str, int]) -> None:
        """A number under a name of the user's own; `known` has the slots by name."""
        number = self._recorder.deferred.number(name, value)  # first: what is no number takes no name
        self._recorder.gauge(known[name], name, value if number is None else number)
