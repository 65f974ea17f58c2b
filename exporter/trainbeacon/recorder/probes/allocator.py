"""PyTorch's CUDA allocator: what it holds, how often it had to give back its cache, and what failed."""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

#: Seconds between two samples; one takes about a tenth of a millisecond a device.
INTERVAL_SECONDS = 5.0

_BYTES = {
    "allocated": "allocated_bytes.all.current",
    "peak": "allocated_bytes.all.peak",
    "reserved": "reserved_bytes.all.current",
    "inactive_split": "inactive_split_bytes.all.current",
}
_COUNTERS = {
    "training_allocator_retries_total": "num_alloc_retries",
    "training_allocator_oom_total": "num_ooms",
}


class AllocatorProbe:
    """Samples the allocator from the background thread. Makes no CUDA call, waits for no device.

    It does nothing until the training script itself has loaded torch and initialised CUDA.

    Args:
        record: called with a metric's name, its value and its labels.
        clock: monotonic seconds.

    Attributes:
        allocations: how often memory has been taken by the last sample, on all devices; None if unknown.
    """

    def __init__(self, record: Callable[..., None], clock: Callable[[], float] = time.monotonic) -> None:
        self._record = record
        self._clock = clock
        self._next = -math.inf
        self.allocations: int | None = None

    def poll(self) -> None:
        """Take a sample if one is due and there is something to sample."""
        now = self._clock()
        if now < self._next:
            return
        self._next = now + INTERVAL_SECONDS
        cuda = _initialised_cuda()
        if cuda is None:
            return
        totals: Counter[str] = Counter()
        for device in range(cuda.device_count()):
            totals.update(cuda.memory_stats(device))
        self.allocations = totals.get("allocation.all.allocated")
        if totals:  # another allocator than PyTorch's own may keep no figures
            self._record_all(totals)

    def _record_all(self, totals: Counter[str]) -> None:
        for kind, key in _BYTES.items():
            self._record("training_allocator_bytes", float(totals[key]), kind)
        for name, key in _COUNTERS.items():
            self._record(name, float(totals[key]))


def _initialised_cuda() -> Any:
    """`torch.cuda` once it is in use; None before, also while another thread still imports torch."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    is_initialised = getattr(cuda, "is_initialized", None)
    return cuda if is_initialised is not None and is_initialised() else None
