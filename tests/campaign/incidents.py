"""Plays one injection: starts its job, lets the fault happen, and waits for what somebody is notified of."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from tests.campaign.injections import Injection
from tests.campaign.jobs import Nursery, Running, wait_for_ports
from tests.campaign.judge import Ending, Message, Outcome, ending_of, is_culprit, told_about, verdict_of
from tests.campaign.kinds import BY_NAME, Kind
from tests.campaign.rank import Job
from trainbeacon.stack.processes import wait_until
from trainbeacon.stack.receiver import Notification, Receiver, parse

#: For a job to make its first steps, and for its fault to strike (a checkpoint comes every so often).
START_SECONDS, STRIKE_SECONDS = 120.0, 60.0
RESTARTS = 7
#: What a launcher takes for a restart, importing torch above all, which the nursery has done before.
RESTART_SECONDS = 6.0
HEALTHY_STEPS = 300
#: After the message that it is over.
AFTER_END_SECONDS = 20.0


class Inbox(Receiver):
    """The webhook: keeps every message with its time."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._lock = threading.Lock()
        super().__init__()

    @property
    def messages(self) -> list[Message]:
        """All of them so far, in order of arrival."""
        with self._lock:
            return list(self._messages)

    def _take(self, payload: bytes) -> None:
        alerts: tuple[Notification, ...] = tuple(parse(payload))
        with self._lock:
            self._messages.append(Message(time.time(), alerts))
        super()._take(payload)


