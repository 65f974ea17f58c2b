"""The settings of one beacon: keyword > environment (TRAINBEACON_*) > YAML file, checked at start.

Misuse raises `ConfigError`, which names the setting, where it came from, its value and the fix. Reading
takes no lock and no network; PyYAML is imported only when a file is named.
"""

from __future__ import annotations

import math
import os
import re
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, Literal

__all__ = ["Config", "ConfigError", "public_hyperparameters"]

from trainbeacon import catalogue
from trainbeacon.identity import TEXT_LIMIT
from trainbeacon.redaction import VALUE_LIMIT, holds_secret, looks_secret, public_hyperparameters

PREFIX = "TRAINBEACON_"
#: Variables with our prefix that are no field of `Config` and that some part of TrainBeacon reads.
OTHER_VARIABLES = frozenset({"TRAINBEACON_CONFIG"})
#: Thresholds and tags of a run.
MOST_THRESHOLDS = 20
MOST_TAGS = 10

# Kubernetes puts these into every pod for a Service called trainbeacon or trainbeacon-...: not settings.
_SERVICE_LINK = re.compile(
    rf"{PREFIX}(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_SERVICE_URL = re.compile(r"(tcp|udp|sctp)://")
_METRIC_THRESHOLD = re.compile(r"metric:(.{1,64})_(min|max)")


class ConfigError(ValueError):
    """A setting that cannot be used. The message names it, where it came from, its value and the fix."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of one beacon. Build it with `Config.load`, which checks every value."""

    run: str | None = None
    """Name of the run, the same on all ranks; by default `<script>-<launcher's id>` (see `identity`)."""
    project: str = ""
    """What the run belongs to; shown on dashboards and in notifications."""
    owner: str = ""
    """Whom to notify about the run: a team or a person, as the routes know them."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Texts that describe the run, at most 10; in the environment `name=value,name=value`."""
    hyperparameters: Mapping[str, object] = field(default_factory=dict)
    """What the run was started with, such as `vars(args)`; the first 20 that look like no secret are served."""
    thresholds: Mapping[str, float] = field(default_factory=dict)
    """Limits of this run for the alert rules: names of the catalogue, or `metric:<name>_min` and `_max`."""
    steps_planned: int | None = None
    """Steps that the run will take in all, for progress and the estimated end."""
    enabled: bool = True
    """Whether anything is recorded; without it every call does nothing."""
    serve: Literal["process", "thread", "off"] = "process"
    """Who serves /metrics: a process of its own, a thread of the training process, or somebody else."""
    host: str = "0.0.0.0"  # noqa: S104 - a scraper runs on another machine; loopback is one keyword away
    """Address that the exporter listens on."""
    port: int = 9797
    """TCP port that the exporter listens on; 0 takes any free one."""
    directory: str | None = None
    """Folder of the black boxes; by default one of the user's own in shared memory."""
    linger_seconds: float = 60
    """How long the exporter goes on serving after the last rank of the node ended, in seconds."""
    retention_seconds: float = 3600
    """How long the black box of a dead rank is kept on disk, in seconds."""
    sd_file: str | None = None
    """File that the exporter writes its address to, for Prometheus' `file_sd_configs`."""
    sd_dir: str | None = None
    """Folder shared by the nodes in which each exporter writes such a file under a name of its own."""
    advertise: str | None = None
    """Host name or address written into discovery files; by default the name of the host."""
    gpu: bool = True
    """Whether the exporter reads the GPUs through NVML."""

    @classmethod
    def load(cls, keywords: Mapping[str, object], environ: Mapping[str, str] | None = None) -> Config:
        """The settings from keywords, environment and file, each value from the first that gives it.

        A keyword of None, an empty variable and an empty YAML key count as not given. Mappings are taken
        whole from one source, not merged. The keyword `config` or TRAINBEACON_CONFIG names the YAML file.
        `environ` is the process's own unless given. Raises ConfigError.
        """
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        for setting in _given(keywords, environ):
            if setting.name not in _READERS:
                raise setting.unknown()
            if setting.name not in values:
                values[setting.name] = setting.read()
        return cls(**values)


@dataclass(frozen=True)
class _Setting:
    """One value for one setting, with where it came from."""

    name: str
    value: object
    source: str
    written: str
    """The name as it is written in that source."""
    is_text: bool = False
    """Whether the source knows text only, as the environment does."""

    def read(self) -> object:
        """The value as the field wants it."""
        reader = _READERS[self.name]
        try:
            return reader.parse(str(self.value)) if self.is_text else reader.check(self.value)
        except _BadValueError as error:
            shown = "" if error.secret else f"{reprlib.repr(self.value)} is not usable: "
            raise ConfigError(
                f"{self.written} ({self.source}): {shown}{error.problem}. {error.fix}"
            ) from None

    def unknown(self) -> ConfigError:
        """The error for a name that is no setting, with the nearest one that is."""
        prefix = PREFIX if self.is_text else ""
        names = {prefix + (name.upper() if prefix else name): name for name in (*_READERS, "config")}
        near = _nearest(self.name, names.values())
        close = [written for written, name in names.items() if name == near]
        fix = f"Did you mean {close[0]}?" if close else f"The settings are {', '.join(names)}."
        value = "***" if looks_secret(self.name) else reprlib.repr(self.value)
        return ConfigError(f"{self.written} ({self.source}) = {value}: there is no such setting. {fix}")


class _BadValueError(ValueError):
    """What is wrong with a value and how to put it right; `secret` keeps the value out of the message."""

    def __init__(self, problem: str, fix: str, *, secret: bool = False) -> None:
        super().__init__(problem)
        self.problem, self.fix, self.secret = problem, fix, secret


def _given(keywords: Mapping[str, object], environ: Mapping[str, str]) -> Iterator[_Setting]:
    """Every value that was given, strongest source first."""
    for name, value in keywords.items():
        if value is not None and name != "config":
            yield _Setting(name, value, "keyword", name)
    for variable, text in environ.items():
        if variable.startswith(PREFIX) and text.strip() and not _is_foreign(variable, text):
            name = variable.removeprefix(PREFIX)
            # Variables are upper case: TRAINBEACON_port is another name, and a mistake.
            known = name.lower() if name.isupper() else name
            yield _Setting(known, text.strip(), "environment variable", variable, is_text=True)
    path = keywords.get("config")
    source = "keyword config"
    if path is None:
        path, source = (
            environ.get("TRAINBEACON_CONFIG", "").strip() or None,
            "environment variable TRAINBEACON_CONFIG",
        )
    if path is not None:
        yield from _from_file(path, source)


def _is_foreign(variable: str, text: str) -> bool:
    """Whether a variable with our prefix is no setting: read elsewhere, or put there by Kubernetes."""
    if variable in OTHER_VARIABLES or _SERVICE_LINK.fullmatch(variable):
        return True
    return variable.endswith("_PORT") and _SERVICE_URL.match(text) is not None


def _from_file(path: object, source: str) -> Iterator[_Setting]:
    """The keys of a YAML file."""
    if not isinstance(path, str | os.PathLike):
        raise ConfigError(
            f"config ({source}): {reprlib.repr(path)} is no path. Give the path of a YAML file."
        )
    import yaml  # takes 15 ms, for those who name a file only

    where = f"config ({source}): {os.fspath(path)!r}"
    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.safe_load(file)
    except OSError as error:
        raise ConfigError(
            f"{where} cannot be read: {error.strerror}. Give the path of a YAML file."
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{where} is not valid YAML: {reason}. Write one `setting: value` a line."
        ) from error
    if content is not None and not isinstance(content, Mapping):
        raise ConfigError(f"{where} holds {_kind(content)}. Write one `setting: value` a line.")
    for name, value in (content or {}).items():
        if value is not None:
            yield _Setting(str(name), value, f"file {os.fspath(path)}", str(name))


# --- what each setting accepts: `check` takes a Python value, `parse` a text of the environment


@dataclass(frozen=True)
class _Reader:
    check: Callable[[object], object]
    parse: Callable[[str], object]


def _text(fix: str, *, may_be_empty: bool = False) -> _Reader:
    def check(value: object) -> str:
        return _as_text(value, fix, may_be_empty=may_be_empty)

    return _Reader(check, check)


def _path() -> _Reader:
    def check(value: object) -> str:
        path = os.fspath(value) if isinstance(value, os.PathLike) else value
        return _as_text(path, "Give a path.", limit=4096)

    return _Reader(check, check)


def _address(fix: str) -> _Reader:
    def check(value: object) -> str:
        address = _as_text(value, fix, limit=255)
        if re.search(r"[\s/]", address):
            raise _BadValueError("it is no host name or address", fix)
        return address

    return _Reader(check, check)


def _choice(*choices: str) -> _Reader:
    def check(value: object) -> str:
        if isinstance(value, str) and value in choices:
            return value
        close = _nearest(str(value), choices)
        fix = f"Give one of {', '.join(choices)}."
        raise _BadValueError("there is no such choice", f"Did you mean {close}? {fix}" if close else fix)

    return _Reader(check, check)


def _flag() -> _Reader:
    words = dict.fromkeys(("1", "true", "yes", "on"), True) | dict.fromkeys(
        ("0", "false", "no", "off"), False
    )

    def check(value: object) -> bool:
        if isinstance(value, bool):
            return value
        raise _BadValueError(f"it is {_kind(value)}", "Give True or False.")

    def parse(text: str) -> bool:
        if text.lower() in words:
            return words[text.lower()]
        raise _BadValueError("it says neither yes nor no", f"Give one of {', '.join(words)}.")

    return _Reader(check, parse)


def _whole(least: int, most: int, fix: str) -> _Reader:
    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise _BadValueError(f"it is {_kind(value)}, not a whole number", fix)
        if not least <= value <= most:
            raise _BadValueError("it is out of range", fix)
        return int(value)

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise _BadValueError("it is not a whole number", fix) from None
        return check(number)

    return _Reader(check, parse)


def _seconds(fix: str) -> _Reader:
    def check(value: object) -> float:
        number = _as_finite(value, fix)
        if number <= 0:
            raise _BadValueError("it is not above 0", fix)
        return number

    return _Reader(check, lambda text: check(_number_in(text, fix)))


def _mapping(
    check_items: Callable[[Mapping[Any, Any]], object], of_text: Callable[[str], object], example: str
) -> _Reader:
    def check(value: object) -> object:
        if isinstance(value, Mapping):
            return check_items(value)
        hint = " For parsed arguments that is vars(args)." if hasattr(value, "__dict__") else ""
        raise _BadValueError(f"it is {_kind(value)}, not a mapping", f"Give names with values.{hint}")

    def parse(text: str) -> object:
        return check_items({name: of_text(value) for name, value in _pairs(text, example).items()})

    return _Reader(check, parse)


def _pairs(text: str, example: str) -> dict[str, str]:
    """The pairs of `name=value,name=value`. A value cannot hold a comma there."""
    pairs: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not name:
            raise _BadValueError(
                "it is not name=value,name=value", f"Write {example}.", secret=looks_secret(text)
            )
        if name in pairs:
            raise _BadValueError(f"the name {name!r} comes twice", f"Write {example}.")
        pairs[name] = value
    return pairs


def _tags(items: Mapping[Any, Any]) -> dict[str, str]:
    if len(items) > MOST_TAGS:
        raise _BadValueError(f"it has {len(items)} tags", f"Give at most {MOST_TAGS}.")
    return {
        _as_text(name, _TAG_FIX, limit=VALUE_LIMIT): _tag_text(str(name), value)
        for name, value in items.items()
    }


_TAG_FIX = f"Give names and texts of at most {VALUE_LIMIT} characters."


def _tag_text(name: str, value: object) -> str:
    if looks_secret(name) or (isinstance(value, str) and holds_secret(value)):
        problem = f"the tag {name!r} looks like a secret, and everyone who can scrape sees tags"
        raise _BadValueError(problem, "Leave it out, or rename it if it is none.", secret=True)
    try:
        return _as_text(value, _TAG_FIX, limit=VALUE_LIMIT)
    except _BadValueError as error:
        raise _BadValueError(f"tag {name!r}: {error.problem}", error.fix) from None


def _thresholds(items: Mapping[Any, Any]) -> dict[str, float]:
    if len(items) > MOST_THRESHOLDS:
        raise _BadValueError(f"it has {len(items)} limits", f"Give at most {MOST_THRESHOLDS}.")
    return {_threshold_name(name): _threshold_value(name, value) for name, value in items.items()}


def _threshold_name(name: object) -> str:
    if isinstance(name, str) and name.isprintable():
        if name in catalogue.THRESHOLDS or _METRIC_THRESHOLD.fullmatch(name):
            return name
    fix = f"The names are {', '.join(catalogue.THRESHOLDS)}, and metric:<name>_min or metric:<name>_max."
    close = _nearest(str(name), catalogue.THRESHOLDS)
    raise _BadValueError(f"there is no limit {name!r}", f"Did you mean {close}? {fix}" if close else fix)


def _threshold_value(name: str, value: object) -> float:
    try:
        limit = _as_finite(value, "Give a finite number.")
    except _BadValueError as error:
        raise _BadValueError(f"the limit {name}: {error.problem}", error.fix) from None
    if name == "accuracy_min" and not 0 <= limit <= 1:
        raise _BadValueError(f"the limit {name} is a ratio", "Give a number from 0 to 1: 0.8 for 80 %.")
    if "seconds" in name and not name.startswith("metric:") and limit <= 0:
        raise _BadValueError(f"the limit {name} is not above 0", "Give a number of seconds above 0.")
    return limit


def _number_or_text(text: str) -> object:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass  # the next kind, or text after all
    return text


def _number_in(text: str, fix: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise _BadValueError("it is not a number", fix) from None


def _as_text(value: object, fix: str, *, may_be_empty: bool = False, limit: int = TEXT_LIMIT) -> str:
    if not isinstance(value, str):
        raise _BadValueError(f"it is {_kind(value)}, not text", fix)
    text = value.strip()
    if not text and not may_be_empty:
        raise _BadValueError("it is empty", fix)
    if len(text) > limit:
        raise _BadValueError(f"it has {len(text)} characters", f"{fix} At most {limit} characters.")
    if not text.isprintable():
        raise _BadValueError("it holds characters that cannot be printed", fix)
    return text


def _as_finite(value: object, fix: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise _BadValueError(f"it is {_kind(value)}, not a number", fix)
    try:
        number = float(value)
    except OverflowError:
        raise _BadValueError("it is too large", fix) from None
    if not math.isfinite(number):
        raise _BadValueError("it is not finite", fix)
    return number


def _kind(value: object) -> str:
    return f"of type {type(value).__name__}"


def _nearest(name: str, names: Iterable[str]) -> str | None:
    from difflib import get_close_matches  # only on the way to an error

    return next(iter(get_close_matches(name.lower(), list(names), n=1)), None)


_WHOLE_LIMIT = 2**53
_READERS: dict[str, _Reader] = {
    "run": _text("Give a name, or leave it out for the default."),
    "project": _text("Give a name.", may_be_empty=True),
    "owner": _text("Give the name of a team or a person.", may_be_empty=True),
    "tags": _mapping(_tags, str, "team=nlp,branch=main"),
    "hyperparameters": _mapping(dict, _number_or_text, "lr=0.001,optimizer=adam"),
    "thresholds": _mapping(
        _thresholds, lambda text: _number_in(text, "Give a finite number."), "loss_max=4,stall_seconds=120"
    ),
    "steps_planned": _whole(1, _WHOLE_LIMIT, "Give a whole number above 0."),
    "enabled": _flag(),
    "serve": _choice("process", "thread", "off"),
    "host": _address("Give an address to listen on: 0.0.0.0 for all, 127.0.0.1 for this machine only."),
    "port": _whole(0, 65535, "Give a whole number from 0 to 65535; 0 takes any free port."),
    "directory": _path(),
    "linger_seconds": _seconds("Give a finite number of seconds above 0."),
    "retention_seconds": _seconds("Give a finite number of seconds above 0."),
    "sd_file": _path(),
    "sd_dir": _path(),
    "advertise": _address("Give the host name or address that Prometheus reaches this machine by."),
    "gpu": _flag(),
}
