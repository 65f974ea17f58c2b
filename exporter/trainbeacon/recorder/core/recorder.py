"""The numbers of one rank on their way into its black box: what beacon, hooks and probes share."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Hashable
from functools import partial
from math import inf, isfinite
from typing import Any

from trainbeacon import catalogue
from trainbeacon._version import __version__
from trainbeacon.blackbox import format as layout
from trainbeacon.blackbox.machine import boot_id, pid_namespace, seconds_since_boot
from trainbeacon.blackbox.writer import Writer
from trainbeacon.config.hyperparameters import telling_first
from trainbeacon.config.redaction import MOST_HYPERPARAMETERS, redacted
from trainbeacon.config.settings import Config, public_hyperparameters
from trainbeacon.identity import Identity
from trainbeacon.identity.parallel import Coordinates
from trainbeacon.recorder.boundary import is_of_the_script
from trainbeacon.recorder.core.timeline import Index, Timeline
from trainbeacon.recorder.device.deferred import DeferredScalars
from trainbeacon.recorder.device.events import DevicePhases
from trainbeacon.recorder.learning.loss_spikes import LossJudge
from trainbeacon.recorder.learning.nonfinite import FirstNonfinite

log = logging.getLogger("trainbeacon")

#: Counters of which 0 would be a statement: they begin when their probe has something to say.
_BEGUN_BY_A_PROBE = {"training_self_seconds_total", "training_device_phase_seconds_total"}
_NO_ENTRY = -1  # of the ring: of a loss that is not of the training data


class Recorder:
    """One black box with its slots named, its clockwork, and its errors counted.

    Attributes:
        recording: false once the run ended, in a forked child, and if switched off.
        deferred: numbers that a device has not handed over yet.
        nonfinite: the first NaN or infinity of this rank.
        endings: called when the run ends, by the thread that ends it.
        in_evaluation: whether an evaluation is under way for the calling thread.
        identified: called when `identify` gave the rank another identity.
        device_phases: takes device events around the phases, once the background thread looks after them.
        listener: takes what a script may want to act on: its kind, the step, the value (`intervention`).
        profile: has the next steps profiled, where that can be done; for the training thread.
    """

    def __init__(self, config: Config, identity: Identity) -> None:
        self.config = config
        self.identity = identity
        self.run = config.run or identity.run
        self.recording = config.enabled
        self._gpu = ("", "")
        self._coordinates = Coordinates()
        self.start, begun = time.time(), time.monotonic()
        self._logged: set[tuple[str, str]] = set()
        failure: Exception | None = None
        self.writer, failure = self._open_box()
        self.index = self._declare()
        self.timeline = Timeline(self.writer, self.index, begun)
        self.endings: list[Callable[[], None]] = []
        self.in_evaluation: Callable[[], bool] = _never
        self.identified: list[Callable[[], None]] = []
        self.device_phases: DevicePhases | None = None
        self.listener: Callable[[str, int, float], None] | None = None
        self.profile: Callable[[], None] | None = None
        self.deferred = DeferredScalars(partial(self.error, "device"))
        self._judge = LossJudge()
        self.nonfinite = FirstNonfinite(
            partial(self.set, "training_nonfinite_first_step"),
            lambda layer, kind: self.writer.info("training_nonfinite_info", [layer, kind]),
        )
        self._rises = 0
        self._step_values, self._commit = self.writer.step, self.writer.commit
        self._loss_at = {split: self.index["training_loss", (split,)] for split in catalogue.SPLITS}
        self._norm_at = self.index["training_gradient_norm", ()]
        self._norm_step_at: int | None = None
        self._describe()
        if failure is not None:
            self.error("blackbox", failure)

    @property
    def boxed(self) -> bool:
        """Whether an exporter can see what is recorded."""
        return self.writer.path is not None

    # Numbers

    def at(self, metric: str, *labels: str) -> int:
        """The slot of a metric that every rank has."""
        return self.index[metric, labels]

    def set(self, metric: str, value: float, *labels: str) -> None:
        """Set a gauge that every rank has."""
        self.writer.slots[self.index[metric, labels]] = value

    def add(self, metric: str, amount: float, *labels: str) -> None:
        """Add to a counter that every rank has."""
        self.writer.slots[self.index[metric, labels]] += amount

    def take(self, series: Hashable, name: str, value: Any, apply: Callable[[float], None]) -> None:
        """Have `apply` called with the number in `value`: at once, or in the background once it has arrived.

        Args:
            series: the slot that it is for, of a loss the split; numbers of one series are applied in order.
            name: what it is, for the TypeError about something that is no number.
            value: a number, or a tensor of one element.
            apply: does not touch the timeline, which is the training thread's.
        """
        number = value if value.__class__ is float else self.deferred.number(name, value)
        if number is None or self.deferred.waits(series):
            self.deferred.read(series, value if number is None else number, apply)
        else:
            apply(number)

    def gauge(self, at: int, name: str, value: Any) -> None:
        """Set a slot to the number in `value`, now or later."""
        self.take(at, name, value, partial(self._store, at))

    def loss(self, loss: Any, split: str) -> None:
        """A loss; of the training data, it is judged for spikes and non-finite values."""
        late = self.deferred
        number = loss if loss.__class__ is float else late.number("loss", loss)
        if number is not None and not (late.used and late.waits(split)):
            self._step_values[self._loss_at[split]] = number
            if split == "train":
                self._judge_loss(number, self.timeline.take_loss(number))
            self._commit()
            return
        entry = self.timeline.defer_loss() if split == "train" else _NO_ENTRY
        apply = partial(self._deferred_loss, split, entry, self.timeline.loss_step)
        late.read(split, loss if number is None else number, apply)

    def after_losses(self, split: str, action: Callable[[float], None]) -> None:
        """Have `action` called with the last loss of a split, once all that were logged are known."""
        at = self._loss_at[split]
        self.take(split, "loss", 0.0, lambda _: action(self.writer.step[at]))

    def clipped(self, excess: Any) -> None:
        """Gradients of the step were clipped: so many times as large as the limit they were."""
        if excess is not None:
            self.take("clipped", "excess", excess, self._take_excess)

    def _take_excess(self, excess: float) -> None:
        if 1.0 < excess < inf:
            self.add("training_gradient_clipped_total", 1.0)

    def unused_norm(self, norm: Any) -> None:
        """The norm of gradients of which no step was made: recorded if it is not finite."""
        step = self.timeline.step + 1
        self.take("unused norm", "norm", norm, partial(self._take_unused, step))

    def _take_unused(self, step: int, norm: float) -> None:
        if not isfinite(norm):
            self._take_norm(None, step, norm)

    def gradient_norm(self, norm: Any, limit: float | None = None, *, excess: Any = None) -> None:
        """The norm of this step's gradients before clipping.

        Args:
            norm: a number, or a tensor on a device.
            limit: what they were clipped to.
            excess: how many times as large as the limit they were, in place of `limit`.
        """
        self.clipped(excess)
        at = self._norm_at
        number = norm if norm.__class__ is float else self.deferred.number("gradient_norm", norm)
        if number is not None and not (self.deferred.used and self.deferred.waits(at)):
            self.timeline.pending_norm = number
            self._take_norm(limit, self.timeline.step + 1, number)
            return
        apply = partial(self._deferred_norm, limit, self.writer.ring_count, self.timeline.step + 1)
        self.deferred.read(at, norm if number is None else number, apply)

    def _store(self, at: int, number: float) -> None:
        self.writer.slots[at] = number

    def _deferred_loss(self, split: str, entry: int, step: int, loss: float) -> None:
        """Take a loss that came late. Its commit is left to the training thread's next one."""
        self._step_values[self._loss_at[split]] = loss
        if split == "train":
            self._judge_loss(loss, step)
            self._amend(entry, layout.RING_LOSS, loss)

    def _deferred_norm(self, limit: float | None, entry: int, step: int, norm: float) -> None:
        self._take_norm(limit, step, norm)
        self._amend(entry, layout.RING_NORM, norm)

    def _judge_loss(self, loss: float, step: int) -> None:
        if loss - loss != 0.0:  # NaN or infinite; cheaper than a call
            self.add("training_loss_nonfinite_total", 1.0)
            self.nonfinite.saw(step, "loss")
            self._tell("nonfinite_loss", step, loss)
            return
        if self.nonfinite.step is not None:
            self.nonfinite.saw_finite_loss()
        if self._judge.is_spike(loss):
            self.add("training_loss_spikes_total", 1.0)
            self._tell("loss_spike", step, loss)
        if self._judge.rises != self._rises:
            self._rises = self._judge.rises
            self.set_of_run("training_loss_rises", self._rises, "train")

    def _tell(self, kind: str, step: int, value: float) -> None:
        if self.listener is not None:
            self.listener(kind, step, value)

    def _take_norm(self, limit: float | None, step: int, norm: float) -> None:
        slots = self.writer.slots
        slots[self._norm_at] = norm
        if self._norm_step_at is None:
            self._norm_step_at = self.run_slot("training_gradient_norm_step")
        slots[self._norm_step_at] = step
        if not isfinite(norm):
            self.add("training_gradient_nonfinite_total", 1.0)
            self.nonfinite.saw(step, "gradient" if self.identity.world_size == 1 else "reduced")
            self._tell("nonfinite_gradient", step, norm)
        elif limit is not None and norm > limit:
            self.add("training_gradient_clipped_total", 1.0)

    def _amend(self, entry: int, field: int, number: float) -> None:
        if not self.writer.amend_ring(entry, field, number):
            self.deferred.until_done(partial(self.writer.amend_ring, entry, field, number))

    def run_slot(self, metric: str, *labels: str) -> int:
        """A slot for a run-level series, which rank 0 writes; the sink on every other rank."""
        if self.identity.rank != 0:
            return layout.SINK
        slot = self.index.get((metric, labels))
        if slot is None:
            slot = self.index[metric, labels] = self.writer.declare(metric, labels)
            self.set("trainbeacon_series_dropped_total", self.writer.dropped)
        return slot

    def set_of_run(self, metric: str, value: float, *labels: str) -> None:
        """Set a gauge of the whole run; does nothing on any rank but the first."""
        self.writer.slots[self.run_slot(metric, *labels)] = value

    @property
    def latest_loss(self) -> float:
        """The mean of the last 32 training losses."""
        return self._judge.latest_mean

    @property
    def loss_scatter(self) -> float:
        """The mean absolute deviation of single training losses."""
        return self._judge.deviation

    def rank_slot(self, metric: str, *labels: str) -> int:
        """A slot for a series of this rank whose label values are known only now."""
        slot = self.index.get((metric, labels))
        if slot is None:
            slot = self.index[metric, labels] = self.writer.declare(metric, labels)
            self.set("trainbeacon_series_dropped_total", self.writer.dropped)
        return slot

    def probes(self, name: str) -> bool:
        """Whether a probe of `config.PROBES` is switched on."""
        return name not in self.config.probes_off

    def drop(self, series: int = 1) -> None:
        """Count series that a budget leaves out."""
        self.writer.dropped += series
        self.set("trainbeacon_series_dropped_total", self.writer.dropped)

    # Errors

    def error(self, where: str, error: BaseException) -> None:
        """Count an error of ours, and log the first of its kind; never raises."""
        self.add("trainbeacon_errors_total", 1.0, where)
        kind = (where, f"{type(error).__name__}: {_text(error)}"[:60])
        if kind not in self._logged and len(self._logged) < 100:
            self._logged.add(kind)
            said = redacted(_text(error))
            try:
                log.warning(
                    "%s: %s (training goes on; further ones of this kind are only counted)", where, said
                )
            except Exception as problem:  # a handler of the script's may raise
                if is_of_the_script(problem):
                    raise

    def takes(self, where: str, error: Exception) -> bool:
        """Whether an exception is one of ours: then it is counted, else it is the script's, to be raised."""
        if is_of_the_script(error):
            return False
        self.error(where, error)
        return True

    def guard(self, where: str, work: Callable[..., Any], *args: Any) -> Any:
        """Do something of ours that must not reach the training loop if it fails."""
        try:
            return work(*args)
        except Exception as error:  # this is the boundary
            if not self.takes(where, error):
                raise
            return None

    def guarded(self, where: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """`work` with `guard` around each call, for hooks. Does nothing where nothing is recorded."""

        def call(*args: Any) -> Any:
            if not self.recording:
                return None
            try:
                return work(*args)
            except Exception as error:  # as in `guard`, without its call
                if not self.takes(where, error):
                    raise
                return None

        return call

    def elsewhere(self, phase: str) -> None:
        """Say once that a phase of another thread than the training thread is left out."""
        if ("phase", phase) not in self._logged:
            self._logged.add(("phase", phase))
            log.warning(
                "phase %s is not recorded: it is entered in thread %s, and phases are those of the thread "
                "that trains (%s)",
                phase,
                threading.current_thread().name,
                self.timeline.thread,
            )

    # The box

    def identify(self, identity: Identity) -> None:
        """Take another identity, before the first step: what was said of the run is said anew by rank 0."""
        self.identity = identity
        self.run = self.config.run or identity.run
        self.writer.identify(self._identity_fields())
        for (metric, labels), slot in list(self.index.items()):
            known = catalogue.BY_NAME.get(metric)
            if known is not None and known.level == "run":
                self.writer.unset(slot)
                if identity.rank != 0:
                    del self.index[metric, labels]
        self._norm_step_at = None
        self._describe()
        for callback in self.identified:
            callback()

    def _identity_fields(self) -> dict[str, Any]:
        identity = self.identity
        return {
            "run": self.run,
            "rank": identity.rank,
            "attempt": identity.attempt,
            "start": self.start,
            "pid": os.getpid(),
            "pid_namespace": pid_namespace(),
            "boot_id": boot_id(),
            "since_boot": seconds_since_boot(),
            "version": __version__,
        }

    def _open_box(self) -> tuple[Writer, Exception | None]:
        fields = self._identity_fields()
        if not self.config.enabled:
            return Writer.private(fields), None
        try:
            return Writer.create(self.config.directory, fields), None
        except OSError as error:
            if is_of_the_script(error):
                raise
            return Writer.private(fields), _NoBoxError(error)

    def _declare(self) -> Index:
        index: Index = {}
        declare = self.writer.declare
        for name in (layout.PHASE_INDEX, layout.PHASE_START, layout.HEARTBEAT):
            index[name, ()] = declare(name)
        for metric in filter(layout.is_fixed, catalogue.ALL):
            for labels in layout.slots_of(metric):
                slot = index[metric.name, labels] = declare(metric.name, labels)
                if _begins_at_zero(metric, labels):
                    self.writer.slots[slot] = 0.0
        return index

    def _describe(self) -> None:
        identity, writer = self.identity, self.writer
        self.set("training_start_timestamp_seconds", self.start)
        self.set("training_attempt", identity.attempt)
        self.set("training_world_size", identity.world_size)
        self.set("training_heartbeat_timestamp_seconds", self.start)
        self.rank_info()
        if identity.rank == 0:
            self.run_info()
            for name, text in self.config.tags.items():
                writer.info("training_run_tag_info", [name, str(text)], key=name)
            self._describe_hyperparameters()
            for name, limit in self.config.thresholds.items():
                writer.slots[self.run_slot("training_threshold", name)] = float(limit)
            if self.config.steps_planned is not None:
                writer.slots[self.run_slot("training_steps_planned")] = float(self.config.steps_planned)

    def run_info(self) -> None:
        """Say who the run is; again once the framework is known."""
        identity = self.identity
        framework = sys.modules.get("torch")
        named = f"torch {framework.__version__}" if framework is not None else ""
        labels = [identity.run_id, self.config.project, self.config.owner, identity.launcher, named]
        self.writer.info("training_run_info", labels)

    def runs_on(self, gpu: str, gpu_uuid: str) -> None:
        """The rank's GPU is known."""
        self._gpu = gpu, gpu_uuid
        self.rank_info()

    def works_at(self, coordinates: Coordinates) -> None:
        """Which part of the work the rank has is known: ranks of one stage can be compared."""
        self._coordinates = coordinates
        self.timeline.has_stage = coordinates.stage is not None
        self.rank_info()

    def rank_info(self) -> None:
        """Say where the rank runs and what it works at; again once more is known."""
        identity = self.identity
        place = str(identity.local_rank), identity.hostname
        labels = [*place, *self._gpu, *self._coordinates.labels()]
        self.writer.info("training_rank_info", labels)

    def _describe_hyperparameters(self) -> None:
        given = telling_first(self.config.hyperparameters, MOST_HYPERPARAMETERS)
        kept, refused, dropped = public_hyperparameters(given)
        for name, value in kept:
            self.writer.info("training_hyperparameter_info", [name, str(value)[:64]], key=name)
            if not isinstance(value, str):
                self.writer.slots[self.run_slot("training_hyperparameter", name)] = float(value)
        if refused:
            log.warning("hyperparameters left out because they look like secrets: %s", ", ".join(refused))
        if dropped:
            log.info(
                "%d of %d hyperparameters are served, those that runs are compared by first; left out: %s. "
                "To choose them, give start(hyperparameters=...) the ones that you want",
                len(kept),
                len(given),
                ", ".join(dropped),
            )


def _never() -> bool:
    return False


def _begins_at_zero(metric: catalogue.Metric, labels: tuple[str, ...]) -> bool:
    """Counters do, so that their first event is an increase.

    Those of a step begin in the timeline, and those of PyTorch's allocator with its first sample.
    """
    if metric.name == "trainbeacon_errors_total":
        return labels[0] in catalogue.RANK_PLACES
    late = (
        metric.name in layout.STEP_METRICS
        or metric.name in _BEGUN_BY_A_PROBE
        or metric.group == "torch allocator"
    )
    return metric.type == "counter" and not late


def _text(error: BaseException) -> str:
    """What an exception says; its class may be the script's, whose text may raise."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - as above
        return ""


class _NoBoxError(OSError):
    def __init__(self, cause: OSError) -> None:
        super().__init__(f"no black box, so this rank is not served: {cause.strerror or cause}")
