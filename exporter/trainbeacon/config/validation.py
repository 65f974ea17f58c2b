"""What a setting may be: one reader a kind of value, for Python values and for texts of the environment.

A reader raises `BadValueError`, which says what is wrong and how to put it right; `config` adds which
setting it was and where it came from.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from trainbeacon import catalogue
from trainbeacon.config.redaction import VALUE_LIMIT, holds_secret, looks_secret
from trainbeacon.identity import TEXT_LIMIT

#: Thresholds and tags of a run.
MOST_THRESHOLDS = 30
MOST_TAGS = 10

_NO_PAIRS = "it is not name=value,name=value"
_METRIC_THRESHOLD = re.compile(r"metric:(.{1,64})_(min|max)")
_TAG_FIX = f"Give names and texts of at most {VALUE_LIMIT} characters."


class BadValueError(ValueError):
    """What is wrong with a value and how to put it right; `secret` keeps the value out of the message."""

    def __init__(self, problem: str, fix: str, *, secret: bool = False) -> None:
        super().__init__(problem)
        self.problem, self.fix, self.secret = problem, fix, secret


@dataclass(frozen=True)
class Reader:
    """How one setting is read: `check` takes a Python value, `parse` a text of the environment."""

    check: Callable[[object], object]
    parse: Callable[[str], object]


def text(fix: str, *, may_be_empty: bool = False) -> Reader:
    """Printable text of at most 128 characters, without the white space around it."""

    def check(value: object) -> str:
        text = _as_text(value, fix, may_be_empty=may_be_empty)
        if holds_secret(text):
            problem = "it looks like a secret, and everyone who can scrape sees it"
            raise BadValueError(problem, "Give a name that may be seen.", secret=True)
        return text

    return Reader(check, check)


def path() -> Reader:
    """A path, as text or as an `os.PathLike`; made absolute, since the script may change its folder."""

    def check(value: object) -> str:
        path = os.fspath(value) if isinstance(value, os.PathLike) else value
        text = _as_text(path, "Give a path.", limit=4096)
        try:
            return os.path.abspath(text)
        except OSError:
            raise BadValueError(
                "it is relative, and the current folder is gone", "Give the whole path."
            ) from None

    return Reader(check, check)


def address(fix: str) -> Reader:
    """A host name or an IP address; whether it can be used shows when it is used."""

    def check(value: object) -> str:
        address = _as_text(value, fix, limit=255)
        if re.search(r"[\s/]", address):
            raise BadValueError("it is no host name or address", fix)
        return address

    return Reader(check, check)


def choice(*choices: str) -> Reader:
    """One of a few words."""

    def check(value: object) -> str:
        if isinstance(value, str) and value in choices:
            return value
        close = nearest(str(value), choices)
        fix = f"Give one of {', '.join(choices)}."
        raise BadValueError("there is no such choice", f"Did you mean {close}? {fix}" if close else fix)

    return Reader(check, check)


def names(known: Iterable[str]) -> Reader:
    """Some of a few words; in the environment with commas between them."""
    one = choice(*known)

    def check(value: object) -> tuple[object, ...]:
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise BadValueError(f"it is {_kind(value)}, not a list of names", f"Give [{value!r}].")
        return tuple(dict.fromkeys(one.check(name) for name in value))

    return Reader(check, lambda text: check(part.strip() for part in text.split(",") if part.strip()))


def flag() -> Reader:
    """A bool; in the environment 1, true, yes, on or 0, false, no, off."""
    words = dict.fromkeys(("1", "true", "yes", "on"), True) | dict.fromkeys(
        ("0", "false", "no", "off"), False
    )

    def check(value: object) -> bool:
        if isinstance(value, bool):
            return value
        raise BadValueError(f"it is {_kind(value)}", "Give True or False.")

    def parse(text: str) -> bool:
        if text.lower() in words:
            return words[text.lower()]
        raise BadValueError("it says neither yes nor no", f"Give one of {', '.join(words)}.")

    return Reader(check, parse)


def whole(least: int, most: int, fix: str) -> Reader:
    """A whole number, NumPy's too; a bool is not one."""

    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise BadValueError(f"it is {_kind(value)}, not a whole number", fix)
        if not least <= int(value) <= most:
            raise BadValueError("it is out of range", fix)
        return int(value)

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise BadValueError("it is not a whole number", fix) from None
        return check(number)

    return Reader(check, parse)


def seconds(fix: str) -> Reader:
    """A finite time in seconds, above 0."""

    def check(value: object) -> float:
        number = _as_finite(value, fix)
        if number <= 0:
            raise BadValueError("it is not above 0", fix)
        return number

    return Reader(check, lambda text: check(number_in(text, fix)))


