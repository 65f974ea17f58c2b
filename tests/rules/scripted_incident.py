"""Whole incidents by script: what the processes of a run serve, and what ought to be said of it.

Times are in minutes. What is scraped follows from the script alone: when a process starts, works, ends and
how, and when its target answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

#: An evaluation and a scrape each so many seconds; the exporter serves an ended rank for a minute.
SCRAPE_SECONDS = 30
LINGER_MINUTES = 1.0
STATES = ("running", "finished", "failed", "exited", "crashed")
Span = tuple[float, float]


@dataclass(frozen=True)
class Process:
    """A process of a rank.

    Attributes:
        end: when it ends; it never does by default.
        state: how it ends. `vanished` is served no more from its end on.
        host: where it runs; each host has an exporter.
        idle: from when to when it makes no step and does no other work either.
        not_finite: from when to when it logs NaN.
        cause: the exception by which it fails, and of what kind that is.
        linger: how long it is served after its end.
        duration: how long a step takes, in seconds.
        steps: whether it makes any; one that does not only logs.
        first_step: how long it takes from its start to the first step.
    """

    rank: int
    start: float = 0.5
    end: float = 1e6
    state: str = "finished"
    host: str = "a"
    world: int = 2
    idle: Span = (1e6, 1e6)
    not_finite: Span = (1e6, 1e6)
    cause: tuple[str, str] = ("", "")
    linger: float = LINGER_MINUTES
    duration: float = 1.0
    steps: bool = True
    first_step: float = 0.5

    def work_seconds(self, now: float) -> float:
        """For how long it has made steps."""
        until = min(now, self.end)
        idle = max(0.0, min(until, self.idle[1]) - self.idle[0])
        return 60 * max(0.0, until - self.start - self.first_step - idle) * self.steps


@dataclass(frozen=True)
class Message:
    """What ought to be said of a run: one alert, from its first message to the one that closes it.

    Attributes:
        rank: the rank that it names, if it names one in its labels; `host` likewise.
        begin: the minutes within which it begins to fire.
        end: those within which it does so last; none where it is open to the end.
        closed: the value of the recorded series that says why it is over.
        times: how often it does so.
    """

    alert: str
    begin: Span
    end: Span | None = None
    closed: int | None = None
    rank: int | None = None
    host: str = ""
    times: int = 1


@dataclass(frozen=True)
class Incident:
    """A run in which something happens, or a quiet one.

    Attributes:
        text: what happens, in one sentence.
        down: of each host, from when to when its target does not answer.
        gone: of each host, when its target leaves the discovery for good.
        behind: of each host, by how many seconds its clock is behind.
        monitors: the jobs that scrape each host.
    """

    run: str
    text: str
    processes: tuple[Process, ...]
    messages: tuple[Message, ...] = ()
    down: Mapping[str, Span] = field(default_factory=dict)
    gone: Mapping[str, float] = field(default_factory=dict)
    behind: Mapping[str, float] = field(default_factory=dict)
    monitors: tuple[str, ...] = ("j",)
    cluster: str = "one"

    def series(self, minutes: float) -> dict[str, str]:
        """The values of each series in the notation of promtool."""
        ticks = int(minutes * 60) // SCRAPE_SECONDS
        found: dict[str, dict[int, float]] = {}
        for tick in range(ticks + 1):
            now = tick * SCRAPE_SECONDS / 60
            for job in self.monitors:
                for name, value in self._scraped(job, now):
                    found.setdefault(name, {})[tick] = value
        return {name: _notation(values, ticks) for name, values in found.items()}

    def _scraped(self, job: str, now: float) -> Iterator[tuple[str, float]]:
        for host in sorted({process.host for process in self.processes}):
            if now >= self.gone.get(host, 1e6):
                continue
            target = f'cluster="{self.cluster}",namespace="n",job="{job}",instance="{self.run}-{host}:1"'
            first, last = self.down.get(host, (1e6, 1e6))
            # The last process of a rank to start on a host has taken over the box of the one before.
            boxes = {p.rank: p for p in self.processes if p.host == host and p.start <= now}
            served = [p for p in boxes.values() if now < p.end + p.linger * (p.state != "vanished")]
            yield f"up{{{target}}}", float(not first <= now < last)
            if not first <= now < last and served:
                yield f"trainbeacon_clock_timestamp_seconds{{{target}}}", 60 * now - self.behind.get(host, 0)
                for process in served:
                    yield from self._rank(process, target, now)

    def _rank(self, process: Process, target: str, now: float) -> Iterator[tuple[str, float]]:
        clock = -self.behind.get(process.host, 0.0)
        of = f'{target},run="{self.run}",rank="{process.rank}"'
        running = now < process.end
        state = "running" if running else process.state
        for each in STATES:
            yield f'training_state{{{of},state="{each}"}}', float(each == state)
        yield f'training_rank_info{{{of},local_rank="0",hostname="{process.host}",gpu="",gpu_uuid=""}}', 1
        yield f"training_start_timestamp_seconds{{{of}}}", 60 * process.start + clock
        yield f"training_heartbeat_timestamp_seconds{{{of}}}", 60 * min(now, process.end) + clock
        yield f"training_world_size{{{of}}}", process.world
        work = process.work_seconds(now)
        steps = work // process.duration
        yield f"training_steps_total{{{of}}}", steps
        not_finite = process.not_finite[0] <= now < process.not_finite[1]
        if steps or not process.steps:
            yield f'training_loss{{{of},split="train"}}', float("nan") if not_finite else 2.0
        bad = 60 * max(0.0, min(now, process.end, process.not_finite[1]) - process.not_finite[0])
        yield f"training_loss_nonfinite_total{{{of}}}", bad // process.duration
        if steps:
            worked = min(now, process.end)
            last = min(worked, process.idle[0]) if worked < process.idle[1] else worked
            yield f"training_last_step_timestamp_seconds{{{of}}}", 60 * last + clock
            yield f"training_step{{{of}}}", 60 * process.start + steps
            yield f"training_step_duration_seconds_sum{{{of}}}", work
            yield f"training_step_duration_seconds_count{{{of}}}", steps
            yield f'training_learning_rate{{{of},group="0"}}', 0.001
        phase = "init" if process.steps and not steps else "forward"
        if running:
            yield f'training_phase{{{of},phase="{phase}"}}', 1
            idle = process.idle[0] <= now < process.idle[1]
            yield f"training_inactive_seconds{{{of}}}", 60 * (now - process.idle[0]) if idle else 0
        elif process.cause[0]:
            exception, kind = process.cause
            yield f'training_failure_info{{{of},exception="{exception}",kind="{kind}"}}', 1
            yield f"training_failure_timestamp_seconds{{{of}}}", 60 * process.end + clock
        elif process.state == "crashed":
            yield f"training_end_timestamp_seconds{{{of}}}", 60 * process.end + clock
        if process.rank == 0:
            yield f'training_run_info{{{target},run="{self.run}",run_id="i",owner="ann"}}', 1


def _notation(values: Mapping[int, float], ticks: int) -> str:
    samples: list[str] = []
    for tick in range(ticks + 1):
        ended = tick not in values and tick - 1 in values
        samples.append(
            f"{values[tick]:.12g}".replace("nan", "NaN") if tick in values else "stale" if ended else "_"
        )
    return " ".join(samples)
