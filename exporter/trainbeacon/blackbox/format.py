"""Layout of a black box: where each byte lies, and what it means.

    header     magic, size, and the words that publish the rest; each is stored last
    slots      single values, each whole by itself
    blocks     copies of the values that must agree of one step; `SEQUENCE` names the newest whole one
    ring       the last 1,024 steps
    journal    append-only lines of JSON: identity, the name of each slot, texts

A box describes itself: the journal names every slot, so that a reader of another version shows what
it knows and leaves out the rest.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from trainbeacon import catalogue

MAGIC = b"TBEACON1"
WORD = 8

# Header words, as indices of eight-byte words.
MAGIC_WORD = 0
SIZE_WORD = 1
JOURNAL_USED = 2
SEQUENCE = 3
RING_COUNT = 4
STATE = 5

HEADER_BYTES = 4096
SLOT_COUNT = 1024
#: A slot without a name: what has no room is stored here, so that a caller need not ask.
SINK = SLOT_COUNT - 1
BLOCK_SLOTS = 128
#: So many that a reader has the time of six commits to read the newest one; a power of two.
BLOCK_COPIES = 8
#: Words of a block: the sequence that its values belong to. The writer stores one mark before the
#: values and one after them; a reader looks at them in the opposite order, so that equal marks mean
#: whole values, in whatever order the values themselves were copied.
DONE = 0
BEGUN = BLOCK_SLOTS - 1
RING_STEPS = 1024
RING_FIELDS = 5
RING_LOSS, RING_NORM = 3, 4
JOURNAL_BYTES = 128 * 1024

SLOTS_AT = HEADER_BYTES
BLOCKS_AT = SLOTS_AT + SLOT_COUNT * WORD
RING_AT = BLOCKS_AT + BLOCK_COPIES * BLOCK_SLOTS * WORD
JOURNAL_AT = RING_AT + RING_STEPS * RING_FIELDS * WORD
SIZE = JOURNAL_AT + JOURNAL_BYTES

#: A NaN that no arithmetic yields: nothing was ever written. A user's NaN has another bit pattern.
UNSET_BITS = 0x7FF8_BEAC_0000_0001
UNSET_BYTES = struct.pack("=Q", UNSET_BITS)
UNSET: float = struct.unpack("=d", UNSET_BYTES)[0]

#: The word at STATE while the process runs, and after each way of ending that leaves a word.
STATE_CODES = {"running": 0, "finished": 1, "failed": 2, "exited": 3}

#: Values of ours in the box that are not metrics by themselves.
PHASE_INDEX = "_phase"
PHASE_START = "_phase_start_monotonic"
HEARTBEAT = "_heartbeat_monotonic"
PROFILING = "_profiling"  # 1 while the rank is recorded by a profiler of ours

#: Metrics whose values must agree of one step: they lie in the blocks, the others in the slots.
STEP_METRICS = (
    "training_loss",
    "training_step",
    "training_steps_total",
    "training_samples_total",
    "training_tokens_total",
    "training_last_step_timestamp_seconds",
    "training_step_duration_seconds",
    "training_phase_seconds_total",
    "training_self_seconds_total",
    "training_phase_start_timestamp_seconds",
    PHASE_INDEX,
    PHASE_START,
)

#: Metrics that the reader makes from the life lock and the present phase, and that no slot holds.
DERIVED = ("training_state", "training_phase", "trainbeacon_run_name_collisions")

#: The label value that marks the sum among the slots of a histogram; buckets carry their index.
HISTOGRAM_SUM = "sum"


@dataclass(frozen=True)
class RingEntry:
    """One step of the ring. `loss` and `gradient_norm` are None where none was logged."""

    step: int
    timestamp: float
    duration: float
    loss: float | None
    gradient_norm: float | None


def slots_of(metric: catalogue.Metric) -> Iterator[tuple[str, ...]]:
    """The label values of each slot that a metric with closed label sets takes up."""
    if metric.type == "histogram":
        for index in range(len(metric.buckets) + 1):
            yield (str(index),)
        yield (HISTOGRAM_SUM,)
    else:
        yield from metric.closed_label_values()


def is_fixed(metric: catalogue.Metric) -> bool:
    """Whether the slots of a metric are known beforehand and written by every rank."""
    closed = all(label.values for label in metric.labels)
    written = metric.source in ("ranks", "health") and metric.name not in DERIVED
    return written and metric.level == "rank" and metric.type != "info" and closed


def lock_query() -> bytes:
    """The argument of fcntl's F_GETLK that asks whether anybody holds a lock on the whole file."""
    import fcntl

    if sys.platform == "darwin":
        return struct.pack("qqihh", 0, 0, 0, fcntl.F_RDLCK, 0)
    return struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, 0, 0, 0)


def lock_is_free(answer: bytes) -> bool:
    """Whether fcntl's answer to `lock_query` says that nobody holds a lock.

    The process id in the answer is not looked at: it is 0 across pid namespaces.
    """
    import fcntl

    at = 20 if sys.platform == "darwin" else 0
    (kind,) = struct.unpack_from("h", answer, at)
    return bool(kind == fcntl.F_UNLCK)


def lock_holder(answer: bytes) -> int:
    """The process id in fcntl's answer to `lock_query`; 0 for one of another pid namespace."""
    at = 16 if sys.platform == "darwin" else 24
    (pid,) = struct.unpack_from("i", answer, at)
    return int(pid)
