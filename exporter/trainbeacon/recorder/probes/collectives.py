"""How far each process group is: collectives begun and ended, from PyTorch's Flight Recorder.

The Flight Recorder numbers the groups of a process in the order in which they were made there, which
differs between ranks. The label is made of what all members agree on, the description and the ranks.

What Gloo does otherwise than NCCL: its count goes on with sends and receives too, so that ranks of a
group with point-to-point traffic differ by a constant; and where two collectives of one rank overlap,
the one that ends last is taken for the last one, though its number may be the lower. Hence the rules
compare a rank's two counts and never the ranks' counts, and a rank that seems to wait in a collective
for ten seconds has the list of its collectives read once, which knows better.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol
from zlib import crc32

from trainbeacon import catalogue

log = logging.getLogger("trainbeacon")

ENQUEUED = "training_collectives_enqueued_total"
COMPLETED = "training_collectives_completed_total"

#: Private functions of torch, by what they record. A torch without one of them has no such counts.
DUMPS = {"generic": "_dump_fr_trace_json", "nccl": "_dump_nccl_trace_json"}
#: A rank that seems to wait for so long has its list read.
SETTLE_SECONDS = 10.0
#: The list is read again only after so many times what reading it took, 0.1 % of the time; but once for
#: certain, before evidence is due, while a rank is stalled for so many times `SETTLE_SECONDS`.
PAUSE_FACTOR = 1000
CERTAIN_FACTOR = 4
_NAME_LIMIT, _RANKS_LIMIT = 24, 32
_PLAIN_NAMES = {"default_pg": "default", "undefined": "group"}

#: A group of one source: its number there.
Key = tuple[str, str]


class Counts(NamedTuple):
    """Numbers of the last collective that began and of the last that ended."""

    enqueued: int = 0
    completed: int = 0


@dataclass(frozen=True)
class Progress:
    """One process group of this rank. `name` is torch's, `label` is equal on all its ranks."""

    name: str
    label: str
    ranks: tuple[int, ...]
    counts: Counts


class Record(Protocol):
    """Takes a number for a metric and a group; None where the group is no more."""

    def __call__(self, metric: str, group: str, value: float | None) -> None:
        """Record it."""


class FlightRecorder:
    """PyTorch's record of the collectives of this process. Private calls, each used only if it is there."""

    def __init__(self) -> None:
        library = sys.modules.get("torch._C._distributed_c10d")
        found = {source: getattr(library, name, None) for source, name in DUMPS.items()}
        self._dumps = {source: dump for source, dump in found.items() if dump is not None}

    @property
    def available(self) -> bool:
        """Whether this torch has any of the functions."""
        return bool(self._dumps)

    def counts(self) -> dict[Key, Counts]:
        """The counts of every group that had a collective; some 0.05 ms."""
        found = {}
        for source, answer in self._ask(whole=False).items():
            for number, values in answer.get("pg_status", {}).items():
                enqueued = int(values["last_enqueued_collective"])
                completed = int(values["last_completed_collective"])
                found[source, str(number)] = Counts(max(0, enqueued), max(0, completed))
        return found

    def entries(self) -> dict[str, list[dict[str, Any]]]:
        """The last collectives, oldest first; up to 0.2 s for 2,000 of them, with the GIL held."""
        return {
            source: sorted(answer.get("entries", []), key=lambda entry: int(entry["record_id"]))
            for source, answer in self._ask(whole=True).items()
        }

    def _ask(self, *, whole: bool) -> dict[str, dict[str, Any]]:
        found = {}
        for source, dump in list(self._dumps.items()):
            try:
                found[source] = json.loads(dump(includeCollectives=whole))
            except (TypeError, ValueError, RuntimeError) as error:
                del self._dumps[source]  # of another form than is known: the other source may still do
                log.info("%s cannot be read (%s): its collectives are not counted", DUMPS[source], error)
        return found


