"""Which sources the arguments of `top` name."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence

from trainbeacon.blackbox.directory import default_directory
from trainbeacon.config.settings import Config, ConfigError
from trainbeacon.stack.discover import served
from trainbeacon.stack.up.state import State
from trainbeacon.terminal.sources.base import FactSource
from trainbeacon.terminal.sources.boxes import BoxSource
from trainbeacon.terminal.sources.exporters import ExporterSource
from trainbeacon.terminal.sources.prometheus import AlertSource, PrometheusSource

_SECONDS_BETWEEN_SEARCHES = 5.0


def sources_for(named: Sequence[str], prometheus: str | None, *, gpu: bool) -> list[FactSource]:
    """The sources that were named; none are those of `OwnRuns`.

    A folder is one of black boxes, or one of discovery files (`sd_dir`). With `prometheus` beside others, the
    numbers come from those and the alerts from Prometheus. Raises ValueError.
    """
    sources: list[FactSource] = []
    for each in named:
        sources += _of(each, gpu and not sources)
    if prometheus:
        return [*sources, AlertSource(prometheus) if sources else PrometheusSource(prometheus)]
    return sources


def _of(named: str, gpu: bool) -> list[FactSource]:
    if "://" not in named and os.path.isdir(named):
        targets = discovered(named)
        return [ExporterSource(url) for url in targets] if targets else [BoxSource(named, gpu=gpu)]
    if "://" not in named and (os.sep in named.partition(":")[0] or named.startswith(".")):
        raise ValueError(
            f"{named!r} is no folder. Give a folder of black boxes, or an address: http://HOST:PORT"
        )
    return [ExporterSource(named)]


def discovered(folder: str) -> list[str]:
    """The addresses in a folder of discovery files, none where it is no such folder. Raises ValueError."""
    names = os.listdir(folder)
    if any(name.endswith(".box") for name in names):
        return []
    found: dict[str, None] = {}
    for name in sorted(names):
        if not name.endswith(".json"):
            continue
        path = os.path.join(folder, name)
        try:
            with open(path, encoding="utf-8") as file:
                groups = json.load(file)
            for group in groups:
                labels = group.get("labels", {})
                scheme, page = labels.get("__scheme__", "http"), labels.get("__metrics_path__", "/metrics")
                found.update({f"{scheme}://{target}{page}": None for target in group["targets"]})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is no file for file_sd_configs: {error}") from error
    return list(found)


class OwnRuns:
    """Every run of this user on this machine, also those that start later, and the alerts of `up`."""

    def __init__(self, *, gpu: bool) -> None:
        self._gpu = gpu
        self._boxes: dict[str, BoxSource] = {}
        self._alerts: dict[str, AlertSource] = {}
        self._next = 0.0

    def __call__(self) -> list[FactSource]:
        """The sources as they are now. Blocks for milliseconds, every few seconds."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _SECONDS_BETWEEN_SEARCHES
            self._search()
        return [*self._boxes.values(), *self._alerts.values()]

    def _search(self) -> None:
        found = {each.directory for each in served()} | {_configured()}
        for directory in found - self._boxes.keys():
            # The GPUs are the machine's: once is enough.
            gpu = self._gpu and not self._boxes
            self._boxes[directory] = BoxSource(directory, gpu=gpu, may_be_absent=True)
        for directory in [each for each in self._boxes if each not in found and not os.path.isdir(each)]:
            del self._boxes[directory]
        note = State().read_note()
        url = note.urls.get("prometheus", "") if note is not None else ""
        self._alerts = {url: self._alerts.get(url) or AlertSource(url)} if url else {}


def _configured() -> str:
    """The folder that the settings of this shell name, else the default one."""
    try:
        named = Config.load({}).directory
    except ConfigError:  # what is wrong there is for those to say who start a run
        named = None
    return named or default_directory()
