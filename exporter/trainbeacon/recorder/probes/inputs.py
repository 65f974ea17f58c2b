"""What the input data look like, and whether they still look as they did at first; sampled, on the host."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

#: Features and classes that are served.
MOST_FEATURES = 4
MOST_CLASSES = 10
#: Batches that all later ones are compared with.
REFERENCE_BATCHES = 10
#: Seconds between two samples at least, and the share of the time that they may take.
LEAST_INTERVAL = 1.0
TIME_SHARE = 0.0005
#: Elements of a feature that are read in one sample, spread over the batch.
MOST_ELEMENTS = 1 << 16
_NEWEST = 0.2  # weight of the newest sample in what is compared with the first batches
_KEPT = 0.9  # of the class counts, from one sample to the next
STAGES = ("raw", "prepared")
#: A spread below that share of the mean is taken for it: a constant that moves a little has not drifted far.
_LEAST_SPREAD = 0.01


class InputProbe:
    """Statistics of a few features, of their drift, and of the classes.

    Args:
        set_gauge: called with a metric's name, a number and the labels.
        drop: called once for every feature or class beyond the first few.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        set_gauge: Callable[..., None],
        drop: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._set = set_gauge
        self._drop = drop
        self._clock = clock
        self._next = dict.fromkeys(STAGES, 0.0)
        self._features: dict[str, _Drift] = {}
        self._classes: dict[str, float] = {}
        self._dropped: set[str] = set()
        self._seen = 0.0

    def take(self, features: Any, stage: str, classes: Any) -> None:
        """Look at a batch if one is due.

        Args:
            features: arrays by name, or one array whose second dimension are the features.
            stage: raw or prepared.
            classes: the label of each sample, or None.

        Raises:
            TypeError: something that is no array on the host.
            ValueError: another stage.
        """
        if stage not in self._next:
            raise ValueError(f"stage={stage!r} is not one of {', '.join(STAGES)}")
        begun = self._clock()
        if begun < self._next[stage]:
            return
        first = any(each.is_young for each in self._features.values()) or not self._features
        for name, values in _columns(features):
            self._take_feature(name, values, stage)
        if classes is not None:
            self._take_classes(_on_host("classes", classes))
        now = self._clock()
        if not first:
            self._next[stage] = now + max(LEAST_INTERVAL, (now - begun) / TIME_SHARE)

    def _take_feature(self, name: str, values: Any, stage: str) -> None:
        drift = self._features.get(name)
        if drift is None:
            if len(self._features) == MOST_FEATURES:
                self._leave_out(f"feature {name}")
                return
            drift = self._features[name] = _Drift(stage)
        missing, mean, deviation = _summary(values)
        self._set("training_input_missing_ratio", missing, name, stage)
        if mean != mean:  # all of it is missing
            return
        self._set("training_input_mean", mean, name, stage)
        self._set("training_input_stddev", deviation, name, stage)
        if stage == drift.stage:
            distance = drift.take(mean, deviation)
            if distance is not None:
                self._set("training_input_drift", distance, name)

    def _take_classes(self, classes: Any) -> None:
        counts = dict.fromkeys(self._classes, 0.0)
        for label in _some(classes).tolist():
            name = str(label)
            counts[name] = counts.get(name, 0.0) + 1.0
        self._seen = _KEPT * self._seen + sum(counts.values())
        for name, count in counts.items():
            if name not in self._classes and len(self._classes) == MOST_CLASSES:
                self._leave_out(f"class {name}")
                continue
            self._classes[name] = _KEPT * self._classes.get(name, 0.0) + count
        for name, count in self._classes.items():
            self._set("training_class_ratio", count / self._seen, name)

    def _leave_out(self, what: str) -> None:
        if what not in self._dropped and len(self._dropped) < 1000:
            self._dropped.add(what)
            self._drop()


class _Drift:
    """How far a feature's mean is from where it began."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self._batches = 0
        self._mean = 0.0
        self._squares = 0.0  # mean of the squares
        self._now = 0.0

    @property
    def is_young(self) -> bool:
        """Whether the first batches are still being looked at, every one of them."""
        return self._batches < REFERENCE_BATCHES

    def take(self, mean: float, deviation: float) -> float | None:
        """One batch. Returns the distance in standard deviations, None of one of the first batches."""
        if not (math.isfinite(mean) and math.isfinite(deviation)):
            return None  # of a batch with an infinity nothing can be compared with
        if self.is_young:
            self._batches += 1
            self._mean += (mean - self._mean) / self._batches
            self._squares += (mean * mean + deviation * deviation - self._squares) / self._batches
            self._now = self._mean
            return None
        self._now += _NEWEST * (mean - self._now)
        spread = math.sqrt(max(0.0, self._squares - self._mean * self._mean))
        distance = abs(self._now - self._mean)
        # A feature that was the same number in all of the first batches has no spread to measure by.
        least = _LEAST_SPREAD * max(abs(self._mean), _LEAST_SPREAD)
        return distance / max(spread, least)


def _columns(features: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(features, Mapping):
        for name, values in features.items():
            yield str(name), _on_host(str(name), values)
        return
    values = _on_host("features", features)
    if len(values.shape) < 2:
        yield "0", values
    else:
        for column in range(values.shape[1]):
            yield str(column), values[:, column]


def _on_host(name: str, values: Any) -> Any:
    """An array of NumPy or a tensor on the host, without autograd. Raises TypeError of anything else."""
    if getattr(values, "detach", None) is not None and not hasattr(values, "full_tensor"):
        if values.device.type == "cpu":
            return values.detach()
        raise TypeError(
            f"{name} is on a device, and reading it would wait for that: call inputs() before the batch moves"
        )
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(values, numpy.ndarray):
        return values
    raise TypeError(f"{name} must be a tensor or a NumPy array, not {type(values).__name__}")


def _some(values: Any) -> Any:
    """At most so many elements of an array, one after the other, from all over it."""
    elements = math.prod(values.shape)
    if values.shape and elements > MOST_ELEMENTS:  # whole samples first: what is reshaped is copied
        values = values[:: math.ceil(elements / MOST_ELEMENTS)]
    flat = values.reshape(-1)
    return flat[:: max(1, math.ceil(flat.shape[0] / MOST_ELEMENTS))]


def _summary(values: Any) -> tuple[float, float, float]:
    """Share of NaN, mean and standard deviation of the rest."""
    some = _some(values)
    some = some.double() if hasattr(some, "detach") else some.astype("float64")
    present = some[some == some]
    count = int(present.shape[0])
    if not count:
        return (1.0 if some.shape[0] else 0.0), math.nan, math.nan
    mean = float(present.mean())
    deviation = math.sqrt(float(((present - mean) ** 2).mean()))
    return 1.0 - count / int(some.shape[0]), mean, deviation
