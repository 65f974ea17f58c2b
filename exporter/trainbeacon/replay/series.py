"""Which series a number of an event file belongs to: the catalogue's names, and the labels of a live run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from trainbeacon import catalogue
from trainbeacon.exporter.collectors.base import label_value
from trainbeacon.exporter.exposition import escaped
from trainbeacon.integrations.names import SPLITS, meaning, says_split

#: Metrics by the argument of `Beacon.log`, and the labels after run and rank that say which one of them.
_METRICS: dict[str, tuple[str, tuple[str, ...]]] = {
    "loss": ("training_loss", ("{split}",)),
    "accuracy": ("training_accuracy_ratio", ("{split}",)),
    "learning_rate": ("training_learning_rate", ("0",)),
    "gradient_norm": ("training_gradient_norm", ()),
    "epoch": ("training_epoch", ()),
}
_OTHER = "training_metric"
_INFO = "training_run_info"
#: Under that name: the step that the script gave with its numbers, whatever it counts.
STEP = "step_logged"
_MOST_NAMES = catalogue.BY_NAME[_OTHER].labels[0].limit

Series = tuple[str, str]  # the name of a metric, and its labels as they are written


class Naming:
    """Names the series of all runs under one folder.

    Args:
        whole: the name of the run whose files lie in that folder itself.
        run: the one name of all, instead of the folders' names.
        labels: added to each series, as a scrape would add them.

    Attributes:
        left_out: tags beyond the names that a run has room for, by run.
    """

    def __init__(self, whole: str, run: str | None, labels: Mapping[str, str]) -> None:
        self._whole = whole
        self._run = run
        self._more = tuple(labels.items())
        self._names: dict[str, set[str]] = {}
        self._known: dict[tuple[str, str, bool], tuple[Series, ...]] = {}
        self.left_out: dict[str, set[str]] = {}

    def run_of(self, folder: str) -> tuple[str, str]:
        """The run that a folder belongs to and the split that it is of, empty if the folder does not say.

        Keras writes each split to a folder of its own within that of the run.
        """
        parent, _, last = folder.rpartition("/")
        split = SPLITS.get(last.lower(), "")
        name = self._run or (parent if split else folder) or self._whole
        return name.encode("utf-8", "replace").decode(), split  # bytes of a folder's name that are no text

    def series(self, folder: str, tag: str, value: float) -> tuple[Series, ...]:
        """The series of a number and of its step; none where the run has no room for another name."""
        key = (folder, tag, 0.0 <= value <= 1.0)  # what says whether it may be an accuracy
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = tuple(self._found(folder, tag, value))
        return found

    def _found(self, folder: str, tag: str, value: float) -> Iterator[Series]:
        run, split = self.run_of(folder)
        found = meaning(f"{split}/{tag}" if split and not says_split(tag) else tag, value)
        known = _METRICS.get(found.name)
        if known is not None:
            metric, labels = known
            yield self._series(metric, run, "0", *(label.format(split=found.split) for label in labels))
        elif self._has_room(run, found.name):
            yield self._series(_OTHER, run, found.name, found.split)
        else:
            return
        if self._has_room(run, STEP):
            yield self._series(_OTHER, run, STEP, found.split)

    def info(self, folder: str) -> Series:
        """The series by which dashboards find the run."""
        return self._series(_INFO, self.run_of(folder)[0])

    def _has_room(self, run: str, name: str) -> bool:
        names = self._names.setdefault(run, {STEP})
        if name in names:
            return True
        if len(names) < _MOST_NAMES:
            names.add(name)
            return True
        self.left_out.setdefault(run, set()).add(name)
        return False

    def _series(self, metric: str, *values: str) -> Series:
        names = catalogue.BY_NAME[metric].label_names
        pairs = (*zip(names, values), *self._more)  # noqa: B905 - of an info series not all labels are known
        text = ",".join(f'{name}="{escaped(label_value(value))}"' for name, value in pairs)
        return metric, f"{{{text}}}"
