"""Ports of the loopback interface for servers that are started in a moment."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

# Below are the ports that people know: exporters, Prometheus, Grafana, our own and its neighbours.
_LOWEST = 11_000
_KERNELS_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FEWEST = 1_000
_TRIES = 100
_DICE = random.SystemRandom()


def free_port() -> int:
    """A port on loopback that nobody listens on now, for a server that starts within seconds.

    It lies below the range from which the kernel takes ports for outgoing connections and for servers that
    ask for port 0: one from that range may be another's before the server comes to listen.
    """
    end = _kernels_lowest()
    if end - _LOWEST >= _FEWEST:
        for _ in range(_TRIES):
            port = _DICE.randrange(_LOWEST, end)
            with contextlib.suppress(OSError):
                return _bound(port)
    return _bound(0)


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this port of loopback now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _bound(port: int) -> int:
    # Without SO_REUSEADDR: what was closed a moment ago counts as taken.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))
        found: int = probe.getsockname()[1]
        return found


def _kernels_lowest() -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(_KERNELS_RANGE.read_text("ascii").split()[0])
    return 0
