"""What makes a process id in a box mean something to its reader: the same boot, the same pid namespace."""

from __future__ import annotations

import os
import time
from functools import lru_cache


def pid_namespace() -> int:
    """The pid namespace in which our process id means something; 0 where the system has none."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


@lru_cache(maxsize=1)
def boot_id() -> str:
    """Identity of this boot of the machine, empty where the system has none."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def seconds_since_boot() -> float:
    """Seconds since this boot, sleep included: what no change of the clock changes. 0 where it is unknown."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return 0.0 if clock is None else time.clock_gettime(clock)
