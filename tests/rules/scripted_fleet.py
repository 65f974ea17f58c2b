"""A fleet by script: what its runs serve, as series of promtool, and what each of their GPUs was held for.

The truth is added up from the script alone, second by second; nothing of it is read from what is served.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from trainbeacon import catalogue

#: A scrape each so many seconds; the exporter serves an ended rank for a minute.
SCRAPE_SECONDS = 15
LINGER_SECONDS = 60
#: What rank 0's account knows of a step that hangs: nothing for a minute.
PATIENCE_SECONDS = 60
HANG = "hang"
#: The state of ranks of which nothing more is served than that they ran.
VANISHED = "vanished"
#: What the script calls a thing, and what it is counted as.
COUNTED_AS = {
    "init": "startup",
    "productive": "productive",
    "data_wait": "data_wait",
    "evaluate": "evaluation",
    "checkpoint": "checkpoint",
    "lost": "restart",
    "other": "other",
    HANG: "stalled",
}


@dataclass(frozen=True)
class Attempt:
    """The processes of a run from one start to their end.

    Attributes:
        start: when, in seconds.
        parts: what it does one after another, and for how long.
        state: how all of it ends.
        dead: the ranks that end before the others, and how many seconds after the start.
    """

    start: float
    parts: tuple[tuple[str, float], ...]
    state: str = "finished"
    dead: Mapping[int, float] = field(default_factory=dict)

    @property
    def end(self) -> float:
        """When its last rank ends."""
        return self.start + sum(seconds for _, seconds in self.parts)

    def spent(self, now: float) -> dict[str, float]:
        """Seconds of each part up to a moment."""
        left, spent = now - self.start, dict.fromkeys(COUNTED_AS, 0.0)
        for kind, seconds in self.parts:
            spent[kind] += max(0.0, min(left, seconds))
            left -= seconds
        return spent

    def last_step(self, now: float) -> float:
        """When it made its last step before a moment."""
        last, at = self.start, self.start
        for kind, seconds in self.parts:
            if kind in ("productive", "lost") and at < now:
                last = min(now, at + seconds)
            at += seconds
        return last

    def account(self, now: float) -> dict[str, float]:
        """The counters of rank 0 at a moment."""
        spent = self.spent(now)
        hang = spent.pop(HANG)
        return (
            dict.fromkeys(catalogue.GOODPUT_KINDS, 0.0)
            | spent
            | {"stalled": max(0.0, hang - PATIENCE_SECONDS)}
        )


@dataclass(frozen=True)
class Run:
    """A run, its ranks on GPUs of one host.

    Attributes:
        gpus: the UUIDs of the ranks' GPUs, one a rank; empty where NVML sees none.
        gap: from when to when nobody scrapes it.
        accounts: whether rank 0 keeps accounts.
        straggler: the rank that takes 0.2 s more than the others for a step of a second, if there is one.
    """

    name: str
    gpus: tuple[str, ...]
    attempts: tuple[Attempt, ...]
    cluster: str = "one"
    project: str = "vision"
    owner: str = "ann"
    gap: tuple[float, float] = (0.0, 0.0)
    accounts: bool = True
    straggler: int | None = None

    def series(self, seconds: int) -> dict[str, list[str]]:
        """What is scraped: the samples of each series, `_` where there is none."""
        found: dict[str, list[str]] = {}
        for number in range(seconds // SCRAPE_SECONDS + 1):
            now = number * SCRAPE_SECONDS
            if not self.gap[0] <= now < self.gap[1]:
                for name, value in self._served(now):
                    samples = found.setdefault(name, [])
                    samples += ["_"] * (number - len(samples)) + [f"{value:g}"]
            for samples in found.values():
                samples += ["stale"] * (len(samples) == number and samples[-1] not in ("stale", "_"))
                samples += ["_"] * (number + 1 - len(samples))
        return found

    def _served(self, now: float) -> Iterator[tuple[str, float]]:
        begun = [attempt for attempt in self.attempts if attempt.start <= now]
        if not begun or now > begun[-1].end + LINGER_SECONDS:
            return
        attempt = begun[-1]
        place = f'cluster="{self.cluster}",namespace="n",job="j",instance="{self.name}:1",run="{self.name}"'
        for rank, gpu in enumerate(self.gpus):
            end = attempt.start + attempt.dead[rank] if rank in attempt.dead else attempt.end
            yield from self._rank(f'{place},rank="{rank}"', attempt, rank, gpu, now, end)
        yield f'training_run_info{{{place},run_id="i",project="{self.project}",owner="{self.owner}"}}', 1
        for kind, total in attempt.account(now).items() if self.accounts else ():
            yield f'training_goodput_seconds_total{{{place},kind="{kind}"}}', total

    def _rank(
        self, of: str, attempt: Attempt, rank: int, gpu: str, now: float, end: float
    ) -> Iterator[tuple[str, float]]:
        if now > end + LINGER_SECONDS * (attempt.state != VANISHED):
            return
        state = "running" if now < end else "crashed" if rank in attempt.dead else attempt.state
        for each in ("running", "finished", "failed", "crashed"):
            yield f'training_state{{{of},state="{each}"}}', float(each == state)
        where = (
            f'local_rank="{rank}",hostname="{self.name}-host",gpu="{rank if gpu else ""}",gpu_uuid="{gpu}"'
        )
        yield f"training_rank_info{{{of},{where}}}", 1
        yield f"training_start_timestamp_seconds{{{of}}}", attempt.start
        yield f"training_heartbeat_timestamp_seconds{{{of}}}", min(now, end)
        yield f"training_world_size{{{of}}}", len(self.gpus)
        spent = attempt.spent(min(now, end))
        steps = spent["productive"] + spent["lost"]  # of a second each
        yield f"training_steps_total{{{of}}}", steps
        yield f"training_last_step_timestamp_seconds{{{of}}}", attempt.last_step(min(now, end))
        yield f"training_step_duration_seconds_sum{{{of}}}", steps
        yield f"training_step_duration_seconds_count{{{of}}}", steps
        own = 0.0 if self.straggler is None else 0.7 if rank == self.straggler else 0.5
        if own:
            yield f'training_self_seconds_total{{{of},cause="forward"}}', own * steps
        if now >= end:
            yield f"training_end_timestamp_seconds{{{of}}}", end

    def truth(self, shares: Mapping[str, int]) -> dict[str, float]:
        """GPU-seconds by kind. `shares` has how many ranks of all runs are on a GPU."""
        found: dict[str, float] = {}
        gpus = sum(1 / shares[gpu] if gpu else 1 for gpu in self.gpus)
        before: Attempt | None = None
        for attempt in self.attempts:
            again = before is not None and before.state != "finished"
            if again and before is not None and attempt.start - before.end <= 900:
                _add(found, "restart", gpus * (attempt.start - before.end))
            for kind, seconds in attempt.spent(attempt.end).items():
                counted = "restart" if kind == "init" and again else COUNTED_AS[kind]
                _add(found, counted, gpus * seconds)
            for after in attempt.dead.values():
                idle = attempt.end - attempt.start - after
                _add(found, "idle", idle)
                _add(found, "stalled", -idle)
            before = attempt
        if self.straggler is not None:
            found["straggler"] = 0.2 * found["productive"]
            found["productive"] *= 0.8
        if not self.accounts:
            return {"unknown": sum(found.values())}
        return found


def _add(found: dict[str, float], kind: str, seconds: float) -> None:
    if seconds:
        found[kind] = found.get(kind, 0.0) + seconds