class Incident:
    """One injection on its way. `ports` are two of its own, which Prometheus scrapes."""

    def __init__(
        self, injection: Injection, nursery: Nursery, inbox: Inbox, ports: tuple[int, int], folder: Path
    ) -> None:
        self.injection = injection
        self.kind: Kind = BY_NAME[injection.kind]
        self._nursery = nursery
        self._inbox = inbox
        self._ports = ports
        self._folder = folder / injection.run
        self._closing = ExitStack()
        self._victim = str(injection.victim)

    def play(self) -> Outcome:
        """From start to end; blocks for minutes. Raises TimeoutError if the job does not start."""
        wait_for_ports(self._ports)
        self._folder.mkdir(parents=True)
        self._began = time.time()
        with self._closing:
            running = self._start(self._job())
            struck = self._strike(running)
            self._watch(struck)
            over = self._end(running) if self.kind.end and self._is_told() else None
            ended = time.time()
        return self._judge(struck, over, ended)

    def _job(self) -> Job:
        injection, kind = self.injection, self.kind
        nodes = 1 if kind.name == "name_collision" else kind.nodes
        return Job(
            run=injection.run,
            kind=kind.name,
            world_size=injection.world_size,
            victim=injection.victim,
            folder=str(self._folder),
            boxes=tuple(str(self._folder / f"boxes{node}") for node in range(nodes)),
            ports=self._ports[:nodes],
            step_seconds=injection.step_seconds,
            seed=injection.seed,
            serve=kind.serve,
            steps=HEALTHY_STEPS if kind.name in ("healthy", "elastic_resume") else 10**9,
            thresholds=kind.thresholds,
            parameters=injection.parameters,
        )

    def _start(self, job: Job) -> Running:
        if not self.injection.before:
            job.mark.touch()
        running = self._closing.enter_context(Running(self._nursery, job))
        if self.injection.before and not wait_until(lambda: running.moves, START_SECONDS, every=0.2):
            raise TimeoutError(f"{job.run} makes no steps:\n{running.logs()}")
        return running

    # The fault

    def _strike(self, running: Running) -> float:
        """Let it happen; returns when it did."""
        time.sleep(self.injection.before)  # healthy training, which is part of the experiment
        own = _STRIKES.get(self.kind.name)
        if own is not None:
            return own(self, running)
        running.order_fault()
        if not wait_until(lambda: running.struck() is not None, STRIKE_SECONDS, every=0.1):
            raise TimeoutError(f"the fault of {self.injection.run} did not strike:\n{running.logs()}")
        return running.struck() or 0.0

    def _nothing(self, running: Running) -> float:
        return time.time()

    def _time_is_up(self, running: Running) -> float:
        return max(time.time(), self._began + self.kind.thresholds["run_seconds_max"])

    def _kill_all(self, running: Running) -> float:
        self._victim = f"127.0.0.1:{running.job.ports[0]}"
        now = time.time()
        running.end_exporter(0, signal.SIGKILL)
        running.kill_ranks()
        return now

    def _fail_again_and_again(self, running: Running) -> float:
        for attempt in range(RESTARTS):
            if self._is_told():
                break
            if not wait_until(lambda: running.over, START_SECONDS, every=0.2):
                raise TimeoutError(
                    f"attempt {attempt} of {self.injection.run} does not end:\n{running.logs()}"
                )
            if attempt < RESTARTS - 1:
                time.sleep(RESTART_SECONDS)
                running.launch_again()
        return running.struck() or time.time()

    def _collide(self, running: Running) -> float:
        job, node = running.job, int(bool(self.injection.parameters["elsewhere"]))
        folder = self._folder / "second"
        folder.mkdir()
        second = replace(
            job,
            folder=str(folder),
            boxes=(str(self._folder / f"boxes{node}"),),
            ports=(self._ports[node],),
            seed=job.seed + 1,
        )
        now = time.time()
        self._closing.enter_context(Running(self._nursery, second))
        return now

    def _kill_agent(self, running: Running) -> float:
        node = self.injection.victim % len(running.job.ports)
        self._victim = f"127.0.0.1:{running.job.ports[node]}"
        now = time.time()
        running.kill_agent(node)
        return now

    def _kill_exporter(self, running: Running) -> float:
        if not running.end_exporter(0, signal.SIGKILL):
            raise TimeoutError(f"{self.injection.run} has no exporter:\n{running.logs()}")
        return time.time()

    def _resume_smaller(self, running: Running) -> float:
        if not wait_until(lambda: running.over, START_SECONDS + HEALTHY_STEPS, every=0.2):
            raise TimeoutError(f"{self.injection.run} does not end:\n{running.logs()}")
        running.launch_again(world_size=self.injection.world_size - 1, steps=10**9)
        return time.time()

    # What is reported

    def _watch(self, struck: float) -> None:
        """Until an expected alert has arrived and some time is over, or the time for it is."""
        end = struck + (self.kind.within if self.kind.expected else self.kind.after)
        wait_until(self._is_told, end - time.time(), every=0.5)
        if self.kind.expected and self._is_told():
            time.sleep(self.kind.after)  # what else comes is watched for a while

    def _is_told(self) -> bool:
        run, expected = self.injection.run, self.kind.expected
        return any(
            alert.alert in expected for message in self._inbox.messages for alert in message.firing(run)
        )

    # How it ends

    def _end(self, running: Running) -> float:
        """Bring the incident to its end and wait for the message; returns when that was done."""
        if self.kind.end == "leave":
            return time.time()
        over = time.time()
        _ENDS[self.kind.end](self, running)
        left = over + self.kind.end_within - time.time()
        wait_until(lambda: self._ending(over).verdict != "missed", left, every=0.5)
        time.sleep(AFTER_END_SECONDS)  # whether it is reported anew
        return over

    def _restart(self, running: Running) -> None:
        running.start_over()

    def _restart_smaller(self, running: Running) -> None:
        running.start_over(world_size=self.injection.world_size - 1)

    def _go_on(self, running: Running) -> None:
        running.go_on()

    def _start_agent(self, running: Running) -> None:
        running.start_agent(self.injection.victim % len(running.job.ports))

    def _ending(self, over: float) -> Ending:
        messages = [each for each in self._inbox.messages if each.at >= self._began]
        return ending_of(self.injection.run, messages, self.kind, self._began, over)

    def _judge(self, struck: float, over: float | None, ended: float) -> Outcome:
        injection, kind = self.injection, self.kind
        messages = [each for each in self._inbox.messages if self._began <= each.at <= ended]
        ending = None if over is None else self._ending(over)
        told = told_about(injection.run, messages, struck, kind)
        verdict, right, false = verdict_of(kind, told)
        named = right.named if right else ()
        explained = [each.alert for each in told if each not in false and each.alert not in kind.expected]
        return Outcome(
            number=injection.number,
            kind=injection.kind,
            run=injection.run,
            world_size=injection.world_size,
            victim=injection.victim,
            parameters=injection.parameters,
            verdict=verdict,
            seconds=right.seconds if right else None,
            culprit=is_culprit(kind, named, self._victim, injection.world_size) if right else None,
            named=named,
            false_alarms=tuple(each.alert for each in false),
            consequences=tuple(explained),
            messages=sum(each.concerns(injection.run) for each in messages),
            watched_seconds=round(ended - self._began, 1),
            load=os.getloadavg()[0],
            told=told,
            ending=ending.verdict if ending else None,
            ending_seconds=ending.seconds if ending else None,
            closed=ending.closed if ending else "",
        )


_ENDS: dict[str, Callable[[Incident, Running], None]] = {
    "restart": Incident._restart,
    "restart_smaller": Incident._restart_smaller,
    "go_on": Incident._go_on,
    "agent": Incident._start_agent,
}
_STRIKES: dict[str, Callable[[Incident, Running], float]] = {
    "time_limit": Incident._time_is_up,
    "gone_at_once": Incident._kill_all,
    "restart_loop": Incident._fail_again_and_again,
    "name_collision": Incident._collide,
    "exporter_killed": Incident._kill_agent,
    "healthy": Incident._nothing,
    "logs_only": Incident._nothing,
    "elastic_resume": Incident._resume_smaller,
    "exporter_replaced": Incident._kill_exporter,
}
