"""What goes wrong inside a rank of the campaign. Each fault stands at one place of the training loop.

A fault takes what that place has (a loss, a gradient, nothing) and gives it back as it becomes, or never
returns. It is called in every step from the injection on: by the victim, or by all ranks where the table
says so.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed

if TYPE_CHECKING:
    from tests.campaign.rank import Job

FOR_EVER = 3600


@dataclass
class Moment:
    """Where a rank is when a fault is due.

    Attributes:
        job: what the rank was told.
        steps: made since the injection.
        optimizer: of the script.
        beacon: of the rank.
        scaler: of the gradients, where the script has one.
    """

    job: Job
    optimizer: Any
    beacon: Any
    scaler: Any = None
    steps: int = 0
    notes: dict[str, float] = field(default_factory=dict)

    def size(self, name: str, default: float) -> float:
        """A parameter of the injection."""
        return float(self.job.parameters.get(name, default))


Fault = Callable[[Moment, Any], Any]


def stuck(moment: Moment, value: Any) -> Any:
    """Never comes back."""
    time.sleep(FOR_EVER)


def slower(moment: Moment, value: Any) -> Any:
    """Takes a share of a step longer."""
    time.sleep(moment.size("share", 0.3) * moment.job.step_seconds)
    return value


def nan(moment: Moment, value: Any) -> Any:
    """One NaN, once."""
    return value * math.nan if moment.steps == 1 else value


def nan_now_and_then(moment: Moment, value: Any) -> Any:
    """Every other gradient is NaN; the script leaves those steps out."""
    return value * math.nan if moment.steps % 2 else value


def spikes(moment: Moment, value: Any) -> Any:
    """Now and then a bad batch."""
    return value * moment.size("height", 8) if moment.steps % int(moment.size("every", 15)) == 1 else value


def rises(moment: Moment, value: Any) -> Any:
    """The loss grows from step to step, up to a level far above."""
    return value * min(1.0 + moment.size("pace", 0.004) * moment.steps, 20.0)


def leaps(moment: Moment, value: Any) -> Any:
    """The loss is far above from one step to the next, and stays there."""
    return value * moment.size("height", 20)


def overfits(moment: Moment, value: Any) -> Any:
    """The training loss goes on falling."""
    return value * (0.4 + 0.6 / (1.0 + 0.01 * moment.steps))


def generalises_worse(moment: Moment, value: Any) -> Any:
    """The validation loss of each evaluation is above that of the one before."""
    return value * (1.1 + 0.01 * moment.steps)


def learning_rate(moment: Moment, value: Any) -> Any:
    """The learning rate becomes another one: 0, or far too high."""
    for group in moment.optimizer.param_groups:
        group["lr"] = moment.size("rate", 0.0)
    return value


def explodes(moment: Moment, value: Any) -> Any:
    """The gradients are far larger."""
    return value * moment.size("factor", 100)


def overflows(moment: Moment, value: Any) -> Any:
    """The scaled gradients are infinite at any scale above a sixteenth."""
    return value * math.inf if moment.scaler.get_scale() > 1 / 16 else value


def slow_write(moment: Moment, value: Any) -> Any:
    """The storage is slow, each time."""
    time.sleep(moment.size("seconds", 10))
    return value


def raises(moment: Moment, value: Any) -> Any:
    """A mistake of the script, or something that the script can do nothing about."""
    what = moment.job.parameters.get("exception", "IndexError")
    if what == "OutOfMemoryError":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    if what == "OSError":
        raise OSError(28, "No space left on device")
    if what == "ValueError":
        raise ValueError("not a JPEG")
    raise IndexError("index 4096 is out of bounds for dimension 0 with size 4096")


def killed(moment: Moment, value: Any) -> Any:
    """Gone without a word, as by the kernel when memory is full."""
    os.kill(os.getpid(), signal.SIGKILL)


def stopped(moment: Moment, value: Any) -> Any:
    """The process exists, and is stalled, once."""
    if moment.steps == 1:
        os.kill(os.getpid(), signal.SIGSTOP)


def another_collective(moment: Moment, value: Any) -> Any:
    """A broadcast where the others reduce."""
    with moment.beacon.phase("communication"):
        distributed.broadcast(torch.ones(4), src=moment.job.victim)


def never_written(moment: Moment, path: Path) -> Any:
    """The storage takes the file and never answers: a pipe that nobody reads."""
    pipe = path.with_suffix(".pipe")
    os.mkfifo(pipe)
    with open(pipe, "wb"):
        pass


def refused(moment: Moment, value: Any) -> Any:
    """The storage is full."""
    with open("/dev/full", "wb", buffering=0) as file:
        file.write(b"checkpoint")


def pause(moment: Moment, value: Any) -> Any:
    """All take long, once, and go on."""
    if not moment.notes.get("paused"):
        moment.notes["paused"] = 1
        time.sleep(moment.size("seconds", 60))
    return value


def quiet_evaluation(moment: Moment, value: Any) -> Any:
    """A rank computes for long and says nothing of it, once; a fifth of the time, so that others can too."""
    end = _once(moment)
    while time.monotonic() < end:
        due = time.process_time() + 0.02
        while time.process_time() < due:
            pass
        time.sleep(0.08)
    return value


def quiet_save(moment: Moment, value: Any) -> Any:
    """A rank waits for the storage for long, in a writer of its own, once: a pipe that nobody opens."""
    end = _once(moment)
    if time.monotonic() < end:
        pipe = Path(moment.job.folder) / "save.pipe"
        os.mkfifo(pipe)
        reads = subprocess.Popen(["sh", "-c", 'sleep "$1"; cat "$0"', pipe, str(end - time.monotonic())])
        pipe.write_bytes(b"weights")
        reads.wait()
    return value


def quiet_upload(moment: Moment, value: Any) -> Any:
    """A program that a rank has called works for long, once."""
    end = _once(moment)
    if time.monotonic() < end:
        loop = f"for _ in range({10 * (end - time.monotonic()):.0f}): sum(range(10**5)); time.sleep(0.1)"
        subprocess.run([sys.executable, "-c", f"import time\n{loop}"], check=True)
    return value


def _once(moment: Moment) -> float:
    """When the pause that begins now is over, by the monotonic clock; the second time it is over at once."""
    seconds = 0.0 if moment.notes.get("paused") else moment.size("seconds", 60)
    moment.notes["paused"] = 1
    return time.monotonic() + seconds


@dataclass(frozen=True)
class Planted:
    """A fault and where it strikes; `everywhere` on all ranks, else on the victim."""

    place: str
    fault: Fault
    everywhere: bool = False


#: Places: data, forward, output, gradient, loss, validation, step, checkpoint, evaluate.
PLANTED: dict[str, tuple[Planted, ...]] = {
    "nan_loss": (Planted("loss", nan),),
    "nan_gradient": (Planted("gradient", nan),),
    "nan_gradients_skipped": (Planted("gradient", nan_now_and_then),),
    "loss_spikes": (Planted("loss", spikes, True),),
    "loss_rising": (Planted("loss", rises, True),),
    "loss_to_infinity": (Planted("step", learning_rate, True),),
    "loss_above_limit": (Planted("loss", leaps, True),),
    "overfitting": (Planted("loss", overfits, True), Planted("validation", generalises_worse, True)),
    "learning_rate_zero": (Planted("step", learning_rate, True),),
    "gradient_explosion": (Planted("gradient", explodes, True),),
    "loss_scale_collapse": (Planted("gradient", overflows, True),),
    "exception": (Planted("step", raises),),
    "cuda_oom": (Planted("step", raises),),
    "fast_failure": (Planted("data", raises),),
    "killed_rank": (Planted("step", killed),),
    "killed_rank_smaller": (Planted("step", killed),),
    "killed_and_left": (Planted("step", killed),),
    "logs_only_killed": (Planted("step", killed),),
    "hidden_nan": (Planted("output", nan_now_and_then),),
    "stopped_rank": (Planted("step", stopped),),
    "skipped_collective": (Planted("forward", stuck),),
    "mismatched_collective": (Planted("step", another_collective),),
    "stuck_loader": (Planted("data", stuck),),
    "blocked_checkpoint": (Planted("checkpoint", never_written),),
    "stuck_checkpoint": (Planted("checkpoint", never_written),),
    "slow_checkpoint": (Planted("checkpoint", slow_write),),
    "hang_in_evaluation": (Planted("evaluate", stuck),),
    "failing_checkpoint": (Planted("checkpoint", refused),),
    "straggler_data": (Planted("data", slower),),
    "straggler_forward": (Planted("forward", slower),),
    "straggler_host": (Planted("step", slower),),
    "never_started": (Planted("data", stuck),),
    "restart_loop": (Planted("step", raises),),
    # Controls: nothing is wrong.
    "long_evaluation": (Planted("evaluate", pause, True),),
    "long_checkpoint": (Planted("checkpoint", pause),),
    "long_first_step": (Planted("forward", pause, True),),
    "pause_of_a_rank": (Planted("step", pause),),
    "quiet_evaluation": (Planted("step", quiet_evaluation),),
    "quiet_save": (Planted("step", quiet_save),),
    "quiet_upload": (Planted("step", quiet_upload),),
}
