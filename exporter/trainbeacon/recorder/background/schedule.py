"""The probes that the helper thread runs, once a second each, and whether they are switched on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from trainbeacon.blackbox import format as layout
from trainbeacon.recorder.background.supervisor import exporters_started
from trainbeacon.recorder.core.recorder import Recorder
from trainbeacon.recorder.device.events import DevicePhases
from trainbeacon.recorder.hangs.evidence import Evidence
from trainbeacon.recorder.hooks.compiling import CompileWatch
from trainbeacon.recorder.probes.activity import ActivityProbe
from trainbeacon.recorder.probes.allocator import AllocatorProbe
from trainbeacon.recorder.probes.collectives import CollectivesProbe
from trainbeacon.recorder.probes.idle import Effort
from trainbeacon.recorder.probes.loader import LoaderProbe


def sampled_probes(recorder: Recorder) -> Iterator[Callable[[], None]]:
    """What the helper calls in each turn. A probe costs it some 0.1 ms at most, and may raise."""
    allocator = None
    if recorder.probes("allocator"):
        allocator = AllocatorProbe(recorder.set)
        yield allocator.look
    if recorder.probes("loader"):
        yield LoaderProbe(recorder.set).look
    yield CompileWatch(recorder.timeline).look
    if recorder.probes("device_phases"):
        recorder.device_phases = DevicePhases(partial(_record_phase, recorder))
        yield recorder.device_phases.look
    collectives = None
    if recorder.probes("collectives"):
        collectives = CollectivesProbe(partial(_record_group, recorder), recorder.drop)
        yield collectives.look
    if recorder.probes("activity"):
        record = partial(recorder.set, "training_inactive_seconds")
        process = Effort(exporters_started)
        yield ActivityProbe(recorder.timeline, collectives, allocator, process, record).look
    if recorder.probes("evidence") and recorder.boxed:
        evidence = recorder.guard("helper", Evidence, recorder, collectives)
        if evidence is not None:
            recorder.endings.append(evidence.stop)
            yield evidence.look


def _record_phase(recorder: Recorder, phase: str, seconds: float) -> None:
    recorder.set("training_device_phase_seconds_total", seconds, phase)


def _record_group(recorder: Recorder, metric: str, group: str, value: float | None) -> None:
    slot = recorder.rank_slot(metric, group)
    recorder.writer.slots[slot] = layout.UNSET if value is None else float(value)
