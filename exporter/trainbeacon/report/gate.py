"""Whether a run is worse than another: by a percentage, an absolute floor and the spread of both.

The spread is that of the runs' own windows: the standard error of their medians, widened by how much
neighbouring windows resemble each other. A difference counts if it is larger than the percentage, the floor
and `SIGMAS` such errors; where so small a difference could not be seen, the answer is "cannot tell".
"""

from __future__ import annotations

import ast
import itertools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from trainbeacon.report.record import Record

SIGMAS = 3.0
FEWEST_WINDOWS = 8
#: Metric: whether more is better, and a difference that is nothing, whatever its percentage.
METRICS: Mapping[str, tuple[bool, float]] = {
    "samples_per_second": (True, 0.0),
    "seconds_per_step": (False, 0.0005),
}
PERCENT = 3.0

PASSED, FAILED, CANNOT_TELL, NOT_COMPARABLE = "passed", "failed", "cannot tell", "not comparable"


@dataclass(frozen=True)
class Verdict:
    """The outcome of a comparison, with the sentence that says why."""

    outcome: str
    sentence: str


@dataclass(frozen=True)
class Level:
    """The level of a metric over a run, and the standard error of it."""

    value: float
    error: float


def level(windows: Sequence[float]) -> Level:
    """Median of windows and its error. Raises ValueError for too few."""
    if len(windows) < FEWEST_WINDOWS:
        raise ValueError(f"{len(windows)} windows of the run, {FEWEST_WINDOWS} are needed")
    middle = median(windows)
    spread = 1.4826 * median(abs(each - middle) for each in windows)
    count = len(windows) / _inflation(windows)
    return Level(middle, 1.2533 * spread / math.sqrt(count))


def _inflation(windows: Sequence[float]) -> float:
    """By how much fewer the windows are worth since neighbours resemble each other."""
    mean = sum(windows) / len(windows)
    total = sum((each - mean) ** 2 for each in windows)
    if total == 0:
        return 1.0
    both = itertools.pairwise(windows)
    alike = min(0.9, max(0.0, sum((one - mean) * (two - mean) for one, two in both) / total))
    return (1 + alike) / (1 - alike)


def why_not_comparable(new: Record, old: Record) -> str:
    """Why two runs cannot be compared, empty where they can."""
    for what, one, other in (
        ("world size", new.world_size, old.world_size),
        ("GPU model", tuple(new.hardware) or None, tuple(old.hardware) or None),
    ):
        if one is not None and other is not None and one != other:
            return f"the {what} differs: {_shown(one)} and {_shown(other)}"
    one_size, other_size = new.samples_per_step, old.samples_per_step
    if one_size and other_size and abs(one_size / other_size - 1) > 0.01:
        return f"samples a step differ: {one_size:g} and {other_size:g}"
    for name in ("batch_size", "sequence_length", "seq_len", "precision", "model"):
        one_text, other_text = new.hyperparameters.get(name), old.hyperparameters.get(name)
        if one_text and other_text and one_text != other_text:
            return f"{name} differs: {one_text} and {other_text}"
    return ""


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def default_gate(new: Record, old: Record, percent: float = PERCENT) -> Verdict:
    """Whether the run is slower than the other by more than that."""
    if why := why_not_comparable(new, old):
        return Verdict(NOT_COMPARABLE, why)
    name = next((each for each in METRICS if new.windows.get(each) and old.windows.get(each)), "")
    if not name:
        return Verdict(CANNOT_TELL, "the two runs have no metric of speed in common")
    more_is_better, floor = METRICS[name]
    try:
        one, other = level(new.windows[name]), level(old.windows[name])
    except ValueError as error:
        return Verdict(CANNOT_TELL, str(error))
    if other.value <= 0:
        return Verdict(CANNOT_TELL, f"{name} of {old.run} is {other.value:g}")
    worse = (other.value - one.value) if more_is_better else (one.value - other.value)
    share, doubt = 100 * worse / other.value, 100 * math.hypot(one.error, other.error) / other.value
    how = "worse" if share > 0 else "better"
    said = f"{name}: {one.value:.4g} against {other.value:.4g}, {abs(share):.1f} % {how}"
    said += f", known to within {SIGMAS * doubt:.1f} %"
    if share > percent and abs(worse) > floor and share > SIGMAS * doubt:
        return Verdict(FAILED, f"{said}; {percent:g} % are allowed")
    if share > percent and abs(worse) > floor:
        return Verdict(CANNOT_TELL, f"{said}: less than that spread")
    if SIGMAS * doubt > 2 * percent:
        return Verdict(CANNOT_TELL, f"{said}: {percent:g} % could not be seen")
    return Verdict(PASSED, said)


