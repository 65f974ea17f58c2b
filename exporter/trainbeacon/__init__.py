"""TrainBeacon: a training job's numbers on /metrics, for Prometheus, Alertmanager and Grafana.

import trainbeacon

with trainbeacon.start(run="gpt-small") as beacon:
    beacon.watch(model, optimizer)
    for inputs, targets in beacon.batches(loader):
        ...
        beacon.log(loss=loss)
"""

from __future__ import annotations

from typing import Any

from trainbeacon._version import __version__
from trainbeacon.config.settings import Config, ConfigError
from trainbeacon.recorder.api.actions import Event, TrainingStopped
from trainbeacon.recorder.api.beacon import Beacon, mirror_with
from trainbeacon.recorder.api.start import start
from trainbeacon.recorder.background.supervisor import serve_threads_with

__all__ = ["Beacon", "Config", "ConfigError", "Event", "TrainingStopped", "__version__", "start"]


def _exporter_in_a_thread(config: Config) -> Any:
    """Made only where `serve="thread"` asks for it: it loads the whole read side."""
    from trainbeacon.exporter.service import Exporter

    return Exporter(config, mode="thread")


def _mirror(name: str) -> None:
    """Made only where a script asks for it."""
    from trainbeacon.integrations.mirrors import mirror

    mirror(name)


serve_threads_with(_exporter_in_a_thread)
mirror_with(_mirror)
