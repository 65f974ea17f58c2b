"""What makes a process id in a box mean something to its reader: the same boot, the same pid namespace."""

from __future__ import annotations

import os


def pid_namespace() -> int:
    """The pid namespace in which our process id means something; 0 where the system has none."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def boot_id() -> str:
    """Identity of this boot of the machine, empty where the system tells none."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""
