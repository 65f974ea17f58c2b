"""A simulated run: what its ranks do from moment to moment, with all of its totals.

Training is synchronous: all ranks make a step together, so one set of totals serves the whole run, and a
rank differs from it by its pace and by what a scenario did to it. Time passes in `advance` only, in pieces
of constant rates, so the totals do not depend on how often somebody looks.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Protocol

from trainbeacon import catalogue
from trainbeacon.identity.parallel import Coordinates
from trainbeacon.simulate.box import SimulatedBox

from .learning import Learning
from .noise import normal, uniform
from .rank import MOST_PACE, MOST_STAGE_PACE, STEP_ORDER, Place, Rank
from .trouble import Trouble
from .workload import OWN_PHASES, Workload

#: Opens the black box of a rank: its place, number, attempt and start.
OpenBox = Callable[[Place, int, int, float], SimulatedBox]

#: Writes the present state of a rank into its box.
Write = Callable[["Run", Rank], None]

_NEVER = math.inf
#: Unix time has no finer parts than a quarter of this.
_MOMENT = 1e-6
_WINDOW_SECONDS = 10.0
#: Seconds after which a run without a step writes evidence, and from a crash to the end of its peers.
EVIDENCE_AFTER_SECONDS = 60.0
PEERS_LOST_AFTER_SECONDS = 3.0
CLIP_NORM = 1.0
#: What the time of a stage goes into; of the others, into getting ready.
_KINDS = {"evaluate": "evaluate", "checkpoint": "checkpoint", "hang": "stalled", "down": "idle"}


class Scenario(Protocol):
    """What a run needs to know of a scenario; `in_training` ones wait until the run makes steps."""

    begins: float
    ends: float

    @property
    def in_training(self) -> bool:
        """Whether it waits until the run makes steps."""

    def begin(self, run: Run) -> None:
        """Strike."""

    def end(self, run: Run) -> None:
        """Be over."""


class Run:
    """One run from its start to its end, over all attempts.

    Attributes:
        stage: what the run is busy with: a phase, or `train`, `hang`, `down` (between attempts), `over`.
        position: steps of the run, with the part of the one under way.
        totals: seconds of this process by phase, as a rank of mean pace spends them.
        trouble: what scenarios have done to it.
        learning: its losses and norms.
    """

    def __init__(
        self,
        name: str,
        workload: Workload,
        seed: int,
        places: Sequence[Place],
        start: float,
        open_box: OpenBox,
        write: Write,
        stages: int = 1,
    ) -> None:
        self.name = name
        self.workload = workload
        self.seed = seed
        self.born = self.now = start
        self.attempt = -1
        self.position = 0.0
        self.furthest = 0
        self.trouble = Trouble()
        self.learning = Learning(workload, seed, self.trouble)
        self.scenarios: list[Scenario] = []
        self.run_seconds = dict.fromkeys(catalogue.RUN_KINDS, 0.0)
        self.checkpoint_step = 0
        self.checkpoint_success: float | None = None
        self._open_box = open_box
        self._write = write
        self.stages = stages
        self._places = list(places)
        self._restart_at = _NEVER
        self._fail_at = _NEVER
        self.ranks: list[Rank] = []
        self._launch(start)

    # Life

    def _launch(self, now: float) -> None:
        """Start all processes of a new attempt from the last good checkpoint."""
        self.attempt += 1
        self.started = now
        self.position = float(self.checkpoint_step)
        self.first_step = self.checkpoint_step
        self.totals = dict.fromkeys(catalogue.PHASES, 0.0)
        self.goodput = dict.fromkeys(catalogue.GOODPUT_KINDS, 0.0)
        self.buckets = [0] * (len(catalogue.STEP_BUCKETS) + 1)
        self.step_seconds = 0.0
        self.lost_steps = self.clipped = self.skipped = 0
        self.checkpoints = self.checkpoint_failures = self.evaluations = 0
        self.checkpoint_seconds = self.checkpoint_write_seconds = 0.0
        self.write_ends = -math.inf
        self.steps_a_second = 0.0
        self.last_step_at: float | None = None
        self.ranks = [self._new_rank(number, place) for number, place in enumerate(self._places)]
        self._restart_at = self._fail_at = _NEVER
        self._enter("init", self.workload.init_seconds)

    def _new_rank(self, number: int, place: Place) -> Rank:
        pace = MOST_PACE * (2.0 * uniform(self.seed, 77, place.node, place.gpu) - 1.0)
        if self.stages > 1:
            pace += MOST_STAGE_PACE * (2.0 * uniform(self.seed, 78, self.stage_of(number)) - 1.0)
        return Rank(number, place, pace, self._open_box(place, number, self.attempt, self.now))

    def stage_of(self, rank: int) -> int:
        """The pipeline stage of a rank; 0 in a run without a pipeline."""
        return rank * self.stages // len(self._places)

    def coordinates(self, rank: Rank) -> tuple[str, ...]:
        """Which part of the work a rank has, as label values in the order of `DIMENSIONS`."""
        if self.stages == 1:
            return Coordinates().labels()
        stage = self.stage_of(rank.number)
        first = -(-stage * len(self._places) // self.stages)
        return Coordinates(stage=stage, data_rank=rank.number - first).labels()

    def move(self, number: int, place: Place) -> None:
        """The next attempt has this rank elsewhere."""
        self._places[number] = place

    def crash(self, victim: int, restart_after: float | None) -> None:
        """A process dies without a word; the others lose their connection, then all start again or none."""
        self._end_rank(self.ranks[victim], None)
        self._lose_peers(restart_after)

    def fail(self, victim: int, exception: str, kind: str, restart_after: float | None) -> None:
        """A process ends by an exception; its peers follow."""
        self._end_rank(self.ranks[victim], "failed", (exception, kind))
        self._lose_peers(restart_after)

    def _lose_peers(self, restart_after: float | None) -> None:
        self._fail_at = self.now + PEERS_LOST_AFTER_SECONDS
        self._restart_at = _NEVER if restart_after is None else self.now + restart_after
        self._stop()

    def hang(self, victim: int, phase: str) -> None:
        """A rank stays where it is for good; the others wait for it in the next collective."""
        self.ranks[victim].stuck_in = phase
        self._stop()

    def relaunch(self) -> None:
        """Somebody ends all processes and starts the run again from its last checkpoint."""
        for rank in self.ranks:
            self._end_rank(rank, None)
        self._launch(self.now)

    def recompile(self, seconds: float) -> None:
        """A new shape of input: the model is compiled again in the middle of training."""
        self.position = float(math.floor(self.position))
        self._enter("compile", seconds)

    def go_on(self) -> None:
        """The rank that hung comes back."""
        for rank in self.ranks:
            rank.stuck_in = ""
        if self.stage == "hang":
            self._enter("train")

    def _stop(self) -> None:
        """No rank goes on: they wait for one of them."""
        self._enter("hang")

    def _end_rank(self, rank: Rank, state: str | None, failure: tuple[str, str] | None = None) -> None:
        """A process ends in this exit state, or without reporting one."""
        if not rank.is_alive:
            return
        self._write(self, rank)
        rank.is_alive = False
        rank.box.set("training_end_timestamp_seconds", self.now)
        if failure is not None:
            rank.box.info("training_failure_info", *failure)
            rank.box.set("training_failure_timestamp_seconds", self.now)
        rank.box.end(state)

    def _end_peers(self) -> None:
        for rank in self.ranks:
            self._end_rank(rank, "failed", ("DistNetworkError", "peer_lost"))
        self._fail_at = _NEVER
        self._enter("down" if self._restart_at < _NEVER else "over")

    def _finish(self) -> None:
        for rank in self.ranks:
            self._end_rank(rank, "finished")
        self._enter("over")

    # Time

    def advance(self, now: float) -> None:
        """Let the run go on until `now`; a moment that is past already changes nothing."""
        while self.now < now:
            self._strike()
            if not self._turn():
                self._pass(min(now, self._next_event()))

    def _next_event(self) -> float:
        times = [self._stage_ends, self._fail_at, self._restart_at]
        if self.stage == "train":
            times.append(self.now + (self._boundary() - self.position) * self.step_duration())
        times += [time for s in self.scenarios for time in (s.begins, s.ends)]
        return min((time for time in times if time > self.now), default=_NEVER)

    def _strike(self) -> None:
        for scenario in list(self.scenarios):
            if scenario.begins <= self.now and (self.stage == "train" or not scenario.in_training):
                scenario.begins = _NEVER
                scenario.begin(self)
            if scenario.ends <= self.now:
                self.scenarios.remove(scenario)
                scenario.end(self)

    def _turn(self) -> bool:
        """Do what is due at this moment; whether anything was."""
        if self.now >= self._fail_at:
            self._end_peers()
        elif self.now >= self._restart_at and self.stage == "down":
            self._launch(self.now)
        elif self.now >= self._stage_ends:
            self._next_stage()
        elif self.stage == "train" and self.position >= self._boundary_due:
            self._at_boundary(int(self._boundary_due))
        else:
            return False
        return True

    def _enter(self, stage: str, seconds: float = _NEVER) -> None:
        self.stage = stage
        self.stage_start = self.now
        self._stage_ends = self.now + seconds
        self._boundary_due = self._boundary() if stage == "train" else _NEVER

    def _next_stage(self) -> None:
        workload = self.workload
        following: dict[str, tuple[str, float]] = {
            "init": ("resume", 0.4 * workload.init_seconds if self.attempt else 0.0),
            "resume": ("compile", workload.compile_seconds * self.trouble.compile_factor),
            "compile": ("warmup", workload.first_step_seconds),
        }
        if self.stage in following:
            self._enter(*following[self.stage])
        elif self.stage == "warmup":
            self._complete_steps(int(self.position) + 1, workload.first_step_seconds)
            self.position = math.floor(self.position) + 1.0
            self._enter("train")
        elif self.stage == "evaluate":
            self.evaluations += 1
            self.learning.evaluated(self.step)
            self._after_pause()
        elif self.stage == "checkpoint":
            self._checkpointed()
            self._enter("train")

    def _boundary(self) -> float:
        workload, step = self.workload, math.floor(self.position)
        nexts = [(step // every + 1) * every for every in (self._evaluate_every, workload.checkpoint_every)]
        return float(min(*nexts, workload.steps_planned))

    @property
    def _evaluate_every(self) -> int:
        return self.workload.evaluate_every * self.trouble.evaluate_one_in

    def _at_boundary(self, step: int) -> None:
        workload = self.workload
        if step % self._evaluate_every == 0:
            self._enter("evaluate", workload.evaluate_seconds * self.trouble.evaluate_factor)
        else:
            self._after_pause()

    def _after_pause(self) -> None:
        """A checkpoint if it is time for one, the end, or the next step."""
        workload, step = self.workload, int(self.position)
        if step >= workload.steps_planned:
            self._finish()
        elif step % workload.checkpoint_every == 0:
            self._enter("checkpoint", workload.checkpoint_seconds * self.trouble.checkpoint_factor)
        else:
            self._enter("train")

    # Totals

    def parts(self) -> dict[str, float]:
        """Seconds of a step by phase, of a rank of mean pace, as things are."""
        parts = {phase: self.workload.step.get(phase, 0.0) for phase in STEP_ORDER}
        parts["data_wait"] += self.trouble.data_wait
        own = sum(parts[phase] for phase in OWN_PHASES)
        parts["communication"] += MOST_PACE * own + self.trouble.slowest_extra()
        return parts

    def step_duration(self) -> float:
        """Seconds of a step as things are."""
        return sum(self.parts().values())

    def _pass(self, until: float) -> None:
        seconds, self.now = until - self.now, until
        if self.stage == "over":
            return
        if self.stage == "train":
            self._train(seconds)
        elif self.stage == "hang":
            self._stand_still(seconds)
        elif self.stage != "down":
            self.totals[self.stage] += seconds
        kind = "" if self.stage == "train" else _KINDS.get(self.stage, "init")
        if kind:
            self._spend(kind, seconds)
        if self.stage != "train":
            self.steps_a_second *= math.exp(-seconds / _WINDOW_SECONDS)

    def _spend(self, kind: str, seconds: float) -> None:
        self.run_seconds[kind] += seconds
        if kind in self.goodput:
            self.goodput[kind] += seconds

    def _stand_still(self, seconds: float) -> None:
        self.totals["communication"] += seconds
        for rank in self.ranks:
            if rank.stuck_in:
                rank.add(rank.stuck_in, seconds)

    def _train(self, seconds: float) -> None:
        parts = self.parts()
        duration = sum(parts.values())
        steps = seconds / duration
        for phase, part in parts.items():
            self.totals[phase] += steps * part
        for number, phases in self.trouble.extra.items():
            for phase, extra in phases.items():
                self.ranks[number].add(phase, steps * extra)
        before = int(self.position)
        self.position += steps
        if (self._boundary_due - self.position) * duration < _MOMENT:
            self.position = self._boundary_due
        kind = "lost" if before < self.furthest else "productive"
        self._complete_steps(int(self.position), duration)
        self._spend("data_wait", steps * parts["data_wait"])
        self._spend(kind, seconds - steps * parts["data_wait"])
        fade = math.exp(-seconds / _WINDOW_SECONDS)
        self.steps_a_second = fade * self.steps_a_second + (1.0 - fade) / duration
        self.step_seconds += seconds

    def _complete_steps(self, last: int, duration: float) -> None:
        first = self.first_step + sum(self.buckets) + 1
        for step in range(first, last + 1):
            scatter = math.exp(0.06 * normal(self.seed, 5, step)) * (
                1.35 if uniform(self.seed, 6, step) > 0.985 else 1
            )
            self.buckets[bisect_left(catalogue.STEP_BUCKETS, duration * scatter)] += 1
            self.clipped += self.learning.gradient_norm(step) > CLIP_NORM
            self.lost_steps += step <= self.furthest
            self.learning.trained(step)
        if last >= first:
            into_next = (self.position - last) * duration if self.stage == "train" else 0.0
            self.last_step_at = self.now - max(0.0, into_next)
            self.furthest = max(self.furthest, last)

    @property
    def step(self) -> int:
        """The last completed step."""
        return int(self.position)

    @property
    def steps_made(self) -> int:
        """Steps completed by this process."""
        return self.step - self.first_step

    def _checkpointed(self) -> None:
        workload, trouble = self.workload, self.trouble
        self.checkpoints += 1
        self.checkpoint_seconds += workload.checkpoint_seconds * trouble.checkpoint_factor
        if trouble.checkpoint_fails:
            self.checkpoint_failures += 1
            return
        write = workload.checkpoint_write_seconds * trouble.checkpoint_factor
        self.checkpoint_write_seconds += write
        self.write_ends = self.now + (write if workload.asynchronous_checkpoints else 0.0)
        self.checkpoint_success, self.checkpoint_step = self.now, self.step
