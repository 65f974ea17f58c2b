"""TrainBeacon: a training job's numbers on /metrics, for Prometheus, Alertmanager and Grafana.

import trainbeacon

with trainbeacon.start(run="gpt-small") as beacon:
    beacon.watch(model, optimizer)
    for inputs, targets in beacon.batches(loader):
        ...
        beacon.log(loss=loss)
"""

from __future__ import annotations

from ._version import __version__
from .beacon import Beacon
from .config import Config, ConfigError
from .intervention import Event, TrainingStopped
from .session import start

__all__ = ["Beacon", "Config", "ConfigError", "Event", "TrainingStopped", "__version__", "start"]
