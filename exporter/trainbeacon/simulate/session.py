"""The command `trainbeacon simulate`: a fleet on loopback until Ctrl-C or the end of its time."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from trainbeacon.blackbox import files

from .fleet import Fleet, Size, remove_targets, write_targets
from .scenarios import Injection, Plan

TICK_SECONDS = 1.0
PROGRESS_SECONDS = 30.0
CLEANING_SECONDS = 30.0
_MOST_LINES = 8


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    size: Size = field(default_factory=Size)
    plan: Plan = field(default_factory=Plan)
    speed: float = 1.0
    seed: int = 0
    port: int = 0
    duration: float | None = None
    sd_dir: str | None = None
    truth: str | None = None


class Session:
    """One fleet from start to end, with what is printed about it."""

    def __init__(self, options: Options, out: TextIO | None = None) -> None:
        self._options = options
        self._out = out or sys.stdout
        self._over = threading.Event()
        self._started = time.time()
        self.fleet = Fleet(
            options.size,
            seed=options.seed,
            speed=options.speed,
            clock=time.time,
            spares=options.plan.spares,
        )
        self.injections = options.plan.arm(self.fleet)
        self._told: dict[int, str] = {}

    def run(self) -> int:
        """Serve until the end of the duration or `stop`; returns the exit status."""
        target_file = None
        try:
            self.fleet.update()
            self.fleet.serve(self._options.port)
            if self._options.sd_dir:
                target_file = write_targets(self._options.sd_dir, self.fleet)
            self._announce(target_file)
            self._serve()
        finally:
            if target_file:
                remove_targets(target_file)
            self.fleet.close()
        self._say("ended")
        return 0

    def stop(self, *_: Any) -> None:
        """Have `run` return soon; may be called from a signal handler."""
        self._over.set()

    def _serve(self) -> None:
        now = self._started
        ends = None if self._options.duration is None else self._started + self._options.duration
        progress, cleaning = now + PROGRESS_SECONDS, now + CLEANING_SECONDS
        self._tell_truth()
        while not self._over.wait(TICK_SECONDS) and (ends is None or now < ends):
            now = time.time()
            self._turn()
            if now >= cleaning:
                cleaning = now + CLEANING_SECONDS
                self.fleet.clean()
            if now >= progress:
                progress = now + PROGRESS_SECONDS
                self._say_progress(now)

    def _turn(self) -> None:
        """What happens once a second, also while nobody scrapes."""
        if self.fleet.in_memory:
            self.fleet.advance()  # its boxes are written when they are scraped
        else:
            self.fleet.update()
        self.fleet.match_servers()
        self._tell_truth()

    # What is said

    def _announce(self, target_file: str | None) -> None:
        size, nodes = self._options.size, self.fleet.nodes
        self._say(
            f"{size.ranks} ranks of {size.runs} run(s) on {len(nodes)} node(s), seed {self._options.seed}"
        )
        for run in self.fleet.runs[:_MOST_LINES]:
            self._say(f"  {run.name}: {len(run.ranks)} ranks, a step every {run.step_duration():.3g} s")
        if len(self.fleet.runs) > _MOST_LINES:
            self._say(f"  and {len(self.fleet.runs) - _MOST_LINES} more")
        self._say(
            f"targets: {nodes[0].address} to {nodes[-1].address}"
            if len(nodes) > 1
            else f"target: {nodes[0].address}"
        )
        if target_file:
            self._say(f"for Prometheus' file_sd_configs: {target_file}")
        self._say(f"look: curl -s http://{nodes[0].address}/metrics | grep training_loss")
        self._say_scenarios()

    def _say_scenarios(self) -> None:
        if not self.injections:
            self._say("no scenario: all runs are healthy")
            return
        self._say(f"{'scenario':<20}{'run':<22}{'rank':>5}  {'node':<14}{'begins at':<10} what")
        for one in self.injections:
            rank = "" if one.rank is None else str(one.rank)
            at = f"{one.planned - self._started:.0f} s"
            self._say(f"{one.scenario:<20}{one.run:<22}{rank:>5}  {one.hostname:<14}{at:<10} {one.summary}")

    def _say_progress(self, now: float) -> None:
        runs = self.fleet.runs[:_MOST_LINES]
        states = ", ".join(f"{run.name} {run.stage} at step {run.step}" for run in runs)
        self._say(f"{now - self._started:6.0f} s  {states}")

    def _tell_truth(self) -> None:
        """Say what has begun or ended since, and write it down."""
        changed = False
        for number, one in enumerate(self.injections):
            state = "over" if one.over else "struck" if one.struck else "planned"
            if self._told.get(number) != state:
                changed, self._told[number] = True, state
                if state != "planned":
                    rank = "" if one.rank is None else f", rank {one.rank} on {one.hostname}"
                    self._say(f"{state}: {one.scenario} ({one.run}{rank})")
        if self._options.truth and (changed or not self.injections):
            write_truth(self._options.truth, self.injections)

    def _say(self, text: str) -> None:
        print(text, file=self._out, flush=True)


def write_truth(path: str, injections: Sequence[Injection]) -> None:
    """Write what is amiss, when and where, as JSON."""
    text = json.dumps([one.as_json() for one in injections], indent=1) + "\n"
    files.replace(path, text.encode(), mode=0o644)
