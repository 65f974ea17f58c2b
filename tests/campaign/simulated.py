"""Faults that no process here can have, from `trainbeacon simulate`, at the same Prometheus."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.campaign.judge import Message, Outcome, is_culprit, told_about, verdict_of
from tests.campaign.kinds import BY_NAME, SIMULATED
from trainbeacon.simulate.model.workload import name_of
from trainbeacon.stack import processes
from trainbeacon.stack.ports import port_is_free

FIRST_PORT = 24500
RANKS_A_RUN = 2
#: Simulated runs compile and warm up before they can have a fault.
ONSET_SECONDS = 240.0
FIRST_NUMBER = 1000


class Simulation:
    """A fleet with one run a node, of which each has one fault or none; a context manager."""

    def __init__(self, kinds: Sequence[str], seed: int, folder: Path) -> None:
        self._kinds = list(kinds)
        self._seed = seed
        self._truth = folder / "truth.json"
        self._log = folder / "simulation.log"
        self._port = _free_row(len(self._kinds))
        self.targets = [f"127.0.0.1:{self._port + node}" for node in range(len(self._kinds))]

    def __enter__(self) -> Simulation:
        faults = [kind for kind in self._kinds if BY_NAME[kind].expected]
        count = len(self._kinds)
        line = [sys.executable, "-m", "trainbeacon", "simulate", f"--seed={self._seed}"]
        line += [f"--ranks={RANKS_A_RUN * count}", f"--nodes={count}", f"--runs={count}"]
        line += [f"--port={self._port}", f"--truth={self._truth}", f"--onset={ONSET_SECONDS}"]
        self._began = time.time()
        self._process: subprocess.Popen[str] = processes.start(
            [*line, f"--scenario={','.join(faults)}"], self._log
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        processes.stop([self._process])

    @property
    def over(self) -> bool:
        """Whether the time of every fault is."""
        truth = self._read()
        return bool(truth) and all(
            each["struck"] and time.time() > each["struck"] + BY_NAME[each["scenario"]].within
            for each in truth
        )

    def outcomes(self, messages: Sequence[Message]) -> Iterator[Outcome]:
        """What was told of each run so far."""
        now = time.time()
        truth = {each["run"]: each for each in self._read()}
        for number, kind in enumerate(self._kinds):
            run = name_of(number)
            yield self._judge(number, kind, run, truth.get(run), messages, now)

    def _judge(
        self,
        number: int,
        name: str,
        run: str,
        injection: dict[str, Any] | None,
        messages: Sequence[Message],
        now: float,
    ) -> Outcome:
        kind = BY_NAME[name]
        struck = (injection or {}).get("struck") or self._began
        victim = (injection or {}).get("rank", 0)
        target = self.targets[number]
        told = told_about(run, messages, struck, kind, target)
        verdict, right, false = verdict_of(kind, told)
        named = right.named if right else ()
        return Outcome(
            number=FIRST_NUMBER + number,
            kind=name,
            run=run,
            world_size=RANKS_A_RUN,
            victim=victim,
            parameters={},
            verdict=verdict,
            seconds=right.seconds if right else None,
            culprit=is_culprit(kind, named, str(victim), RANKS_A_RUN) if right else None,
            named=named,
            false_alarms=tuple(each.alert for each in false),
            consequences=tuple(
                each.alert for each in told if each not in false and each.alert not in kind.expected
            ),
            messages=sum(each.concerns(run, target) for each in messages),
            watched_seconds=round(now - self._began, 1),
            load=os.getloadavg()[0],
            told=told,
        )

    def _read(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self._truth.read_text()) if self._truth.exists() else []
        return found


def _free_row(count: int) -> int:
    """The first of that many ports in a row that are free; the simulator would else take others."""
    port = FIRST_PORT
    while not all(port_is_free(each) for each in range(port, port + count)):
        port += count
    return port


def kinds_of_fleet(counts: dict[str, int] | None = None) -> list[str]:
    """The faults of the fleet, the healthy runs last."""
    wanted = {kind.name: kind.count for kind in SIMULATED} if counts is None else counts
    return [kind.name for kind in SIMULATED for _ in range(wanted.get(kind.name, 0))]
