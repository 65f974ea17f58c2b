"""The beacon of this process: the one that `trainbeacon.start` has made last."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

from trainbeacon.config.settings import Config
from trainbeacon.identity import current
from trainbeacon.recorder.api.beacon import Beacon
from trainbeacon.recorder.api.workers import is_worker

_last: weakref.ref[Beacon] | None = None


def current_beacon() -> Beacon | None:
    """The beacon that this process records with now, if it does."""
    beacon = _last() if _last is not None else None
    return beacon if beacon is not None and beacon.recording else None


def start(**settings: Any) -> Beacon:
    """Begin to record this process's training, and see to it that /metrics is served.

    Use it as a context manager, or bare with `finish` at the end. A second call closes the first run. In a
    worker of a loader or a pool, which may import the script that calls this, nothing is recorded unless it
    is given `enabled=True`. Rank and world size are those of torch.distributed's process group where that is
    initialised before the first step is done, else what the launcher says.

    Args:
        **settings: any field of `Config`, such as run, owner, hyperparameters, thresholds, serve, port;
            `config` names a YAML file of them. Keyword, then environment (`TRAINBEACON_RUN`), then file.

    Raises:
        ConfigError: a setting that is unknown or impossible; the text names it, its value and the fix.
    """
    global _last
    config = Config.load(settings)
    if config.enabled and settings.get("enabled") is not True and is_worker():
        config = replace(config, enabled=False)
    before = _last() if _last is not None else None
    if before is not None:
        before.supersede()
    beacon = Beacon(config, current())
    _last = weakref.ref(beacon)
    return beacon
