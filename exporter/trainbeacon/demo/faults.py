"""Faults that the demo lets happen to one rank, announced on its standard output as they strike."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

#: Each fault and what it does, in the words of the announcement.
KINDS = {
    "nan": "its output becomes NaN once, and through the averaged gradients every rank's weights",
    "straggler": "from now on each of its forward passes takes {delay:g} s longer",
    "hang": "it stops itself (SIGSTOP); the other ranks wait for it in the next all-reduce",
    "crash": "it kills itself (SIGKILL); the other ranks lose their connection",
}


@dataclass(frozen=True)
class Fault:
    """One fault, its rank and its time; `kind` empty means none."""

    kind: str = ""
    rank: int = 1
    step: int | None = None
    """Strikes at this training step of the process, counted from 1."""
    seconds: float = math.inf
    """Strikes this long after arming."""
    delay: float = 0.5
    """What a straggler adds to each forward pass, in seconds."""

    def arm(self, model: nn.Module, rank: int) -> None:
        """Let the fault happen inside `model` if `rank` is the one it is meant for.

        `model` is the module inside DistributedDataParallel: the training script needs to know nothing.
        """
        if self.kind and rank == self.rank:
            model.register_forward_hook(_Armed(self))


class _Armed:
    """Counts the training passes and strikes when it is time."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault
        self._armed_at = time.monotonic()
        self._passes = 0
        self._struck = False

    def __call__(self, module: nn.Module, _inputs: object, output: Tensor) -> Tensor | None:
        if not module.training:
            return None
        self._passes += 1
        if not self._struck and self._due():
            self._struck = True
            self._announce()
            return _FIRST[self._fault.kind](self._fault, output)
        if self._struck and self._fault.kind == "straggler":
            time.sleep(self._fault.delay)
        return None

    def _due(self) -> bool:
        if self._fault.step is not None:
            return self._passes >= self._fault.step
        return time.monotonic() - self._armed_at >= self._fault.seconds

    def _announce(self) -> None:
        what = KINDS[self._fault.kind].format(delay=self._fault.delay)
        print(f"FAULT {self._fault.kind} on rank {self._fault.rank}: {what}", flush=True)  # noqa: T201


def _nan(_fault: Fault, output: Tensor) -> Tensor:
    return output * math.nan


def _straggle(fault: Fault, output: Tensor) -> Tensor:
    time.sleep(fault.delay)
    return output


def _hang(_fault: Fault, output: Tensor) -> Tensor:
    os.kill(os.getpid(), signal.SIGSTOP)
    return output


def _crash(_fault: Fault, output: Tensor) -> Tensor:
    os.kill(os.getpid(), signal.SIGKILL)
    return output


_FIRST: dict[str, Callable[[Fault, Tensor], Tensor]] = {
    "nan": _nan,
    "straggler": _straggle,
    "hang": _hang,
    "crash": _crash,
}
