"""TrainBeacon: a training job's numbers on /metrics, for Prometheus, Alertmanager and Grafana.

import trainbeacon

with trainbeacon.start(run="gpt-small") as beacon:
    beacon.watch(model, optimizer)
    for inputs, targets in beacon.batches(loader):
        ...
        beacon.log(loss=loss)
"""

from __future__ import annotations

from trainbeacon._version import __version__
from trainbeacon.config.settings import Config, ConfigError
from trainbeacon.recorder.api.actions import Event, TrainingStopped
from trainbeacon.recorder.api.beacon import Beacon
from trainbeacon.recorder.api.start import start

__all__ = ["Beacon", "Config", "ConfigError", "Event", "TrainingStopped", "__version__", "start"]
