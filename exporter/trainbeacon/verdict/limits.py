"""The limits of the alert rules, for whoever judges without Prometheus.

A run sets its own (`thresholds=`); these hold else. A test compares them with the rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

DEFAULTS: Mapping[str, float] = MappingProxyType(
    {
        "stall_seconds": 120.0,
        "inactive_seconds": 20.0,
        "rank_silent_seconds": 30.0,
        "phase_seconds_max": 1800.0,
        "evaluate_seconds_max": 1800.0,
        "straggler_ratio_max": 0.04,
        "data_wait_ratio_max": 0.2,
        "evaluations_patience": 3.0,
        "checkpoint_age_seconds_max": 14400.0,
    }
)

#: Limits that no run sets, as they stand in the rules.
GPU_MEMORY_RATIO = 0.95
HOST_MEMORY_RATIO = 0.95
SHARED_MEMORY_RATIO = 0.9
STEPS_TO_JUDGE = 100


def limit(thresholds: Mapping[str, float], name: str) -> float:
    """The limit of that name of a run with these thresholds."""
    return thresholds.get(name, DEFAULTS[name])