class CollectivesProbe:
    """Samples the counts from the background thread. Joins no collective, waits for nothing.

    Does nothing until the script itself has a process group. Groups of one rank, and those beyond the
    first 16, are left out.

    Args:
        record: where the counts go.
        drop: called with how many groups are left out, once.
        clock: monotonic seconds.

    Attributes:
        groups: what the last look found, for the evidence of a hang.
        reported: the counts as torch gave them, not corrected: they change only where something happens.
        waits_on_device: whether a collective of NCCL was open then. A host that waits for it may spin.
    """

    def __init__(
        self, record: Record, drop: Callable[[int], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._record = record
        self._drop = drop
        self._clock = clock
        self._recorder: FlightRecorder | None = None
        self._made: tuple[object, ...] = ()
        self._dropped = 0
        self._names: dict[Key, str] = {}
        self._unchanged_since: dict[Key, tuple[Counts, float]] = {}
        self._ended: dict[Key, int] = {}  # the highest number that is known to have ended
        self._settled: set[Key] = set()
        self._next_naming = self._next_settling = -math.inf
        self.groups: tuple[Progress, ...] = ()
        self.reported: dict[Key, Counts] = {}
        self.waits_on_device = False

    def poll(self) -> None:
        """Take a sample."""
        world = _world()
        if world is None:
            self._follow(())
            return
        if self._recorder is None:
            self._recorder = FlightRecorder()
            if not self._recorder.available:
                log.info("this torch has none of %s: no collective counts", ", ".join(DUMPS.values()))
        if not self._recorder.available:
            return
        self._follow(self._members(world))
        self.reported = self._recorder.counts()
        judged = self._judge(self._recorder, self.reported)
        self.waits_on_device = any(
            source == "nccl" and count.completed < count.enqueued for (source, _), count in judged.items()
        )
        counts = self._sum(judged)
        self.groups = tuple(
            Progress(group.name, group.label, group.ranks, counts.get(group.name, Counts()))
            for group in self.groups
        )
        for group in self.groups:
            self._record(ENQUEUED, group.label, group.counts.enqueued)
            self._record(COMPLETED, group.label, group.counts.completed)

    # The groups

    def _members(self, world: Any) -> tuple[Progress, ...]:
        """The groups that this rank is in, in the order in which they were made."""
        made = tuple(world.pg_names.values())
        if made == self._made:
            return self.groups
        self._made = made
        own = world.default_pg.rank()
        found: dict[str, Progress] = {}
        for group, members in list(world.pg_group_ranks.items()):
            if own in members and len(members) > 1:
                ranks = tuple(sorted(members))
                label = _unique(group_label(str(group.group_desc), ranks), found)
                found[label] = Progress(str(world.pg_names[group]), label, ranks, Counts())
        kept = tuple(found.values())[: catalogue.MOST_GROUPS]
        if len(found) - len(kept) > self._dropped:
            self._drop(len(found) - len(kept) - self._dropped)
            self._dropped = len(found) - len(kept)
        return kept

    def _follow(self, groups: tuple[Progress, ...]) -> None:
        """Take the series of a group away that is no more."""
        if groups is self.groups:
            return
        labels = {group.label for group in groups}
        for gone in self.groups:
            if gone.label not in labels:
                self._record(ENQUEUED, gone.label, None)
                self._record(COMPLETED, gone.label, None)
        self.groups = groups
        if not groups:
            self._made = ()

    # The counts

    def _judge(self, recorder: FlightRecorder, counts: dict[Key, Counts]) -> dict[Key, Counts]:
        """The counts, corrected for what is known better: a number that ended once has ended for good."""
        now = self._clock()
        for key, count in counts.items():
            self._ended[key] = max(self._ended.get(key, 0), count.completed)
            before = self._unchanged_since.get(key)
            if before is None or before[0] != count:
                self._unchanged_since[key] = (count, now)
                self._settled.discard(key)
        unnamed = bool(counts.keys() - self._names.keys()) and now >= self._next_naming
        limit = SETTLE_SECONDS if now >= self._next_settling else SETTLE_SECONDS * CERTAIN_FACTOR
        doubtful = {key for key in counts if self._seems_to_wait(key, now - limit)}
        if unnamed or doubtful:
            begun = time.thread_time()
            self._read(recorder.entries(), counts, doubtful)
            again = self._clock() + PAUSE_FACTOR * (time.thread_time() - begun)
            self._next_naming = again
            self._next_settling = again if doubtful else self._next_settling
        return {key: Counts(count.enqueued, self._ended[key]) for key, count in counts.items()}

    def _seems_to_wait(self, key: Key, since: float) -> bool:
        count, since_when = self._unchanged_since[key]
        return self._ended[key] < count.enqueued and key not in self._settled and since_when <= since

    def _read(
        self, entries: dict[str, list[dict[str, Any]]], counts: dict[Key, Counts], doubtful: set[Key]
    ) -> None:
        """Learn from the list how the groups are called, and which collectives have really not ended."""
        begun: Counter[Key] = Counter()  # and not ended
        for source, number, entry in _keyed(entries):
            self._names[source, number] = str(entry["process_group"][0])
            if entry.get("retired") is False and not entry.get("is_p2p"):
                begun[source, number] += 1
        for key in doubtful:
            self._settled.add(key)
            self._ended[key] = max(self._ended[key], counts[key].enqueued - begun[key])

    def _sum(self, counts: dict[Key, Counts]) -> dict[str, Counts]:
        """By torch's name of the group: of one source the newest of that name, over the sources the sum."""
        newest: dict[tuple[str, str], Key] = {}
        for key in counts:
            name = self._names.get(key)
            if name is not None:
                source, number = key
                old = newest.get((source, name))
                if old is None or int(old[1]) < int(number):
                    newest[source, name] = key
        found: dict[str, Counts] = {}
        for (_, name), key in newest.items():
            so_far, count = found.get(name, Counts()), counts[key]
            found[name] = Counts(so_far.enqueued + count.enqueued, so_far.completed + count.completed)
        return found


def _keyed(entries: dict[str, list[dict[str, Any]]]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for source, listed in entries.items():
        for entry in listed:
            with contextlib.suppress(LookupError, TypeError):
                yield source, str(entry["pg_id"]), entry


def _world() -> Any:
    """PyTorch's register of process groups, once the script has a default one; None before."""
    world: Any = getattr(sys.modules.get("torch.distributed.distributed_c10d"), "_world", None)
    known = all(hasattr(world, name) for name in ("default_pg", "pg_group_ranks", "pg_names"))
    return world if known and world.default_pg is not None else None


def _unique(label: str, taken: Mapping[str, object]) -> str:
    """The label, numbered where an earlier group has the same description and ranks."""
    number, unique = 2, label
    while unique in taken:
        unique, number = f"{label}#{number}", number + 1
    return unique


def group_label(description: str, ranks: tuple[int, ...]) -> str:
    """A short name for a process group, the same on all its ranks: `default:0-7`, `dp:0,2,4,6`."""
    name = "".join(c for c in _PLAIN_NAMES.get(description, description) if c.isprintable())[:_NAME_LIMIT]
    return f"{name or 'group'}:{compact(ranks)}"


def compact(ranks: tuple[int, ...]) -> str:
    """Ranks, ascending, as `0-7`, `0,2,5-7`, `0-4088/8`; where that is long: ends, number, checksum."""
    spans = list(_spans(ranks))
    text = ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
    if len(text) <= _RANKS_LIMIT:
        return text
    step = ranks[1] - ranks[0]
    if ranks == tuple(range(ranks[0], ranks[-1] + 1, step)):
        return f"{ranks[0]}-{ranks[-1]}/{step}"
    return f"{ranks[0]}..{ranks[-1]}x{len(ranks)}~{crc32(text.encode()):08x}"


def _spans(ranks: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    first = last = ranks[0]
    for rank in ranks[1:]:
        if rank != last + 1:
            yield first, last
            first = rank
        last = rank
    yield first, last
