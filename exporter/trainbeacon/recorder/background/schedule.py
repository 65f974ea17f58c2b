"""What the background loop polls: each part of the recorder that has something to do beside the training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from trainbeacon.blackbox import format as layout
from trainbeacon.recorder.background.launch import exporters_started
from trainbeacon.recorder.checkpoints.checkpoints import Checkpoints
from trainbeacon.recorder.core.recorder import Recorder
from trainbeacon.recorder.device.events import DevicePhases
from trainbeacon.recorder.goodput.mfu import Flops
from trainbeacon.recorder.goodput.tracker import Goodput
from trainbeacon.recorder.hangs.evidence import HangReporter
from trainbeacon.recorder.hooks.compiling import CompileWatch
from trainbeacon.recorder.hooks.watch import ModelWatcher
from trainbeacon.recorder.probes.activity import ActivityProbe
from trainbeacon.recorder.probes.allocator import AllocatorProbe
from trainbeacon.recorder.probes.collectives import CollectivesProbe
from trainbeacon.recorder.probes.idle import ProcessActivity
from trainbeacon.recorder.probes.loader import LoaderProbe
from trainbeacon.recorder.probes.profiler import Profiler
from trainbeacon.recorder.probes.user_metrics import UserMetrics

#: What is called in one turn: costs some 0.1 ms at most, and may raise.
Poll = Callable[[], None]


@dataclass
class Parts:
    """What the polls belong to: made with the beacon, or by the first probes for the later ones."""

    recorder: Recorder
    checkpoints: Checkpoints
    flops: Flops
    watcher: ModelWatcher
    goodput: Goodput | None
    actions: Poll
    parallelism: Poll
    exporter: Poll
    allocator: AllocatorProbe | None = None
    collectives: CollectivesProbe | None = None


@dataclass(frozen=True)
class Probe:
    """One thing that the background loop polls.

    Attributes:
        name: in `config.PROBES` where a setting switches it off.
        make: gives its poll, once, or None where there is nothing to poll.
        interval: seconds between two polls.
        where: the place that its errors are counted under.
    """

    name: str
    make: Callable[[Parts], Poll | None]
    interval: float = 1.0
    where: str = "helper"


def _allocator(parts: Parts) -> Poll:
    parts.allocator = AllocatorProbe(parts.recorder.set)
    return parts.allocator.poll


def _device_phases(parts: Parts) -> Poll:
    recorder = parts.recorder
    set_total = partial(_record_phase, recorder)
    recorder.device_phases = DevicePhases(set_total)
    return recorder.device_phases.poll


def _record_phase(recorder: Recorder, phase: str, seconds: float) -> None:
    recorder.set("training_device_phase_seconds_total", seconds, phase)


def _collectives(parts: Parts) -> Poll:
    recorder = parts.recorder
    parts.collectives = CollectivesProbe(partial(_record_group, recorder), recorder.drop)
    return parts.collectives.poll


def _record_group(recorder: Recorder, metric: str, group: str, value: float | None) -> None:
    slot = recorder.rank_slot(metric, group)
    recorder.writer.slots[slot] = layout.UNSET if value is None else float(value)


def _activity(parts: Parts) -> Poll:
    recorder = parts.recorder
    record = partial(recorder.set, "training_inactive_seconds")
    process = ProcessActivity(exporters_started)
    return ActivityProbe(recorder.timeline, parts.collectives, parts.allocator, process, record).poll


def _evidence(parts: Parts) -> Poll | None:
    recorder = parts.recorder
    if not recorder.boxed:
        return None
    evidence = HangReporter(recorder, parts.collectives)
    recorder.endings.append(evidence.stop)
    return evidence.poll


def _profiler(parts: Parts) -> Poll | None:
    recorder = parts.recorder
    if not recorder.boxed:
        return None
    profiler = Profiler(recorder)
    recorder.profile = profiler.event
    recorder.endings.append(profiler.stop)
    return profiler.poll


def _user_metrics(parts: Parts) -> Poll | None:
    recorder = parts.recorder
    if recorder.writer.path is None or not recorder.config.user_metrics:
        return None
    metrics = UserMetrics(recorder.writer.path, partial(recorder.error, "helper"), on_dropped=recorder.drop)
    recorder.endings.append(metrics.stop)
    return metrics.poll


#: In the order of a turn: activity asks the allocator and the collectives of the same turn.
PROBES = (
    Probe("allocator", _allocator),
    Probe("loader", lambda parts: LoaderProbe(parts.recorder.set).poll),
    Probe("compile", lambda parts: CompileWatch(parts.recorder.timeline).poll),
    Probe("device_phases", _device_phases),
    Probe("collectives", _collectives),
    Probe("parallelism", lambda parts: parts.parallelism),
    Probe("activity", _activity),
    Probe("evidence", _evidence),
    Probe("profiler", _profiler),
    Probe("goodput", lambda parts: parts.goodput.poll if parts.goodput is not None else None),
    Probe("disk_space", lambda parts: parts.checkpoints.space.poll),
    Probe("mfu", lambda parts: parts.flops.poll),
    Probe("saves", lambda parts: parts.watcher.poll),
    Probe("actions", lambda parts: parts.actions),
    Probe("exporter", lambda parts: parts.exporter, where="exporter"),
    Probe("user_metrics", _user_metrics),
)


@dataclass(frozen=True)
class Scheduled:
    """A probe that is switched on and has something to poll."""

    probe: Probe
    poll: Poll


def scheduled(parts: Parts, probes: tuple[Probe, ...] = PROBES) -> Iterator[Scheduled]:
    """The probes that are switched on. One that cannot be made is counted, and the others go on."""
    recorder = parts.recorder
    for probe in probes:
        poll = recorder.guard(probe.where, probe.make, parts) if recorder.probes(probe.name) else None
        if poll is not None:
            yield Scheduled(probe, poll)