def mapping(
    check_items: Callable[[Mapping[Any, Any]], object], of_text: Callable[[str], object], example: str
) -> Reader:
    """Names with values; in the environment `name=value,name=value`, each value read by `of_text`."""

    def check(value: object) -> object:
        if isinstance(value, Mapping):
            return check_items(value)
        hint = " For parsed arguments that is vars(args)." if hasattr(value, "__dict__") else ""
        raise BadValueError(f"it is {_kind(value)}, not a mapping", f"Give names with values.{hint}")

    def parse(text: str) -> object:
        return check_items({name: of_text(value) for name, value in _pairs(text, example).items()})

    return Reader(check, parse)


def _pairs(text: str, example: str) -> dict[str, str]:
    """The pairs of `name=value,name=value`. A value cannot hold a comma there."""
    pairs: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not name:
            # Half of a secret that holds a comma ends up here: the piece is not shown.
            raise BadValueError(_NO_PAIRS, f"Write {example}.", secret=looks_secret(text))
        if name in pairs:
            raise BadValueError(f"the name {name!r} comes twice", f"Write {example}.")
        pairs[name] = value
    return pairs


def tags(items: Mapping[Any, Any]) -> dict[str, str]:
    """Check tags: texts, few, short and no secrets."""
    if len(items) > MOST_TAGS:
        raise BadValueError(f"it has {len(items)} tags", f"Give at most {MOST_TAGS}.")
    return {
        _as_text(name, _TAG_FIX, limit=VALUE_LIMIT): _tag_text(str(name), value)
        for name, value in items.items()
    }


def _tag_text(name: str, value: object) -> str:
    if looks_secret(name) or (isinstance(value, str) and holds_secret(value)):
        problem = f"the tag {name!r} looks like a secret, and everyone who can scrape sees tags"
        raise BadValueError(problem, "Leave it out, or rename it if it is not one.", secret=True)
    try:
        return _as_text(value, _TAG_FIX, limit=VALUE_LIMIT)
    except BadValueError as error:
        raise BadValueError(f"tag {name!r}: {error.problem}", error.fix) from None


def thresholds(items: Mapping[Any, Any]) -> dict[str, float]:
    """Check limits: names that some rule reads, and numbers that it can compare with."""
    if len(items) > MOST_THRESHOLDS:
        raise BadValueError(f"it has {len(items)} limits", f"Give at most {MOST_THRESHOLDS}.")
    return {_threshold_name(name): _threshold_value(name, value) for name, value in items.items()}


def _threshold_name(name: object) -> str:
    if isinstance(name, str) and (name in catalogue.THRESHOLDS or _is_metric_limit(name)):
        return name
    fix = f"The names are {', '.join(catalogue.THRESHOLDS)}, and metric:<name>_min or metric:<name>_max."
    close = nearest(str(name), catalogue.THRESHOLDS)
    raise BadValueError(f"there is no limit {name!r}", f"Did you mean {close}? {fix}" if close else fix)


def _is_metric_limit(name: str) -> bool:
    return name.isprintable() and _METRIC_THRESHOLD.fullmatch(name) is not None


def _threshold_value(name: str, value: object) -> float:
    try:
        limit = _as_finite(value, "Give a finite number.")
    except BadValueError as error:
        raise BadValueError(f"the limit {name}: {error.problem}", error.fix) from None
    if name == "accuracy_min" and not 0 <= limit <= 1:
        raise BadValueError(f"the limit {name} is a ratio", "Give a number from 0 to 1: 0.8 for 80 %.")
    if "seconds" in name and not name.startswith("metric:") and limit <= 0:
        raise BadValueError(f"the limit {name} is not above 0", "Give a number of seconds above 0.")
    return limit


def number_or_text(text: str) -> object:
    """An int or a float where the text is one, else the text."""
    try:
        return int(text)
    except ValueError:
        pass  # a float, or text after all
    try:
        return float(text)
    except ValueError:
        return text


def number_in(text: str, fix: str = "Give a finite number.") -> float:
    """The number that a text says."""
    try:
        return float(text)
    except ValueError:
        raise BadValueError("it is not a number", fix) from None


def _as_text(value: object, fix: str, *, may_be_empty: bool = False, limit: int = TEXT_LIMIT) -> str:
    if not isinstance(value, str):
        raise BadValueError(f"it is {_kind(value)}, not text", fix)
    text = value.strip()
    if not text and not may_be_empty:
        raise BadValueError("it is empty", fix)
    if len(text) > limit:
        raise BadValueError(f"it has {len(text)} characters", f"{fix} At most {limit} characters.")
    if not text.isprintable():
        raise BadValueError("it holds characters that cannot be printed", fix)
    return text


def _as_finite(value: object, fix: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise BadValueError(f"it is {_kind(value)}, not a number", fix)
    try:
        number = float(value)
    except OverflowError:
        raise BadValueError("it is too large", fix) from None
    if not math.isfinite(number):
        raise BadValueError("it is not finite", fix)
    return number


def _kind(value: object) -> str:
    return f"of type {type(value).__name__}"


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The name that was probably meant."""
    from difflib import get_close_matches  # only on the way to an error

    return next(iter(get_close_matches(name.lower(), list(names), n=1)), None)
