"""What is worth keeping of a process that makes no progress. All of it is read, nothing is stopped."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from trainbeacon.recorder.probes.collectives import FlightRecorder, Progress
from trainbeacon.recorder.probes.idle import children

#: Collectives that are kept of a group, counted from the last.
MOST_COLLECTIVES = 32
MOST_WORKERS = 64
_KEPT = ("profiling_name", "op_id", "collective_seq_id", "state", "retired", "is_p2p", "input_sizes")


def stacks() -> list[str]:
    """The Python stacks of all threads but the calling one, a line a frame, the main thread first."""
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file=file, all_threads=True)
        file.seek(0)
        text = file.read().decode(errors="replace")
    threads = [thread for thread in text.split("\n\n") if not thread.startswith("Current thread")]
    return "\n\n".join(reversed(threads)).splitlines()  # faulthandler begins with the youngest


def kernel_state(task: str) -> dict[str, str]:
    """What the kernel says of a process or thread: `task` is its folder in /proc."""
    found = {}
    with contextlib.suppress(OSError, IndexError), open(os.path.join(task, "stat")) as file:
        found["state"] = file.read().rpartition(") ")[2].split()[0]
    for name in ("comm", "wchan", "syscall"):
        with contextlib.suppress(OSError), open(os.path.join(task, name)) as file:
            found[name] = file.read(200).strip()
    return found


def main_thread() -> dict[str, str]:
    """What the kernel says of the main thread; state D and a wchan of a file system are a stuck disk."""
    return kernel_state(f"/proc/self/task/{os.getpid()}")


def workers() -> list[dict[str, Any]]:
    """The child processes, loader workers among them, with what they do in the kernel."""
    found: list[int] = []
    with contextlib.suppress(OSError):  # a system without /proc
        found = sorted(children(os.getpid()))
    return [{"pid": pid, **kernel_state(f"/proc/{pid}")} for pid in found[:MOST_WORKERS]]


def collectives(groups: Sequence[Progress]) -> list[dict[str, Any]]:
    """The counts of each group."""
    return [
        {
            "group": group.label,
            "ranks": len(group.ranks),
            "enqueued": group.counts.enqueued,
            "completed": group.counts.completed,
        }
        for group in groups
    ]


def flight_recorder(groups: Sequence[Progress]) -> list[dict[str, Any]]:
    """The last collectives of each group, oldest first, those that have not ended among them."""
    labels = {group.name: group.label for group in groups}
    found: dict[str, list[dict[str, Any]]] = {}
    for entries in FlightRecorder().entries().values():
        for entry in entries:
            name = str(entry["process_group"][0])
            found.setdefault(labels.get(name, name), []).append(entry)
    return [
        _short(group, entry)
        for group, entries in sorted(found.items())
        for entry in entries[-MOST_COLLECTIVES:]
    ]


def _short(group: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    created = float(entry.get("time_created_ns", 0)) / 1e9
    age = {"seconds": round(time.time() - created, 3)} if created else {}
    return {"group": group, **{name: entry.get(name) for name in _KEPT}, **age}


def open_collectives(recorded: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each group the oldest collective that has not ended: what this rank waits in."""
    found: dict[str, dict[str, Any]] = {}
    for entry in recorded:
        if entry.get("retired") is False and not entry.get("is_p2p"):
            found.setdefault(str(entry["group"]), dict(entry))
    return list(found.values())
