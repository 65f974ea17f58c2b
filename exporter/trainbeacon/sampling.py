"""The probes that the helper thread runs, once a second each, and whether they are switched on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from trainbeacon.probes.allocator import AllocatorProbe
from trainbeacon.recorder import Recorder


def sampled_probes(recorder: Recorder) -> Iterator[Callable[[], None]]:
    """What the helper calls in each turn. A probe costs it some 0.1 ms at most, and may raise."""
    if recorder.probes("allocator"):
        yield AllocatorProbe(recorder.set).look
