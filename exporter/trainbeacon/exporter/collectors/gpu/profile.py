"""NVML's profile metrics (GPM), on Hopper and later: how busy the parts of a GPU were between two samples.

The driver counts all the time; a figure is worked out from two samples of its counters. One sample is
kept from scrape to scrape, so that a figure covers the time between them and nothing is measured twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from trainbeacon.exporter.collectors.gpu.nvml import Sample

#: The metrics by their number in NVML; all are percentages.
_METRICS = {
    2: "training_gpu_sm_active_ratio",
    3: "training_gpu_sm_occupancy_ratio",
    5: "training_gpu_tensor_active_ratio",
    10: "training_gpu_memory_active_ratio",
}
#: Seconds between two samples at least: below a tenth of a second they say nothing.
LEAST_INTERVAL = 1.0
_VERSION = 1


class Profile:
    """The profile of one GPU; raises `pynvml.NVMLError` where it has none."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml = nvml
        self._handle = handle
        self._supported: bool | None = None
        self._before: Any = None
        self._taken = -math.inf
        self._figures: list[Sample] = []

    def read(self, now: float) -> Iterator[Sample]:
        """The figures since the last call; none at the first, those of before if it was just now."""
        if self._supported is None:
            answer = self._nvml.nvmlGpmQueryDeviceSupport(self._handle)
            self._supported = bool(answer.isSupportedDevice)
        if self._supported and now - self._taken >= LEAST_INTERVAL:
            self._figures = list(self._measure())
            self._taken = now
        yield from self._figures

    def close(self) -> None:
        """Free the sample that is kept."""
        self._free(self._before)
        self._before = None

    def _measure(self) -> Iterator[Sample]:
        sample = self._nvml.nvmlGpmSampleAlloc()
        try:
            self._nvml.nvmlGpmSampleGet(self._handle, sample)
        except BaseException:
            self._free(sample)
            raise
        before, self._before = self._before, sample
        if before is not None:
            try:
                yield from self._between(before, sample)
            finally:
                self._free(before)

    def _between(self, before: Any, after: Any) -> Iterator[Sample]:
        request = self._nvml.c_nvmlGpmMetricsGet_t()
        request.version, request.numMetrics = _VERSION, len(_METRICS)
        request.sample1, request.sample2 = before, after
        for metric, number in zip(request.metrics, _METRICS, strict=False):
            metric.metricId = number
        self._nvml.nvmlGpmMetricsGet(request)
        for metric in request.metrics[: len(_METRICS)]:
            if metric.nvmlReturn == 0 and math.isfinite(metric.value):
                yield Sample(_METRICS[metric.metricId], metric.value / 100)

    def _free(self, sample: Any) -> None:
        if sample is not None:
            with suppress(self._nvml.NVMLError):  # the library may be gone
                self._nvml.nvmlGpmSampleFree(sample)
