"""Plays incidents on the hosts of a cluster, several at once, and judges them by the messages that arrive."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tests.campaign.campaign import Log
from tests.campaign.judge import (
    Ending,
    Message,
    Outcome,
    Told,
    ending_of,
    is_culprit,
    told_about,
    verdict_of,
    without_run,
)
from tests.cluster.cluster import Cluster
from tests.cluster.faults import Fault, Stage
from tests.cluster.job import Job
from tests.cluster.kinds import BY_NAME
from trainbeacon.stack.processes import wait_until

#: For the message that an incident is over to be followed by one that it is not.
AFTER_END_SECONDS = 10.0
_NOT_GOING_ON = "(training does not go on)"


@dataclass(frozen=True)
class Drawn:
    """One incident, the same from the same seed."""

    number: int
    fault: Fault
    size: int
    victim: int
    before: float
    launcher: str

    @property
    def run(self) -> str:
        """Name of the run, by which messages are distinguished."""
        return f"k{self.number:03d}-{self.fault.kind.name.replace('_', '-')}"


def draw(seed: int, counts: Mapping[str, int]) -> list[Drawn]:
    """So many of each kind; those that take longest come first, those of servers last."""
    dice = random.Random(seed)
    found = [
        Drawn(
            0,
            fault,
            size := dice.choice(fault.kind.worlds),
            size - 1 if fault.clock else dice.randrange(size),
            dice.uniform(*fault.kind.before),
            dice.choice(("fork", "fork", "torchrun")),
        )
        for name, fault in BY_NAME.items()
        for _ in range(counts.get(name, 0))
    ]
    dice.shuffle(found)
    found.sort(key=lambda each: -each.fault.kind.within * bool(each.fault.kind.expected))
    return [replace(each, number=number) for number, each in enumerate(found)]


class Incident:
    """One on its way; at `together` it waits for the others that the absence of a server concerns."""

    def __init__(self, drawn: Drawn, cluster: Cluster, together: threading.Barrier | None) -> None:
        self.drawn, self.fault, self.kind = drawn, drawn.fault, drawn.fault.kind
        self._cluster, self._together = cluster, together

    def play(self) -> Outcome:
        """From start to end. Raises TimeoutError if the job does not start, and what `act` raises."""
        self._began = time.time()
        hosts = self._cluster.take(self.drawn.size)
        fault = self.fault
        self.job = Job(
            self._cluster,
            self.drawn.run,
            hosts,
            launcher=self.drawn.launcher,
            agents=fault.agents,
            clock=fault.clock,
        )
        self._addresses = self.job.targets()
        self._second = Job(self._cluster, f"{self.drawn.run}-b", hosts, user="bob") if fault.second else None
        self._jobs = [self.job, *([self._second] if self._second else [])]
        stage = Stage(self.job, self.drawn.victim)
        try:
            return self._play(stage)
        except BaseException:
            if self._together:
                self._together.abort()
            raise
        finally:
            if stage.wire:
                stage.wire.kill()
                stage.wire.wait()
            for job in self._jobs:
                job.kill()
                with contextlib.suppress(OSError):
                    self._cluster.stack.forget(job.run)
            self._cluster.give_back([*self.job.hosts, *self.job.spent])

    def _play(self, stage: Stage) -> Outcome:
        for job in self._jobs:
            job.start()
        for job in self._jobs:
            job.wait_until_running()
        time.sleep(self.drawn.before)  # healthy training, which is part of the experiment
        struck = self._act(stage)
        end = struck + (self.kind.within if self.kind.expected else 0)
        wait_until(self._is_told, end - time.time(), every=0.5)
        self._midway(stage)
        time.sleep(self.kind.after)
        gone_on = all(job.goes_on() for job in self._going_on())
        over = None
        if self.fault.mend and self._is_told():
            over = time.time()
            self.fault.mend(stage)
            self._addresses |= self.job.targets()
            left = over + self.kind.end_within - time.time()
            wait_until(lambda: self._ending(over).verdict != "missed", left, every=0.5)
            time.sleep(AFTER_END_SECONDS)
        return self._judge(struck, over, gone_on)

    def _going_on(self) -> list[Job]:
        return [self.job] if self.fault.goes_on else [self._second] if self._second else []

    def _act(self, stage: Stage) -> float:
        """Let it happen; returns when it did."""
        struck = time.time()
        if self._together is None or self.fault.midway:
            self.fault.act(stage)
        else:
            # One of them has the server go away; the others meanwhile do what is theirs.
            is_first = self._together.wait(900) == 0
            struck = time.time()
            thread = threading.Thread(target=self.fault.act, args=(stage,))
            if is_first:
                thread.start()
            time.sleep(2)
            if self.fault.act_each:
                self.fault.act_each(stage)
            if is_first:
                thread.join()
            self._together.wait(300)
        self._addresses |= self.job.targets()
        return struck

    def _midway(self, stage: Stage) -> None:
        """What happens while it is reported and not over."""
        if self.fault.midway is None:
            return
        if self._together is None or self._together.wait(900) == 0:
            self.fault.midway(stage)
        if self._together:
            self._together.wait(600)

    # The messages

    def _messages(self) -> list[Message]:
        """With run and rank in those that name a target of the job and not these."""
        found = [each for each in self._cluster.stack.inbox.messages if each.at >= self._began]
        return [replace(each, alerts=tuple(map(self._attribute, each.alerts))) for each in found]

    def _attribute(self, alert: Any) -> Any:
        labels = dict(alert.labels)
        rank = self._addresses.get(labels.get("instance", ""))
        if self._second and labels.get("run") == self._second.run:
            labels["run"] = (
                self.job.run
            )  # it has done nothing: what arrives about it is as wrong as about nobody
            return replace(alert, alert=f"{alert.alert} about the other tenant", labels=labels)
        if rank is not None and labels.get("run", self.job.run) == self.job.run:
            labels = {"run": self.job.run, "rank": rank, **labels}
        return replace(alert, labels=labels)

    def _told(self, struck: float) -> list[Told]:
        return told_about(self.job.run, self._messages(), struck, self.kind)

    def _is_told(self) -> bool:
        return any(told.alert in self.kind.expected for told in self._told(0))

    def _ending(self, over: float) -> Ending:
        return ending_of(self.job.run, self._messages(), self.kind, self._began, over)

    def _judge(self, struck: float, over: float | None, gone_on: bool) -> Outcome:
        drawn, kind, messages = self.drawn, self.kind, self._messages()
        told = self._told(struck)
        verdict, right, false = verdict_of(kind, told)
        ending = self._ending(over) if over is not None else None
        alarms = [each.alert for each in false] + ([] if gone_on else [_NOT_GOING_ON])
        explained = [each.alert for each in told if each not in false and each.alert not in kind.expected]
        named = right.named if right else ()
        return Outcome(
            number=drawn.number,
            kind=kind.name,
            run=drawn.run,
            world_size=drawn.size,
            victim=drawn.victim,
            parameters={"launcher": drawn.launcher},
            verdict="false alarm" if alarms and verdict == "quiet" else verdict,
            seconds=right.seconds if right else None,
            culprit=is_culprit(kind, named, str(drawn.victim), drawn.size) if right else None,
            named=named,
            false_alarms=tuple(alarms),
            consequences=tuple(explained),
            messages=sum(each.concerns(drawn.run) for each in messages),
            watched_seconds=round(time.time() - self._began, 1),
            load=os.getloadavg()[0],
            told=told,
            ending=ending.verdict if ending else None,
            ending_seconds=ending.seconds if ending else None,
            closed=ending.closed if ending else "",
        )


def play(
    drawn: Sequence[Drawn],
    log: Log,
    *,
    slots: int,
    minutes: float,
    longest_wait: float | None = None,
    say: Callable[[str], None] = print,
) -> list[str]:
    """Play those that the log does not hold yet, `slots` at once; begin none after `minutes`.

    `longest_wait` is that of Alertmanager before it sends, as shipped by default.

    Returns:
        the alerts that concern no run and no host, and what could not be played.
    """
    left = [each for each in drawn if each.number not in log.numbers]
    # Every job can have its hosts, and those that move to others have some to move to.
    hosts = min(sum(each.size for each in left) + 4, 3 * slots + 4)
    with Cluster(hosts, longest_wait) as cluster:
        player = _Player(cluster, log, time.monotonic() + 60 * minutes, say)
        alone = [each for each in left if not each.fault.server]
        player.play(alone, slots)
        for name in dict.fromkeys(each.fault.kind.name for each in left if each.fault.server):
            batch = [each for each in left if each.fault.kind.name == name]
            player.play(batch, len(batch), threading.Barrier(len(batch)))
        known = [f"gpu-{number}:{port}" for number in range(hosts) for port in (9797, 9798)]
        beside = [_text(alert) for alert in without_run(cluster.stack.inbox.messages, known)]
    return [*player.failed, *beside]


def _text(alert: Any) -> str:
    return f"{alert.alert}: {alert.annotations.get('description', '')}"


class _Player:
    def __init__(self, cluster: Cluster, log: Log, end: float, say: Callable[[str], None]) -> None:
        self._cluster, self._log, self._end, self._say = cluster, log, end, say
        self.failed: list[str] = []

    def play(self, drawn: Iterable[Drawn], slots: int, together: threading.Barrier | None = None) -> None:
        waiting, turn = list(drawn), threading.Lock()

        def work() -> None:
            while True:
                with turn:
                    if not waiting or time.monotonic() > self._end:
                        return
                    one = waiting.pop(0)
                self._one(one, together)

        threads = [threading.Thread(target=work) for _ in range(slots)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _one(self, drawn: Drawn, together: threading.Barrier | None) -> None:
        try:
            outcome = Incident(drawn, self._cluster, together).play()
        except Exception as error:
            self.failed.append(f"not played: {drawn.run}: {error}")
            self._say(f"{drawn.run}: not played: {traceback.format_exc()}")
            return
        self._log.add(outcome)
        first = f"{outcome.seconds:.0f} s" if outcome.seconds is not None else ""
        about = f"{', '.join(outcome.named)}{'' if outcome.culprit in (None, True) else ' (wrong)'}"
        self._say(
            f"{outcome.run} x{outcome.world_size} {drawn.launcher}: {outcome.verdict} {first} {about};"
            f" end {outcome.ending} {outcome.closed[:60]};"
            f" {', '.join(outcome.false_alarms) or 'nothing else'}; {outcome.messages} messages"
        )