# --fail-if

_BINARY: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_COMPARE: Mapping[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
BASELINE = "baseline"


class ConditionError(ValueError):
    """A condition that cannot be read, or asks for what is not there."""


@dataclass(frozen=True)
class Condition:
    """A condition such as `samples_per_second < 0.95 * baseline`."""

    text: str
    tree: ast.Compare
    metric: str

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read it. Raises ConditionError."""
        try:
            tree = ast.parse(text, mode="eval").body
        except SyntaxError as error:
            raise ConditionError(f"{text!r} cannot be read: {error.msg}") from error
        if not isinstance(tree, ast.Compare) or len(tree.ops) != 1:
            raise ConditionError(f"{text!r} is no comparison: samples_per_second < 0.95 * baseline")
        names = sorted({each.id for each in ast.walk(tree) if isinstance(each, ast.Name)} - {BASELINE})
        if len(names) != 1:
            raise ConditionError(f"{text!r} must name one metric: {', '.join(METRICS)}, final_loss")
        found = cls(text, tree, names[0])
        found._holds(1.0, 1.0)
        return found

    @property
    def needs_baseline(self) -> bool:
        """Whether it speaks of another run."""
        return any(isinstance(each, ast.Name) and each.id == BASELINE for each in ast.walk(self.tree))

    def judge(self, new: Record, old: Record | None) -> Verdict:
        """Failed where it holds beyond the spread of both runs. Raises ConditionError."""
        if self.needs_baseline and old is not None and (why := why_not_comparable(new, old)):
            return Verdict(NOT_COMPARABLE, why)
        try:
            one = level_of(new, self.metric)
            other = level_of(old, self.metric) if old is not None and self.needs_baseline else Level(0.0, 0.0)
        except ValueError as error:
            return Verdict(CANNOT_TELL, str(error))
        answers = {
            self._holds(one.value + sign * SIGMAS * one.error, other.value - sign * SIGMAS * other.error)
            for sign in (-1, 1)
        }
        against = f", baseline {other.value:.4g}" if self.needs_baseline else ""
        said = f"{self.text}: {self.metric} is {one.value:.4g} ± {SIGMAS * one.error:.2g}{against}"
        if len(answers) == 2:
            return Verdict(CANNOT_TELL, f"{said}: within the spread")
        return Verdict(FAILED if answers.pop() else PASSED, said)

    def _holds(self, metric: float, baseline: float) -> bool:
        names = {self.metric: metric, BASELINE: baseline}
        left, right = (self._value(each, names) for each in (self.tree.left, self.tree.comparators[0]))
        compare = _COMPARE.get(type(self.tree.ops[0]))
        if compare is None:
            raise ConditionError(f"{self.text!r}: only <, <=, > and >= compare")
        return compare(left, right)

    def _value(self, node: ast.expr, names: Mapping[str, float]) -> float:
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
            return float(node.value)
        if isinstance(node, ast.Name):
            return names[node.id]
        if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
            try:
                return _BINARY[type(node.op)](self._value(node.left, names), self._value(node.right, names))
            except ZeroDivisionError as error:
                raise ConditionError(f"{self.text!r} divides by zero") from error
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -self._value(node.operand, names)
        raise ConditionError(f"{self.text!r}: only numbers, one metric, baseline and + - * / are known")


def level_of(record: Record, metric: str) -> Level:
    """The level of a metric of a run. Raises ValueError where it is not known."""
    if metric == "final_loss":
        name = next((each for each in ("validation loss", "training loss") if record.curves.get(each)), "")
        points = record.curves.get(name, [])
        last = [each.value for each in points[-max(FEWEST_WINDOWS, len(points) // 10) :]]
        return level(last)
    windows = record.windows.get(metric)
    if not windows:
        raise ValueError(
            f"run {record.run} has no {metric}; known: {', '.join([*record.windows, 'final_loss'])}"
        )
    return level(windows)


def stricter(one: Verdict, other: Verdict) -> Verdict:
    """The verdict that counts of two."""
    order = (NOT_COMPARABLE, FAILED, CANNOT_TELL, PASSED)
    return replace(min(one, other, key=lambda each: order.index(each.outcome)))
