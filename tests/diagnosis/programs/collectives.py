"""What the probe of the collectives makes of real gloo groups: `python collectives.py`, prints JSON a rank.

Three forked ranks go through collectives of each sort and say after each what the probe has recorded.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable

import torch
from torch import distributed

from trainbeacon.recorder.probes.collectives import COMPLETED, ENQUEUED, CollectivesProbe, FlightRecorder
from trainbeacon.stack.ports import free_port
from trainbeacon.testing import FakeClock

RANKS = 3
Seen = dict[str, tuple[float | None, float | None]]


class Looks:
    """A probe with what it recorded, a look of which can be named."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], float] = {}
        self._clock = FakeClock()
        self._probe = CollectivesProbe(self._record, lambda _: None, self._clock)
        self.seen: dict[str, Seen] = {}

    def _record(self, metric: str, group: str, value: float | None) -> None:
        if value is None:
            self._counts.pop((metric, group), None)
        else:
            self._counts[metric, group] = value

    def poll(self, name: str, after: float = 20) -> None:
        """Record what the probe sees, that many seconds after the last look.

        After long enough it looks twice: gloo may tell of one too few where two end in one moment, and the
        probe asks the list of collectives only of what it has seen waiting for ten seconds.
        """
        for _ in range(2 if after >= 20 else 1):
            self._clock.advance(after)
            self._probe.poll()
        groups = {group for _, group in self._counts}
        self.seen[name] = {
            group: (self._counts.get((ENQUEUED, group)), self._counts.get((COMPLETED, group)))
            for group in sorted(groups)
        }


def until(condition: Callable[[], bool]) -> None:
    """Wait for a moment that is a matter of milliseconds."""
    end = time.monotonic() + 20
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)


def until_settled(waiting: int = 0) -> None:
    """Until the list of collectives has that many that have not ended: it follows by some milliseconds."""

    def opened() -> int:
        return sum(entry["retired"] is False for entry in FlightRecorder().entries()["generic"])

    until(lambda: opened() == waiting)


def join(own: int, port: int) -> None:
    """Take part in the default group that meets there."""
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=own, world_size=RANKS)


def rank(own: int, looks: Looks, ports: tuple[int, int], mark: str) -> None:
    """What a rank does."""
    looks.poll("before")
    join(own, ports[0])
    tensor = torch.ones(4)
    looks.poll("none yet")
    distributed.all_reduce(tensor)
    distributed.barrier()
    until_settled()
    looks.poll("two")
    works = [distributed.all_reduce(part, async_op=True) for part in (torch.ones(3_000_000), torch.ones(1))]
    for work in works:
        work.wait()
    until_settled()
    looks.poll("out of order, at once", after=1)
    looks.poll("out of order, settled")
    if own == 0:
        work = distributed.all_reduce(tensor, async_op=True)
        until_settled(waiting=1)
        looks.poll("others are missing")
        looks.poll("others are still missing")
        open(mark, "w").close()
        work.wait()
    else:
        until(lambda: os.path.exists(mark))
        distributed.all_reduce(tensor)
    groups(own, looks)
    if own == 0:
        distributed.send(tensor, 1)
    elif own == 1:
        distributed.recv(tensor, 0)
    distributed.all_reduce(tensor)
    until_settled()
    looks.poll("after a send")
    distributed.destroy_process_group()
    looks.poll("destroyed")
    join(own, ports[1])
    distributed.all_reduce(tensor)
    until_settled()
    looks.poll("made again")


def groups(own: int, looks: Looks) -> None:
    """Groups with the same ranks, of some ranks, and one that is destroyed and made again."""
    everybody = [0, 1, 2]
    twins = [distributed.new_group(everybody, group_desc="fsdp") for _ in range(2)]
    pair = distributed.new_group([0, 2], group_desc="dp")
    distributed.new_group([1])  # of one rank: nothing to wait for
    distributed.all_reduce(torch.ones(1), group=twins[1])
    if own in (0, 2):
        distributed.all_reduce(torch.ones(1), group=pair)
        distributed.all_reduce(torch.ones(1), group=pair)
    distributed.barrier(group=twins[1])
    until_settled()
    looks.poll("groups")
    if own in (0, 2):
        distributed.destroy_process_group(pair)
    looks.poll("one is gone")
    pair = distributed.new_group([0, 2], group_desc="dp")
    if own in (0, 2):
        distributed.all_reduce(torch.ones(1), group=pair)
    until_settled()
    looks.poll("one is back")


def main() -> None:
    """Fork the ranks and print what each saw."""
    ports, mark = (free_port(), free_port()), os.path.join(os.environ["SCRATCH"], "mark")
    pipes = []
    for own in range(RANKS):
        end, other = os.pipe()
        if os.fork() == 0:
            looks = Looks()
            try:
                rank(own, looks, ports, mark)
            finally:
                os.write(other, json.dumps(looks.seen).encode())
                os._exit(0)
        os.close(other)
        pipes.append(end)
    print(json.dumps([json.loads(os.fdopen(pipe).read()) for pipe in pipes]))


if __name__ == "__main__":
    main()
