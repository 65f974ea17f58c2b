"""All checks, in the order in which they are reported."""

from __future__ import annotations

from tests.robustness import hostile, leaks, load, machines, processes
from tests.robustness.check import Check

CHECKS = (
    Check(
        "mutated boxes",
        "damaged boxes are read or refused; a good one beside them is served",
        hostile.mutated_boxes,
    ),
    Check("malformed requests", "the server lives, serves, and does not grow", hostile.malformed_requests),
    Check("hostile texts", "texts of any kind cannot break or forge a scrape", hostile.hostile_texts),
    Check("slow clients", "a scrape is answered while slow clients hold on", load.slow_connections),
    Check(
        "bodies that never come",
        "a scrape is answered while clients promise a body and send none",
        load.missing_bodies,
    ),
    Check("many scrapes", "100 scrapes a second do not make the exporter grow", load.many_scrapes),
    Check(
        "many boxes",
        "all are served, within the timeout of a scrape, whatever lies beside them",
        load.many_boxes,
    ),
    Check("a day of steps", "memory and files do not grow with steps", load.day_of_steps),
    Check(
        "loaders' workers",
        "fork, spawn and forkserver workers that call the beacon change nothing",
        processes.loaders,
    ),
    Check(
        "ranks of multiprocessing", "no worker is taken for one; they are recorded", processes.spawned_ranks
    ),
    Check(
        "three runs in one process", "each has its own box and leaves nothing behind", processes.three_runs
    ),
    Check(
        "many runs", "they leave no descriptor, thread, process or port, and at most 8 MiB", leaks.many_runs
    ),
    Check("what vanishes", "folder, box, lock and exporter are made again", leaks.vanished),
    Check("notebook", "cells, exceptions in them, a second start", processes.notebook),
    Check("read-only root", "shared memory is enough; without it training goes on", machines.read_only_root),
    Check("no /dev/shm", "the temporary folder takes its place", machines.no_shared_memory),
    Check("full /dev/shm", "training goes on without a box", machines.full_shared_memory),
    Check("64 MiB of /dev/shm", "a container's default is room enough", machines.small_shared_memory),
    Check("clock jumps", "a clock a day off: no counter falls, phases stay right", machines.clock_jumps),
)
