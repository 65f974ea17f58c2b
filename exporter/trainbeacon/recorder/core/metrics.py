"""The names that a script logs under: a slot for each, and not more than a run has room for."""

from __future__ import annotations

from collections.abc import Callable

from trainbeacon.blackbox.format import SINK
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


class Names:
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
    def __init__(self, names: Names, split: str, known: dict[str, int]) -> None:
        super().__init__(known)
        self._names = names
        self._split = split

    def __missing__(self, name: str) -> int:
        if len(self) >= _MOST_REMEMBERED:
            return SINK
        slot = self[name] = self._names.new(name, self._split)
        return slot
