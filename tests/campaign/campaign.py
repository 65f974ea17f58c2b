"""Plays many injections at once under one Prometheus and Alertmanager, and keeps each outcome as it comes."""

from __future__ import annotations

import json
import os
import queue
import tempfile
import threading
import time
import traceback
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.campaign.incidents import Inbox, Incident
from tests.campaign.injections import Injection
from tests.campaign.jobs import Nursery
from tests.campaign.judge import Outcome, Told, without_run
from tests.campaign.simulated import FIRST_NUMBER, Simulation
from tests.serving import REPOSITORY
from trainbeacon.stack.ports import port_is_free
from trainbeacon.stack.processes import wait_until
from trainbeacon.stack.stack import Stack

INTERVAL_SECONDS = 5.0
#: An exporter takes the next of 16 ports where its own is taken: so far apart, none takes another's.
FIRST_PORT, PORTS_APART = 21000, 20
#: Between the beginnings of two jobs, so that they do not all start at once.
BREATH_SECONDS = 2.0


class ShippedStack(Stack):
    """Prometheus with the shipped rules at 5 s, Alertmanager with the shipped routes (and waits)."""

    def __init__(self, targets: Sequence[str], longest_wait: float | None = None) -> None:
        self.inbox = Inbox()
        super().__init__(
            targets,
            interval=INTERVAL_SECONDS,
            longest_wait=longest_wait,
            receiver=self.inbox,
            prometheus_flags=["--web.enable-admin-api"],
        )

    def forget(self, run: str) -> None:
        """Have Prometheus delete all series of a run.

        Jobs that ended badly stay alerts for a quarter of an hour. A site has a few of them; here they would
        come to hundreds, and Prometheus would write their texts anew at each evaluation.
        """
        query = urllib.parse.urlencode({"match[]": f'{{run="{run}"}}'})
        address = f"{self.prometheus_url}/api/v1/admin/tsdb/delete_series?{query}"
        with urllib.request.urlopen(urllib.request.Request(address, method="POST"), timeout=30.0):
            pass


@dataclass
class Slots:
    """Pairs of ports, each of which one job has at a time."""

    count: int
    first_port: int = FIRST_PORT
    free: queue.Queue[tuple[int, int]] = field(default_factory=queue.Queue)

    def __post_init__(self) -> None:
        port = self.first_port
        while self.free.qsize() < self.count:
            pair = (port, port + PORTS_APART)
            port += 2 * PORTS_APART
            if all(port_is_free(each) for each in pair):
                self.free.put(pair)
        self.targets = [f"127.0.0.1:{port}" for pair in list(self.free.queue) for port in pair]


class Log:
    """The outcomes, a line of JSON each, in a file that a campaign which was stopped goes on with."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turn = threading.Lock()
        self.outcomes = read_outcomes(path)

    @property
    def numbers(self) -> set[int]:
        """Injections that need not be played again."""
        return {each.number for each in self.outcomes}

    def add(self, outcome: Outcome) -> None:
        """Keep one."""
        with self._turn, self._path.open("a") as file:
            self.outcomes.append(outcome)
            file.write(json.dumps(asdict(outcome)) + "\n")


def read_outcomes(path: Path) -> list[Outcome]:
    """The outcomes of a file; none of one that is not there."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [_outcome(line) for line in lines]


def _outcome(line: str) -> Outcome:
    found = json.loads(line)
    for name in ("named", "false_alarms", "consequences"):
        found[name] = tuple(found[name])
    found["told"] = [Told(**{**told, "named": tuple(told["named"])}) for told in found["told"]]
    return Outcome(**found)


def play(
    injections: Sequence[Injection],
    log: Log,
    *,
    slots: int,
    minutes: float,
    first_port: int = FIRST_PORT,
    simulated: Sequence[str] = (),
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> list[str]:
    """Play those of the injections that the log does not hold yet, that many at once.

    Returns:
        the alerts that concern no run, and what could not be judged because the campaign itself failed there.
    """
    left = [each for each in injections if each.number not in log.numbers]
    ports, end = Slots(min(slots, len(left)), first_port), time.time() + 60 * minutes
    with ExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="trainbeacon-campaign-")))
        simulation = Simulation(simulated if FIRST_NUMBER not in log.numbers else (), seed, folder)
        stack = closing.enter_context(ShippedStack([*ports.targets, *simulation.targets]))
        if simulation.targets:
            closing.enter_context(simulation)
        nursery = closing.enter_context(Nursery(folder / "nursery.log"))
        players = _Players(left, log, nursery, stack, ports, folder, end, say)
        players.play()
        if simulation.targets:
            wait_until(lambda: simulation.over, end - time.time(), every=1.0)
            for outcome in simulation.outcomes(stack.inbox.messages):
                log.add(outcome)
                say(
                    f"{outcome.verdict} {outcome.run} {outcome.kind} {outcome.seconds} {outcome.false_alarms}"
                )
        found = without_run(stack.inbox.messages, simulation.targets)
        odd = [f"{each.alert}: {dict(each.labels)}".replace(f"{REPOSITORY}/", "") for each in found]
    return odd + players.failed


class _Players:
    """Threads that take one injection after the other."""

    def __init__(
        self,
        injections: Sequence[Injection],
        log: Log,
        nursery: Nursery,
        stack: ShippedStack,
        ports: Slots,
        folder: Path,
        end: float,
        say: Callable[[str], None],
    ) -> None:
        self._left = list(injections)
        self._all = len(injections)
        self._done = 0
        self._log, self._nursery, self._stack, self._ports = log, nursery, stack, ports
        self._folder, self._end, self._say = folder, end, say
        self._turn = threading.Lock()
        self._begun = time.time()
        self._next_start = 0.0
        self.failed: list[str] = []

    def play(self) -> None:
        """All of them; returns at the end."""
        threads = [
            threading.Thread(target=self._one_after_another, daemon=True) for _ in range(self._ports.count)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _one_after_another(self) -> None:
        while (injection := self._take()) is not None:
            ports = self._ports.free.get()
            try:
                outcome = Incident(injection, self._nursery, self._stack.inbox, ports, self._folder).play()
                self._stack.forget(injection.run)
                self._log.add(outcome)
                self._tell(outcome)
            except Exception:
                self.failed.append(f"{injection.run}: {traceback.format_exc()}")
                self._say(self.failed[-1])
            finally:
                self._ports.free.put(ports)

    def _take(self) -> Injection | None:
        """The next one that can be over in time, when it is its turn to start."""
        with self._turn:
            chosen = next((each for each in self._left if time.time() + each.lasts < self._end), None)
            if chosen is None:
                return None
            self._left.remove(chosen)
            start = max(time.time(), self._next_start)
            self._next_start = start + BREATH_SECONDS
        time.sleep(start - time.time() if start > time.time() else 0.0)
        return chosen

    def _tell(self, outcome: Outcome) -> None:
        with self._turn:
            self._done += 1
            passed = time.time() - self._begun
            eta = passed / self._done * (self._all - self._done)
            alarms = f" FALSE {','.join(outcome.false_alarms)}" if outcome.false_alarms else ""
            over = f", end {outcome.ending} {outcome.ending_seconds} s" if outcome.ending else ""
            self._say(
                f"{self._done}/{self._all} {passed:.0f} s, {eta:.0f} s left, load {os.getloadavg()[0]:.1f}: "
                f"{outcome.verdict} {outcome.run} victim {outcome.victim} of {outcome.world_size}: "
                f"{outcome.seconds} s, named {','.join(outcome.named)} {outcome.culprit}, "
                f"{outcome.messages} messages{over}{alarms}"
            )
