"""What a run knows of its earlier attempts: one small file beside the checkpoint, written by rank 0.

It is replaced whole, is bounded, and may hold anything when it is read: what cannot be right counts as no
file. Steps are numbers of the run, seconds those of `catalogue.RUN_KINDS`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from trainbeacon import catalogue
from trainbeacon.blackbox import files

FORM = 1
MOST_BYTES = 64 * 1024
MOST_POINTS = 64


class StateError(ValueError):
    """A file that holds no state of a run."""


@dataclass(frozen=True)
class Attempt:
    """How the process that wrote the file stood: enough to go on from its black box (`recovery`)."""

    box: str = ""
    start: float = 0.0
    steps: int = 0
    phases: Mapping[str, float] = field(default_factory=dict)
    """Seconds of each phase."""
    at_step: Mapping[str, float] = field(default_factory=dict)
    """The same up to the end of the last step."""
    limit: float = 0.0
    """Seconds of a step beyond which it is stalled."""


@dataclass(frozen=True)
class RunState:
    """A run over all its attempts, up to `written`.

    Attributes:
        began: Unix time at which the first attempt began.
        written: Unix time up to which the seconds are counted.
        seconds: by kind, of what is settled.
        pending: seconds of a step under way, which are lost if the process dies now.
        step: the last step that was completed, in the numbering of the run.
        furthest: the greatest number that `step` ever had.
        points: of each good checkpoint its step and the productive seconds up to there, ascending.
        finished: whether the last attempt came to its end.
        run_id: of the job of the last attempt, empty where an older version wrote the file.
    """

    began: float
    written: float
    seconds: Mapping[str, float] = field(default_factory=dict)
    pending: float = 0.0
    step: int = 0
    furthest: int = 0
    points: tuple[tuple[int, float], ...] = ()
    finished: bool = False
    run_id: str = ""
    attempt: Attempt = field(default_factory=Attempt)

    def of(self, kind: str) -> float:
        """Seconds of a kind."""
        return self.seconds.get(kind, 0.0)

    @property
    def last_checkpoint(self) -> int:
        """The step of the last good checkpoint, 0 if there was none."""
        return self.points[-1][0] if self.points else 0

    def taken_up(self, start: float) -> RunState:
        """The history of an attempt that begins at `start`: what lies between is idle."""
        idle = self.of("idle") + max(0.0, start - self.written)
        return replace(self, seconds={**self.seconds, "idle": idle}, finished=False)

    def resumed(self, step: int) -> RunState:
        """The history of an attempt that goes on after `step`: what was trained beyond it is lost."""
        kept = self.productive_at(step)
        lost = self.of("lost") + self.of("productive") - kept + self.pending
        points = tuple(point for point in self.points if point[0] <= step)
        seconds = {**self.seconds, "productive": kept, "lost": lost}
        return replace(self, seconds=seconds, pending=0.0, step=step, points=points)

    def productive_at(self, step: int) -> float:
        """Productive seconds up to a step: known at each checkpoint, between them as the steps go by."""
        total = self.of("productive")
        if step >= self.step:
            return total
        before, then = (0, 0.0), (self.step, total)
        for point in (*self.points, then):
            if point[0] >= step:
                then = point
                break
            before = point
        share = (step - before[0]) / (then[0] - before[0]) if then[0] > before[0] else 1.0
        return min(total, before[1] + share * (then[1] - before[1]))

    def to_bytes(self) -> bytes:
        """The content of the file."""
        return json.dumps({"trainbeacon": FORM, **asdict(self)}).encode() + b"\n"


def beside(checkpoint: str | os.PathLike[str], run: str) -> str | None:
    """Where the state of a run is kept if its checkpoints go to that path; None for what is no local path."""
    path = os.fspath(checkpoint)
    if not isinstance(path, str) or "://" in path:
        return None
    folder = os.path.dirname(os.path.abspath(path))
    safe = "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "-_.") else "_" for letter in run
    )
    if safe != run or len(run) > 80:  # runs whose names differ must not share a file
        safe = f"{safe[:80]}-{hashlib.sha256(run.encode(errors='replace')).hexdigest()[:8]}"
    return os.path.join(folder, f"trainbeacon-{safe}.json")


def read(path: str) -> RunState | None:
    """What the file says, None without one. Raises OSError, and StateError for what makes no sense."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise StateError("not a file")
        text = file.read(MOST_BYTES + 1)
    if len(text) > MOST_BYTES:
        raise StateError(f"longer than {MOST_BYTES} bytes")
    try:
        return _state(json.loads(text))
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise StateError(f"it holds no state of a run: {error!r:.100}") from error


def write(path: str, state: RunState) -> None:
    """Replace the file: a reader sees the old one or the new one, after a crash too. Raises OSError."""
    files.replace(path, state.to_bytes(), mode=None, durable=True)


def _state(found: dict[str, object]) -> RunState:
    if found["trainbeacon"] != FORM:
        raise ValueError("another form")
    step = _whole(found["step"])
    return RunState(
        began=_number(found["began"]),
        written=_number(found["written"]),
        seconds=_seconds(found["seconds"], catalogue.RUN_KINDS),
        pending=_number(found["pending"]),
        step=step,
        furthest=max(step, _whole(found["furthest"])),
        points=_points(found["points"], step),
        finished=found["finished"] is True,
        run_id=str(found.get("run_id", ""))[:64],
        attempt=_attempt(found["attempt"]),
    )


def _attempt(found: object) -> Attempt:
    if not isinstance(found, dict):
        raise TypeError("attempt")
    box = str(found["box"])
    return Attempt(
        box=box if os.path.basename(box) == box and len(box) <= 256 else "",
        start=_number(found["start"]),
        steps=_whole(found["steps"]),
        phases=_seconds(found["phases"], catalogue.PHASES),
        at_step=_seconds(found["at_step"], catalogue.PHASES),
        limit=_number(found["limit"]),
    )


def _points(found: object, most: int) -> tuple[tuple[int, float], ...]:
    if not isinstance(found, Sequence) or isinstance(found, str) or len(found) > MOST_POINTS:
        raise TypeError("points")
    points = sorted((_whole(step), _number(seconds)) for step, seconds in found)
    return tuple(point for point in points if point[0] <= most)


def _seconds(found: object, kinds: Sequence[str]) -> dict[str, float]:
    if not isinstance(found, dict):
        raise TypeError("seconds")
    return {kind: _number(found[kind]) for kind in kinds if kind in found}


def _number(value: object) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not math.isfinite(value)
        or value < 0
    ):
        raise ValueError(f"{value!r:.40} is no number of seconds")
    return float(value)


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 53:
        raise ValueError(f"{value!r:.40} is no number of steps")
    return value
