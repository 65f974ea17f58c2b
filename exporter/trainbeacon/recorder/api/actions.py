"""Letting a run act on what is seen of it: `beacon.on("nonfinite_loss", "stop")`. Only for who asks for it.

What is seen is put into a queue by whichever thread sees it. The training thread looks into the queue at
the end of each step, and calls the script's callbacks there; a run that nobody listens to has none.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from trainbeacon import catalogue
from trainbeacon.blackbox import format as layout
from trainbeacon.config.validation import nearest
from trainbeacon.recorder.core.recorder import Recorder
from trainbeacon.recorder.core.threads import start_thread
from trainbeacon.recorder.hangs.stall_clock import StallClock

#: What can be listened to.
KINDS = ("nonfinite_loss", "nonfinite_gradient", "loss_spike", "stalled")
#: Events that wait for the end of a step; of more the oldest are forgotten.
_MOST_WAITING = 100


@dataclass(frozen=True)
class Event:
    """What was seen.

    Attributes:
        kind: one of `KINDS`.
        step: number of the step that it was seen in; of `stalled`, of the last one that was completed.
        value: the loss, the norm of the gradients, or the seconds without a step.
        split: of a loss `train`, else empty.
    """

    kind: str
    step: int
    value: float
    split: str = ""

    def __str__(self) -> str:
        return f"{self.kind} at step {self.step}: {self.value:g}"


class TrainingStopped(BaseException):
    """Raised in the training thread at the end of a step, because of `beacon.on(kind, "stop")`.

    Like KeyboardInterrupt it is no `Exception`, so that a loop that skips over bad batches does not
    swallow it.

    Attributes:
        event: what was seen.
    """

    def __init__(self, event: Event) -> None:
        super().__init__(str(event))
        self.event = event


#: What a script gives to `beacon.on`; what it returns is not looked at.
Callback = Callable[[Event], object]


class Interventions:
    """The listeners of one run. Made with the first one, so that a run without any pays nothing."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._listeners: dict[str, list[Callback]] = {}
        self._waiting: deque[Event] = deque(maxlen=_MOST_WAITING)
        seconds = recorder.config.thresholds.get("stall_seconds", recorder.config.evidence_seconds)
        self._clock = StallClock(float(seconds), time.monotonic())
        recorder.listener = self._happened
        recorder.timeline.call_after_step(self._act)

    def on(self, kind: str, action: Callback | Literal["stop", "profile"]) -> None:
        """Add a listener.

        Raises:
            ValueError: no such kind, or an action that is neither "stop" nor "profile" nor can be called.
        """
        check(kind, action)
        named = {"stop": _stop, "profile": self._profile}
        self._listeners.setdefault(kind, []).append(named[action] if isinstance(action, str) else action)

    def _profile(self, event: Event) -> None:
        if self._recorder.profile is not None:
            self._recorder.profile()

    def poll(self) -> None:
        """Check whether the training thread is stalled; for the background thread, once a second."""
        if "stalled" not in self._listeners:
            return
        recorder = self._recorder
        numbers, index = recorder.writer.step, recorder.index
        steps = _number(numbers[index["training_steps_total", ()]])
        spent = _number(numbers[index["training_step_duration_seconds", (layout.HISTOGRAM_SUM,)]])
        phase = catalogue.PHASES[int(numbers[index[layout.PHASE_INDEX, ()]])]
        begun = numbers[index[layout.PHASE_START, ()]]
        standing = self._clock.poll(time.monotonic(), steps, phase, begun, spent / steps if steps else 0.0)
        if standing is not None:
            self._stalled(Event("stalled", recorder.timeline.step, standing))

    def _happened(self, kind: str, step: int, value: float) -> None:
        """Something was seen, by any thread."""
        if kind in self._listeners:
            split = "" if kind == "nonfinite_gradient" else "train"
            self._waiting.append(Event(kind, step, value, split))

    def _act(self) -> None:
        """At the end of a step, in the training thread: call whoever listens to what was seen."""
        while self._waiting:
            event = self._waiting.popleft()
            if event.kind == "stalled":  # its callbacks were called then
                raise TrainingStopped(event)
            for listener in self._listeners[event.kind]:
                self._recorder.guard("hooks", listener, event)

    def _stalled(self, event: Event) -> None:
        """The training thread makes no step, so callbacks run in a thread of their own; a stop must wait."""
        if _stop in self._listeners["stalled"]:
            self._waiting.append(event)
        for listener in self._listeners["stalled"]:
            if listener is not _stop:
                call = partial(self._call_apart, listener, event)
                start_thread("trainbeacon-stalled", call)

    def _call_apart(self, listener: Callback, event: Event) -> None:
        try:
            self._recorder.guard("hooks", listener, event)
        except TrainingStopped:  # of the callback's own: in the training thread, if it ever comes back
            self._waiting.append(event)


def check(kind: str, action: object) -> None:
    """Whether `beacon.on` can do that.

    Raises:
        ValueError: it cannot; the text names what may have been meant.
    """
    if kind not in KINDS:
        near = nearest(str(kind), KINDS)
        hint = f"did you mean {near!r}?" if near else f"it is one of {', '.join(KINDS)}"
        raise ValueError(f"on({kind!r}) is not known: {hint}")
    if action == "profile" and kind == "stalled":
        raise ValueError("on('stalled', 'profile') can do nothing: there is no step to profile")
    if action not in ("stop", "profile") and not callable(action):
        raise ValueError(f'on({kind!r}, {action!r}) can do nothing: give a callable, "stop" or "profile"')


def _stop(event: Event) -> None:
    raise TrainingStopped(event)


def _number(value: float) -> float:
    return value if value == value else 0.0  # NaN: never written
