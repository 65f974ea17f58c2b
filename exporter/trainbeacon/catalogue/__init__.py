"""Every metric, defined once.

Code, rules, dashboards, docs and chart are checked against this list; only the reference page
(`exporter/METRICS.md`) is generated from it. To add a metric: one entry in the file of its kind,
and the one place that writes it. This package imports nothing else of ours.
"""

from __future__ import annotations

from .hardware import HARDWARE
from .health import (
    COLLECTORS,
    EXPORTER_PLACES,
    HEALTH,
    MOST_NOTIFY_RECEIVERS,
    NVML_STATES,
    PLACES,
    RANK_PLACES,
)
from .info import THRESHOLDS, WHO
from .learning import LEARNING, MOST_LAYERS, SPLITS
from .metric import LABEL_NAME_BYTES, LABEL_VALUE_BYTES, LEVEL_LABELS, Label, Level, Metric
from .training import (
    DEVICE_PHASES,
    FAILURE_KINDS,
    GOODPUT_KINDS,
    MOST_GROUPS,
    PHASES,
    RUN_KINDS,
    SELF_CAUSES,
    STATES,
    STEP_BUCKETS,
    TRAINING,
)

#: Series allowed per rank, per GPU, per node and per run. What goes beyond is dropped and counted.
BUDGETS: dict[Level, int] = {"rank": 164, "gpu": 61, "node": 80, "run": 300}

ALL: tuple[Metric, ...] = (*LEARNING, *TRAINING, *HARDWARE, *WHO, *HEALTH)
BY_NAME: dict[str, Metric] = {metric.name: metric for metric in ALL}

__all__ = [
    "ALL",
    "BUDGETS",
    "BY_NAME",
    "COLLECTORS",
    "DEVICE_PHASES",
    "EXPORTER_PLACES",
    "FAILURE_KINDS",
    "GOODPUT_KINDS",
    "LABEL_NAME_BYTES",
    "LABEL_VALUE_BYTES",
    "LEVEL_LABELS",
    "MOST_GROUPS",
    "MOST_LAYERS",
    "MOST_NOTIFY_RECEIVERS",
    "NVML_STATES",
    "PHASES",
    "PLACES",
    "RANK_PLACES",
    "RUN_KINDS",
    "SELF_CAUSES",
    "SPLITS",
    "STATES",
    "STEP_BUCKETS",
    "THRESHOLDS",
    "Label",
    "Level",
    "Metric",
]
