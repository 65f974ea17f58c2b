"""The write API: what a training script calls.

Every call is cheap (microseconds), takes no lock and touches no file. Record from the thread that
trains; `log` may be called from any. Misuse before the first step is done raises, so that it is found
at call time; after that nothing of ours reaches the training loop: it is counted in
`trainbeacon_errors_total` and logged once.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import TracebackType
from typing import Any, Literal, TypeVar

from trainbeacon import catalogue
from trainbeacon.config.settings import Config
from trainbeacon.identity import Identity, current
from trainbeacon.recorder.api.actions import Callback, Interventions
from trainbeacon.recorder.api.attempts import numbered
from trainbeacon.recorder.api.contexts import PhaseContext, StepContext
from trainbeacon.recorder.api.endings import Failure, ProcessEnd, is_orderly
from trainbeacon.recorder.api.iteration import iterate
from trainbeacon.recorder.api.loader import recorded_loader
from trainbeacon.recorder.background.loop import BackgroundLoop
from trainbeacon.recorder.background.schedule import Parts, scheduled
from trainbeacon.recorder.background.supervisor import supervisor_for
from trainbeacon.recorder.boundary import is_of_the_script
from trainbeacon.recorder.checkpoints.checkpoints import CheckpointContext, Checkpoints
from trainbeacon.recorder.core.evaluations import Evaluations
from trainbeacon.recorder.core.file_worker import FileWorker
from trainbeacon.recorder.core.group import corrected
from trainbeacon.recorder.core.metrics import MetricLogger, MetricSlots
from trainbeacon.recorder.core.recorder import Recorder, log
from trainbeacon.recorder.core.steps import StepCount
from trainbeacon.recorder.core.streams import occupy_standard_streams
from trainbeacon.recorder.core.threads import NoThreadError, greenlets
from trainbeacon.recorder.core.timeline import DATA_WAIT, EVALUATE, OTHER, PHASE
from trainbeacon.recorder.device.scalars import batch_size, to_float, whole
from trainbeacon.recorder.goodput.mfu import Flops
from trainbeacon.recorder.goodput.tracker import Goodput
from trainbeacon.recorder.hooks.watch import ModelWatcher
from trainbeacon.recorder.probes.inputs import InputProbe
from trainbeacon.recorder.probes.parallelism import Parallelism

Loader = TypeVar("Loader", bound=Iterable[Any])

#: How long the end of a run waits for numbers that a device has not handed over.
DRAIN_SECONDS = 1.0
#: How long the end of a run waits for the last writing of its state file, on a file system that is slow.
LAST_FILES_SECONDS = 2.0

_beacons: weakref.WeakSet[Beacon] = weakref.WeakSet()


_mirror: Callable[[str], None] | None = None


def mirror_with(install: Callable[[str], None]) -> None:
    """Have `Beacon.mirror` done so: the write side itself knows no other tracker."""
    global _mirror
    _mirror = install


class Beacon:
    """Records one process's part of a run. Made by `trainbeacon.start`.

    Attributes:
        config: the settings in force.
        identity: what the launcher says of this process.
        recorder: where the numbers go, for integrations.
        timeline: steps and phases, for integrations.
        steps: what counts the steps, for integrations.
    """

    def __init__(self, config: Config, identity: Identity) -> None:
        self.config = config
        if config.enabled:
            occupy_standard_streams()
            identity = corrected(identity)
            identity = numbered(identity, config.directory, config.run or identity.run)
        self.identity = identity
        self.recorder = Recorder(config, identity)
        self.timeline = self.recorder.timeline
        self.steps = StepCount(self.timeline)
        self._misused: set[str] = set()
        self._evaluations = Evaluations(self.recorder)
        self.recorder.in_evaluation = lambda: self._evaluations.here
        self._numbers = MetricLogger(self.recorder, self._evaluations)
        self._inputs = InputProbe(self.recorder.set_of_run, self.recorder.drop)
        self._names = MetricSlots(self.recorder, self._misuse)
        self._slots = {split: self._names.slots(split) for split in catalogue.SPLITS}
        self._settling = threading.Lock()
        self.parallelism = Parallelism(config, self.recorder.works_at)
        self.timeline.before_first_step = partial(self.recorder.guard, "helper", self._settle)
        self._phases = {name: PhaseContext(self.recorder, number) for name, number in PHASE.items()}
        self._interventions: Interventions | None = None
        self._loop: BackgroundLoop | None = None
        self._process_end: ProcessEnd | None = None
        self._failure = Failure(self.recorder)
        self._file_worker = FileWorker(partial(self.recorder.error, "helper"))
        self._goodput = self._accounts()
        self._checkpoints = Checkpoints(self.recorder, self._file_worker, self._goodput)
        self._flops = Flops(self.recorder)
        self._watcher = ModelWatcher(self.recorder, self.steps, self._checkpoints, self._flops)
        if self.recording:
            self._go()

    def _go(self) -> None:
        for warning in self.identity.warnings:
            log.warning("%s", warning)
        library = greenlets()
        if library is not None:
            log.warning(
                "%s has replaced threads: the heartbeat runs only while the script waits, so that a busy "
                "rank looks silent; patch with thread=False",
                library,
            )
        recorder = self.recorder
        supervisor = recorder.guard("exporter", supervisor_for, self.config, self.identity.local_rank)
        if supervisor is not None:
            recorder.endings.append(supervisor.close)
        parts = Parts(
            recorder,
            self._checkpoints,
            self._flops,
            self._watcher,
            self._goodput,
            actions=self._poll_actions,
            parallelism=self.parallelism.poll,
            exporter=supervisor.poll if supervisor is not None and recorder.boxed else _nothing,
        )
        self._loop = BackgroundLoop(recorder, scheduled(parts))
        try:
            self._loop.start()
        except NoThreadError as error:
            recorder.error("helper", NoThreadError(f"{error}: this rank is not served, and looks silent"))
        for name in self.config.mirror:
            self.mirror(name)
        self._process_end = ProcessEnd(self.on_exception, self._end)
        _beacons.add(self)

    def _settle(self) -> None:
        """Before the first step: all that its series are told apart by."""
        self._settle_identity()
        self.parallelism.poll()

    def _settle_identity(self) -> None:
        """Take the rank that torch.distributed gives, which may be initialised after the start.

        Threads: called by the training thread before the first step, and by the background loop.
        """
        if self.timeline.warm or not self.recording:
            return
        with self._settling:
            identity = corrected(self.identity)
            if identity is self.identity:
                return
            for warning in identity.warnings:
                log.warning("%s", warning)
            self.identity = identity
            self.recorder.identify(identity)
            if self._goodput is not None:
                self._goodput.identified()
            self._names.forget()
            self._slots = {split: self._names.slots(split) for split in catalogue.SPLITS}

    def _poll_actions(self) -> None:
        self._settle_identity()
        self._failure.look_again()
        if self._interventions is not None:
            self._interventions.poll()

    def _accounts(self) -> Goodput | None:
        """What keeps the accounts of the run, where this is rank 0."""
        if not self.recording or not self.recorder.probes("goodput"):
            return None
        found: Goodput | None = self.recorder.guard("helper", Goodput, self.recorder, self._file_worker)
        return found

    @property
    def recording(self) -> bool:
        """False once the run ended, in a forked child, and if switched off."""
        return self.recorder.recording

    @property
    def run(self) -> str:
        """Name of the run, as the label of its series has it."""
        return self.recorder.run

    def __reduce__(self) -> tuple[Callable[[], Beacon], tuple[()]]:
        """What a copy is, such as a spawned loader's worker gets: a beacon that does nothing."""
        return _silent, ()

    # Numbers

    def log(
        self,
        *,
        loss: Any = None,
        accuracy: Any = None,
        gradient_norm: Any = None,
        split: str | None = None,
        step: int | None = None,
        epoch: int | None = None,
        **values: Any,
    ) -> None:
        """Record numbers: Python numbers, NumPy scalars, tensors of one element.

        Args:
            loss: of the training data, every one is judged for spikes and non-finite values.
            accuracy: 0 to 1.
            gradient_norm: of all gradients of this step, before clipping.
            split: train, validation or test; by default train, and validation inside `evaluate`.
            step: number of the last completed step of the run, for a loop that numbers its own.
            epoch: number of the present epoch.
            **values: learning_rate, loss_scale, parameter_norm, update_ratio; any other name becomes
                `training_metric{name}`, served from rank 0.

        Raises:
            TypeError, ValueError: something that is no number, before the first step is done.
        """
        recorder = self.recorder
        if not recorder.recording:
            return
        if split is None:
            split = self._evaluations.split if self._evaluations.open else "train"
        elif split not in self._slots:
            self._misuse(ValueError(f"split={split!r} is not one of {', '.join(catalogue.SPLITS)}"))
            return
        known, numbers = self._slots[split], self._numbers
        slots = recorder.writer.slots
        at_once = not recorder.deferred.used
        for name, value in values.items():
            if at_once and value.__class__ is float:
                slots[known[name]] = value
            else:
                self._try(numbers.value, name, value, known)
        if loss is not None:
            self._try(recorder.loss if split == "train" else numbers.loss, loss, split)
        if accuracy is not None:
            self._try(numbers.accuracy, accuracy, split)
        if gradient_norm is not None:
            self._try(recorder.gradient_norm, gradient_norm)
        if epoch is not None:
            self._try(numbers.epoch, epoch)
        if step is not None:
            self._try(self.steps.logged, step)

    # Steps and phases

    def step(self, samples: int = 0, tokens: int = 0) -> StepContext:
        """`with beacon.step(samples=8):` around one training step, for a loop without `watch`."""
        steps = self.steps
        return StepContext(
            self.recorder,
            None,
            before=steps.step_begins,
            after=partial(steps.step_is_over, samples, tokens),
            failed=steps.step_failed,
        )

    def phase(self, name: str) -> PhaseContext:
        """`with beacon.phase("forward"):` around a part of the loop; phases may be nested.

        Raises:
            ValueError: a name that is not in `catalogue.PHASES`, before the first step is done.
        """
        span = self._phases.get(name)
        if span is None:
            self._misuse(ValueError(f"phase({name!r}) is not one of {', '.join(PHASE)}"))
            span = self._phases["other"]
        return span

    def batches(
        self,
        loader: Loader,
        *,
        samples: Callable[[Any], int] | None = None,
        tokens: Callable[[Any], int] | None = None,
    ) -> Loader:
        """Iterate over a loader, recording the time waited for data and the samples seen.

        What comes back is that loader to whoever asks it: by its attributes, length and class. A framework
        that makes a loader of its own from it (`accelerate.prepare`) records nothing: wrap what that gives.
        Inside `evaluate` the batches are passed on and nothing is counted.

        Args:
            loader: any iterable of batches.
            samples: how many samples a batch has; by default the first dimension of its first array.
            tokens: how many tokens a batch has; by default none are counted.
        """
        count = partial(self._count, samples or batch_size, tokens)
        recorded: Loader = recorded_loader(loader, partial(self._iterate, count))
        return recorded

    def _iterate(self, count: Callable[[Any], None], loader: Iterable[Any]) -> Iterator[Any]:
        """Begin to iterate now, as the loader alone does: it may draw its seed, or start its workers."""
        observe = self.timeline.observe if self.recording else _ignore
        observe(DATA_WAIT)
        iterator = iter(loader)
        observe(OTHER)
        return iterate(self.recorder, self.steps, iterator, count)

    def _count(self, samples: Callable[[Any], int], tokens: Callable[[Any], int] | None, batch: Any) -> None:
        number = samples(batch)
        if number.__class__ is not int or number < 0:
            number = whole("samples", number)
        self.timeline.pending_samples += number
        if tokens is not None:
            self.timeline.pending_tokens += whole("tokens", tokens(batch))

    def inputs(self, features: Any, *, stage: str = "prepared", classes: Any = None) -> None:
        """Record what a batch looks like, from time to time: mean, deviation, missing values, drift, classes.

        Call it with every batch, before it is moved to a device. Rank 0 looks at the first ten batches and
        at about one a second after that.

        Args:
            features: tensors or NumPy arrays by name, or one whose second dimension are the features; the
                first four are served.
            stage: `raw` before the script's own preparation, `prepared` after it.
            classes: the label of each sample; ten classes are served.

        Raises:
            TypeError, ValueError: no array on the host, or another stage; before the first step is done.
        """
        if self.recording and self.identity.rank == 0:
            self._try(self._inputs.take, features, stage, classes)

    def watch(self, model: Any = None, optimizer: Any = None, *, scaler: Any = None) -> None:
        """Record steps, phases, gradient norm and learning rate by hooks; changes nothing in training.

        A step is one of the first optimizer's. The gradient norm is what `clip_grad_norm_` works out,
        else sampled. With a device model its GPU is named too.

        Args:
            model: the outermost module: the DistributedDataParallel, or the compiled module; or several.
            optimizer: one, or several of which the first counts the steps.
            scaler: the AMP gradient scaler, for the loss scale and the steps that it leaves out.
        """
        if not self.recording:
            return
        self.recorder.guard("helper", self._settle_identity)
        self.recorder.guard("helper", self.parallelism.saw_model, model)
        self.recorder.guard("hooks", self._watcher.watch, model, optimizer, scaler)

    def on(self, kind: str, action: Callback | Literal["stop", "profile"]) -> None:
        """Act on what is seen, in the training thread at the end of the step (docs/intervention.md).

        Args:
            kind: nonfinite_loss, nonfinite_gradient, loss_spike or stalled.
            action: called with the `Event`; "stop" raises `TrainingStopped` out of the step, "profile" has
                the next five recorded by torch.profiler (docs/profile.md).

        Raises:
            ValueError: an unknown kind or an impossible action, before the first step is done.
        """
        if not self.recording:
            return
        if self._interventions is None:
            self._interventions = Interventions(self.recorder)
        self._try(self._interventions.on, kind, action)

    def mirror(self, name: str) -> None:
        """Record too what the script gives to another tracker, whose own files and runs stay as they are.

        Args:
            name: `tensorboard`, `mlflow` or `wandb`; whether it is imported before or after does not matter.

        Raises:
            ValueError: another name, before the first step is done.
        """
        if self.recording and _mirror is not None:
            self._try(_mirror, name)

    # Evaluation and checkpoints

    def evaluate(self) -> StepContext:
        """`with beacon.evaluate():` around an evaluation; `log` inside is of the validation data."""
        found = self._evaluations
        return StepContext(
            self.recorder, EVALUATE, before=lambda _: found.begin(), after=found.end, failed=found.abandon
        )

    def checkpoint(self, path: str | os.PathLike[str] | None = None) -> CheckpointContext:
        """`with beacon.checkpoint(path) as saving:` around the saving of a checkpoint.

        What is written in the background after the `with` is reported by `saving.finishes_with(future)`; for
        `torch.distributed.checkpoint.async_save` on a watched model that is done already.

        Args:
            path: the file or folder that is saved; its size is read afterwards, in another thread, and the
                state of the run is kept beside it (docs/goodput.md).
        """
        begin = partial(self._checkpoints.begin, path, named=True)
        return CheckpointContext(self.recorder, begin, self._misuse)

    def resume(self, step: int, path: str | os.PathLike[str] | None = None) -> None:
        """The run goes on after `step`, as a checkpoint says; to be called before the first step.

        What an earlier attempt trained beyond it is counted as lost. Without this call, or `log(step=)`, a
        run whose state is found is taken to go on from its last checkpoint.

        Args:
            step: number of the last completed step of the run.
            path: the checkpoint, if no `state_file` is set: the state of the run is looked for beside it.

        Raises:
            TypeError, ValueError: the step is no whole number from 0, before the first step is done.
        """
        if self.recording:
            self._try(self._resume, step, path)

    def _resume(self, step: Any, path: str | os.PathLike[str] | None) -> None:
        number = int(to_float("step", step))
        if number < 0:
            raise ValueError(f"step={number} is no number of a step: give a whole number from 0")
        self.timeline.resume_at(number)
        self.recorder.set("training_checkpoint_step", number)
        if self._goodput is not None:
            self._goodput.resumed(path)

    # The end

    def on_exception(self, error: BaseException) -> None:
        """Record that this exception ends the run on this rank; `with` and uncaught ones do it themselves."""
        if self.recording:
            self.recorder.guard("helper", self._failure.record, error)

    def finish(self) -> None:
        """The run is over and well: close the box. Further calls do nothing.

        In a `finally` through which an exception passes the run has failed by that one.
        """
        if self._process_end is not None:
            self._finish(self._process_end.passing())

    def supersede(self) -> None:
        """Another run starts in this process."""
        if self.recording and self._process_end is not None:
            state, error = self._process_end.superseded()
            if error is not None:
                self.on_exception(error)
            self._end(state)

    def __enter__(self) -> Beacon:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish(error)

    def _finish(self, error: BaseException | None) -> None:
        if error is None or is_orderly(error):
            self._end("finished")
        else:
            self.on_exception(error)
            self._end("failed")

    def _end(self, state: str) -> None:
        if not self.recording:
            return
        guard = self.recorder.guard
        guard("helper", self._failure.look_again)
        if self._failure.stands:
            state = "failed"
        else:
            guard("hooks", self.steps.close)
        self.recorder.recording = False
        self._watcher.remove()
        if self._goodput is not None:
            guard("helper", self._goodput.end, state)
        guard("helper", self._file_worker.finish, LAST_FILES_SECONDS)
        if self._loop is not None:
            self._loop.stop()
        for ending in self.recorder.endings:
            guard("helper", ending)
        guard("device", self.recorder.deferred.drain, DRAIN_SECONDS)
        guard("helper", self.timeline.close)
        guard("helper", self.recorder.set, "training_end_timestamp_seconds", time.time())
        self.recorder.writer.end(state)
        guard("blackbox", self.recorder.writer.close)
        if self._process_end is not None:
            self._process_end.remove()
        _beacons.discard(self)

    # Misuse

    def _try(self, work: Callable[..., None], *args: Any) -> None:
        try:
            work(*args)
        except (TypeError, ValueError, OverflowError) as error:
            if is_of_the_script(error):
                raise
            self._misuse(error)
        except Exception as error:  # a value of the user's may raise anything
            if not self.recorder.takes("value", error):
                raise

    def _misuse(self, error: Exception) -> None:
        """Raise at call time: the first of its kind, before a step is done. Else count it."""
        kind = str(error).split(" ", maxsplit=1)[0]
        first = kind not in self._misused
        self._misused.add(kind)
        self.recorder.error("value", error)
        if first and not self.timeline.warm:
            raise error


def _silent() -> Beacon:
    """A beacon that does nothing."""
    return Beacon(Config(enabled=False), current())


def _ignore(phase: int) -> None:
    """What stands in for `Timeline.observe` once nothing is recorded."""


def _nothing() -> None:
    """What stands in for a supervisor that there is not."""


def _fall_silent() -> None:
    """In a forked child, such as a loader's worker: the beacon is the parent's."""
    for beacon in list(_beacons):
        beacon.recorder.recording = False
        beacon.recorder.deferred.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_fall_silent)
