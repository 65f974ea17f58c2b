"""Looks at all sources again and again, in threads, and puts what they show together.

Whoever draws takes the newest `Sight` and never waits for a source.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from trainbeacon.terminal.sources.base import FactSource
from trainbeacon.verdict.conditions import judge
from trainbeacon.verdict.facts import Facts, Rank, Run, RunKey
from trainbeacon.verdict.judge import Finding
from trainbeacon.verdict.peers import compare

_MOST_THREADS = 8
#: A source that has failed for so long shows nothing of its ranks any more.
SECONDS_UNTIL_UNSEEN = 10.0
UNSEEN = "unseen"
SECONDS_BETWEEN_FAILURES = 3.0
_LOSSES_KEPT = 600
_SOURCES_A_SECOND = 50.0


@dataclass(frozen=True)
class Sight:
    """The facts of one moment and what is to be said about them."""

    facts: Facts
    findings: Sequence[Finding] = ()
    processor_seconds: float = 0.0
    """Processor time of this process that the look took."""
    complete: bool = True
    """Whether every source was tried."""
    number: int = 0


class Watch:
    """All sources together. Call `look` from one thread, or `start` one that does so.

    `find` gives the sources of the moment, where they are not the same for good.

    Attributes:
        interval: seconds between two looks; may be changed while it looks.
        sight: what was seen last.
    """

    def __init__(
        self,
        sources: Sequence[FactSource],
        interval: float,
        *,
        find: Callable[[], Sequence[FactSource]] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._find = find
        self.sources = list(sources if find is None else find())
        self.interval = interval
        self._clock = clock
        threads = max(4, min(_MOST_THREADS, len(self.sources)))
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="trainbeacon-look")
        self._under_way: dict[FactSource, Future[bool]] = {}
        self._due: dict[FactSource, float] = {}
        self._losses: dict[RunKey, deque[float]] = {}
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._numbers = 0
        self.sight = Sight(Facts(clock()), complete=False)

    def look(self, patience: float) -> Sight:
        """Read every source that is due, waiting for at most `patience` seconds, and judge what is known."""
        used = time.process_time()
        if self._find is not None:
            self.sources = list(self._find())
        now = time.monotonic()
        for source in self._due_sources(now):
            # One that does not answer holds a thread for seconds: it is asked less often.
            least = SECONDS_BETWEEN_FAILURES if source.state.error else source.seconds
            self._due[source] = now + max(0.0, least - 0.1)
            self._under_way[source] = self._pool.submit(source.read)
        self._under_way = {
            source: running for source, running in self._under_way.items() if source in self.sources
        }
        _, late = wait(self._under_way.values(), timeout=patience)
        facts = self._together()
        self._numbers += 1
        never = any(not source.state.taken_at and not source.state.error for source in self.sources)
        self.sight = Sight(
            facts, judge(facts), time.process_time() - used, not (late and never), self._numbers
        )
        return self.sight

    def _due_sources(self, now: float) -> list[FactSource]:
        """The sources to read now.

        Of very many some at a time, those that waited longest first, so that each look stays cheap.
        """
        idle = [each for each in self.sources if each not in self._under_way or self._under_way[each].done()]
        due = [each for each in idle if now >= self._due.get(each, 0.0)]
        new = [each for each in due if each not in self._due]
        known = sorted((each for each in due if each in self._due), key=lambda each: self._due[each])
        return new + known[: max(1, int(_SOURCES_A_SECOND * self.interval))]

    def start(self, on_sight: Callable[[Sight], None]) -> None:
        """Look every interval in a thread, and hand over what is seen, until `close`."""
        self._thread = threading.Thread(
            target=self._run, args=(on_sight,), name="trainbeacon-watch", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """End the threads, without waiting for sources that do not answer."""
        self._over.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        for source in self.sources:
            if (running := self._under_way.get(source)) is None or running.done():
                source.close()

    def _run(self, on_sight: Callable[[Sight], None]) -> None:
        while not self._over.is_set():
            start = time.monotonic()
            sight = self.look(self.interval)
            if self._over.is_set():
                return
            on_sight(sight)
            self._over.wait(max(0.05, self.interval - (time.monotonic() - start)))

    def _together(self) -> Facts:
        facts = Facts(self._clock())
        runs: dict[RunKey, Run] = {}
        ranks: dict[RunKey, dict[int, Rank]] = {}
        for source in self.sources:
            state, found = source.state, source.found
            facts.sources.append(state)
            alerts = source.alerts()
            if alerts is not None:
                facts.alerts = [*(facts.alerts or ()), *alerts]
            if found is None:
                continue
            if state.error and facts.now - (state.taken_at or 0.0) > SECONDS_UNTIL_UNSEEN:
                _hide(found.runs)
            for key, run in found.runs.items():
                _merge(runs, ranks, key, run)
            facts.gpus += found.gpus
            facts.nodes += found.nodes
        for key, run in sorted(runs.items()):
            run.ranks = [ranks[key][number] for number in sorted(ranks[key])]
            compare(run)
            run.losses = self._past_of(key, run)
            facts.runs.append(run)
        for gone in self._losses.keys() - runs.keys():
            del self._losses[gone]
        return facts

    def _past_of(self, key: RunKey, run: Run) -> Sequence[float]:
        """Losses as the source knows them, else as they were seen here."""
        for source in self.sources:
            if known := source.losses().get(key):
                return known
        seen = self._losses.setdefault(key, deque(maxlen=_LOSSES_KEPT))
        shown = run.ranks[0].loss if run.ranks else None
        if shown is not None and shown == shown and (not seen or seen[-1] != shown):
            seen.append(shown)
        return list(seen)


def _hide(runs: Mapping[RunKey, Run]) -> None:
    """What was seen running may be anything by now."""
    for run in runs.values():
        for rank in run.ranks:
            if rank.running:
                rank.state = UNSEEN


def _merge(runs: dict[RunKey, Run], ranks: dict[RunKey, dict[int, Rank]], key: RunKey, found: Run) -> None:
    """Add what one source knows of a run. Of two processes that had one rank, the newer one counts."""
    run = runs.get(key)
    if run is None:
        run = runs[key] = Run(key)
        ranks[key] = {}
    known = ranks[key]
    for rank in found.ranks:
        other = known.setdefault(rank.number, rank)
        if other is not rank and (rank.started or 0.0) >= (other.started or 0.0):
            known[rank.number] = rank
    sizes = [size for size in (run.world_size, found.world_size) if size is not None]
    run.world_size = max(sizes, default=None)
    run.thresholds = {**run.thresholds, **found.thresholds}
    for name in _OF_THE_RUN:
        if getattr(run, name) in (None, ""):
            setattr(run, name, getattr(found, name))


_OF_THE_RUN = (
    "owner",
    "project",
    "steps_planned",
    "elapsed",
    "goodput",
    "overfitting_evaluations",
    "collisions",
    "checkpoint_at",
    "checkpoint_step",
)
