"""Limits of a run's own, from the quantiles of a run that went well."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import yaml

from trainbeacon.report.record import PRODUCTIVE, Record
from trainbeacon.verdict import limits as rules

#: What holds where a run sets nothing, as far as that is a fixed number in the rules.
DEFAULTS: Mapping[str, float] = {**rules.DEFAULTS, "goodput_ratio_min": 0.4}
#: By how much a limit is moved away from what a false alarm was about.
WIDER = 1.5


@dataclass(frozen=True)
class Limit:
    """One threshold, with where it comes from."""

    name: str
    value: float
    comment: str


@dataclass(frozen=True)
class _Rule:
    """How a limit is made: the values of the good run, the quantile of them, and the room that is added.

    `most` says that an alert fires above the limit; else it fires below.
    """

    alerts: tuple[str, ...]
    what: str
    values: Callable[[Record], Sequence[float]]
    quantile: float
    room: float
    most: bool = True


def _curve(name: str) -> Callable[[Record], Sequence[float]]:
    return lambda record: [each.value for each in record.curves.get(name, ())]


def _ranks(name: str) -> Callable[[Record], Sequence[float]]:
    return lambda record: [each[name] for each in record.ranks if each.get(name) is not None]


def _lasted(record: Record) -> Sequence[float]:
    """How long a run took that has ended by itself."""
    ended = record.begins is not None and record.ends is not None and record.outcome == "finished"
    return [record.ends - record.begins] if ended else []  # type: ignore[operator]


def _goodput(record: Record) -> Sequence[float]:
    total = sum(record.seconds.values())
    return [record.seconds.get(PRODUCTIVE, 0.0) / total] if total else []


def _between_checkpoints(record: Record) -> Sequence[float]:
    times = sorted(each.at for each in record.marks if each.kind == "checkpoint")
    return [after - before for before, after in itertools.pairwise(times)]


RULES: Mapping[str, _Rule] = {
    "loss_max": _Rule(("TrainingLossAboveLimit",), "training loss", _curve("training loss"), 1.0, 1.1),
    "gradient_norm_max": _Rule(
        ("TrainingGradientExplosion",), "gradient norm", _curve("gradient norm"), 0.99, 2.0
    ),
    "gradient_norm_min": _Rule(
        ("TrainingGradientVanishing",), "gradient norm", _curve("gradient norm"), 0.01, 0.1, most=False
    ),
    "data_wait_ratio_max": _Rule(
        ("TrainingInputBound",), "share of time that ranks waited for data", _ranks("data_wait"), 1.0, 1.25
    ),
    "straggler_ratio_max": _Rule(
        ("TrainingStraggler",), "own time of ranks beyond their peers'", _ranks("excess"), 1.0, 1.5
    ),
    "goodput_ratio_min": _Rule(("TrainingGoodputLow",), "goodput", _goodput, 0.0, 0.9, most=False),
    "checkpoint_age_seconds_max": _Rule(
        ("TrainingCheckpointStale",), "time between checkpoints", _between_checkpoints, 1.0, 1.5
    ),
    "run_seconds_max": _Rule(("TrainingTimeLimitExceeded",), "time of the whole run", _lasted, 1.0, 1.5),
}


def limits_of(record: Record) -> Iterator[Limit]:
    """The limits that this run would not have crossed, with what the default would have done.

    A default that was not crossed holds: no limit is made tighter than the rules have it because one run
    never came near.
    """
    for name, rule in RULES.items():
        values = [each for each in rule.values(record) if math.isfinite(each)]
        if not values:
            continue
        seen = quantile(values, rule.quantile)
        value = _rounded(seen * rule.room)
        default = DEFAULTS.get(name)
        crossed = default is not None and (max(values) > default if rule.most else min(values) < default)
        comment = (
            f"{rule.what}: {'at most' if rule.most else 'at least'} {seen:.3g} over {len(values)} values"
        )
        if default is not None and not crossed:
            continue
        if crossed:
            comment += f"; {rule.alerts[0]} would have fired with the default {default:g}"
        if value > 0:
            yield Limit(name, value, comment)


def quantile(values: Sequence[float], share: float) -> float:
    """The value that this share of values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]


def block(record: Record) -> str:
    """The limits as a file for TRAINBEACON_CONFIG."""
    lines = [f"# From run {_one_line(record.run)}, as of its report: trainbeacon thresholds", "thresholds:"]
    lines += [f"  {each.name}: {each.value:g}  # {each.comment}" for each in limits_of(record)]
    if len(lines) == 2:
        lines.append("  {}")
    return "\n".join(lines) + "\n"


def widened(text: str, alert: str, reason: str) -> tuple[str, list[str]]:
    """The file with every limit moved that this alert reads, and their names. Raises ValueError.

    Reasons stay, one line above the limit each.
    """
    rules = {name: rule for name, rule in RULES.items() if alert in rule.alerts}
    if not rules:
        known = sorted({each for rule in RULES.values() for each in rule.alerts})
        raise ValueError(f"no limit is known for {alert!r}; there are limits for {', '.join(known)}")
    given = (yaml.safe_load(text) or {}).get("thresholds") or {}
    lines, moved = text.rstrip("\n").splitlines(), []
    for name, rule in rules.items():
        old = float(given.get(name, DEFAULTS.get(name, math.nan)))
        if math.isnan(old):
            continue
        new = _rounded(old * WIDER if rule.most else old / WIDER)
        note = f"  # false alarm of {alert}: {_one_line(reason)} (was {old:g})"
        at = next((n for n, line in enumerate(lines) if re.match(rf"  {name}:", line)), None)
        if at is None:
            if "thresholds:" not in lines:
                lines.append("thresholds:")
            at = lines.index("thresholds:") + 1
            lines[at:at] = [note, f"  {name}: {new:g}"]
        else:
            kept = lines[at].partition("  #")[2]
            lines[at : at + 1] = [note, f"  {name}: {new:g}" + (f"  #{kept}" if kept else "")]
        moved.append(name)
    if not moved:
        raise ValueError(f"the file has no limit of {alert} and the rules have no fixed default for it")
    return "\n".join(lines) + "\n", moved


def _one_line(text: str) -> str:
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
