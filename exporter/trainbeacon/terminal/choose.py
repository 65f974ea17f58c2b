"""Which sources the arguments of `top` name."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from trainbeacon.terminal.sources.base import FactSource
from trainbeacon.terminal.sources.boxes import BoxSource
from trainbeacon.terminal.sources.exporters import ExporterSource
from trainbeacon.terminal.sources.prometheus import AlertSource, PrometheusSource


def sources_for(named: Sequence[str], prometheus: str | None, *, gpu: bool) -> list[FactSource]:
    """The sources that were named, or this machine's runs of this user.

    A folder is one of black boxes, or one of discovery files (`sd_dir`). With `prometheus` beside others, the
    numbers come from those and the alerts from Prometheus. Raises ValueError.
    """
    sources: list[FactSource] = []
    for each in named:
        sources += _of(each, gpu and not sources)
    if prometheus:
        return [*sources, AlertSource(prometheus) if sources else PrometheusSource(prometheus)]
    return sources or _own(gpu)


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


def _own(gpu: bool) -> list[FactSource]:
    from trainbeacon.blackbox.directory import default_directory

    return [BoxSource(default_directory(), gpu=gpu, may_be_absent=True)]
