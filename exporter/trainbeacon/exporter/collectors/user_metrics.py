"""The user's own metrics of each live rank, with the labels `run` and `rank` added."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from trainbeacon.blackbox import files, textfile
from trainbeacon.blackbox.reader import Box
from trainbeacon.catalogue import LABEL_NAME_BYTES
from trainbeacon.config.redaction import redacted
from trainbeacon.exporter.health import Health

from .base import Families, label_value

log = logging.getLogger("trainbeacon")

#: A file that was not renewed for that long says nothing about now.
STALE_SECONDS = 120.0
_LONGEST_LINE = 4096
_MOST_LABELS = 12
_LONGEST_NAME = 256
_LONGEST_HELP = 1000
_MOST_WARNINGS = 100
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
#: Ours, Prometheus' own, and the default collectors'.
_TAKEN = re.compile(r"(training|trainbeacon|scrape|python|process)_.*|up|ALERTS|ALERTS_FOR_STATE")
_SUFFIXES = {
    "counter": ("_total",),
    "histogram": ("_bucket", "_sum", "_count"),
    "summary": ("", "_sum", "_count"),
    "gauge": ("",),
    "unknown": ("",),
}

_Version = tuple[int, int, int]


class UserMetricsCollector:
    """Serves what `probes.user_metrics` wrote beside the boxes.

    Args:
        folder: descriptor of the directory.
        served: the boxes that are served.
        health: counts series that are refused, once for each change of a file.
    """

    name = "user_metrics"

    def __init__(self, folder: int, served: Callable[[], Sequence[Box]], health: Health) -> None:
        self._folder = folder
        self._served = served
        self._health = health
        self._parsed: dict[str, tuple[_Version, list[Family]]] = {}
        self._said: set[str] = set()

    def collect(self, families: Families) -> None:
        """Read the files that changed, and add the families of all live ranks."""
        names = {textfile.beside(box.name): box for box in self._served() if box.alive}
        self._parsed = {name: parsed for name, parsed in self._parsed.items() if name in names}
        merged = _Merged()
        for name in names:
            for family in self._families(name, names[name]):
                if not merged.add(family):
                    self._refuse(name, family)
        for family in merged.families.values():
            families.add_foreign(family)

    def _families(self, name: str, box: Box) -> list[Family]:
        status = files.status(self._folder, name)
        if status is None or time.time() - status.st_mtime > STALE_SECONDS:
            return []
        version = (status.st_ino, status.st_mtime_ns, status.st_size)
        known = self._parsed.get(name)
        if known is None or known[0] != version:
            known = self._parsed[name] = (version, self._parse(name, box))
        return known[1]

    def _parse(self, name: str, box: Box) -> list[Family]:
        kept = []
        try:
            for family in parse(textfile.read(self._folder, name)):
                if _TAKEN.fullmatch(family.name) or not is_servable(family):
                    self._refuse(name, family)
                else:
                    kept.append(identified(family, box.identity.run, str(box.identity.rank)))
        except Exception as error:  # noqa: BLE001 - the parser meets whatever lies there
            self._health.error("collector")
            self._say(name, f"user metrics in {name} cannot be read: {str(error)[:200]!r}")
        return kept

    def _refuse(self, name: str, family: Family) -> None:
        self._health.dropped(len(family.samples))
        self._say(
            f"{name} {family.name}",
            f"user metric {family.name[:100]!r} in {name} is refused: its name or form",
        )

    def _say(self, key: str, text: str) -> None:
        if key not in self._said and len(self._said) < _MOST_WARNINGS:
            self._said.add(key)
            log.warning("%s", text)


def parse(text: bytes) -> Iterator[Family]:
    """The families of a text. Raises whatever the parser raises; in bounded time."""
    lines = text.decode().split("\n")
    if any(len(line) > _LONGEST_LINE for line in lines):
        raise ValueError(f"a line of more than {_LONGEST_LINE} characters")
    if sum(1 for line in lines if line and not line.startswith("#")) > textfile.MOST_SERIES:
        raise ValueError(f"more than {textfile.MOST_SERIES} series")
    return iter(list(text_string_to_metric_families("\n".join(lines))))


def is_servable(family: Family) -> bool:
    """Whether any scraper would take it: names, types, labels, numbers."""
    suffixes = _SUFFIXES.get(family.type)
    if suffixes is None or not _NAME.fullmatch(family.name) or len(family.name) > _LONGEST_NAME:
        return False
    names = {family.name + suffix for suffix in suffixes}
    return all(
        sample.name in names and _are_servable(sample.labels) and _is_bounded(family, sample)
        for sample in family.samples
    )


def _are_servable(labels: dict[str, str]) -> bool:
    return len(labels) <= _MOST_LABELS and all(
        _NAME.fullmatch(name) and not name.startswith("__") and len(name) <= LABEL_NAME_BYTES
        for name in labels
    )


def _is_bounded(family: Family, sample: Sample) -> bool:
    """Whether a bucket has its bound."""
    is_bucket = family.type == "histogram" and sample.name.endswith("_bucket")
    return not is_bucket or _is_number(sample.labels.get("le", ""))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def identified(family: Family, run: str, rank: str) -> Family:
    """The same with `run` and `rank` on every sample, and no value too long for a scrape.

    Labels of the user's own that have these names become `exported_`.
    """
    own = Family(family.name, family.documentation[:_LONGEST_HELP], family.type)
    for sample in family.samples:
        theirs = {_free(name, sample.labels): _public(value) for name, value in sample.labels.items()}
        own.add_sample(sample.name, {"run": label_value(run), "rank": rank, **theirs}, float(sample.value))
    return own


@lru_cache(maxsize=4096)  # the same values come with each change of a file
def _public(value: str) -> str:
    return label_value(redacted(value))


def _free(name: str, labels: dict[str, str]) -> str:
    if name in ("run", "rank"):
        name = f"exported_{name}"
        while name in labels:
            name = f"exported_{name}"
    return name


class _Merged:
    """The families of all ranks, each name once, as an exposition must have them."""

    def __init__(self) -> None:
        self.families: dict[str, Family] = {}
        self._owners: dict[str, str] = {}
        self._seen: set[tuple[str, frozenset[tuple[str, str]]]] = set()

    def add(self, family: Family) -> bool:
        """Add one rank's samples; false, and nothing added, where they contradict what is there."""
        known = self.families.get(family.name)
        names = {family.name, *(family.name + suffix for suffix in _SUFFIXES[family.type])}
        series = {(sample.name, frozenset(sample.labels.items())) for sample in family.samples}
        if known is not None and known.type != family.type:
            return False
        if any(self._owners.get(name, family.name) != family.name for name in names):
            return False
        if len(series) < len(family.samples) or series & self._seen:
            return False
        if known is None:
            known = self.families[family.name] = Family(family.name, family.documentation, family.type)
        known.samples.extend(family.samples)
        self._owners.update(dict.fromkeys(names, family.name))
        self._seen |= series
        return True
