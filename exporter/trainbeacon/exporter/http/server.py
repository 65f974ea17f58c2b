"""HTTP: /metrics, /healthz and a landing page, on a bounded number of threads."""

from __future__ import annotations

import errno
import os
import socket
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from trainbeacon.exporter.health import Health
from trainbeacon.exporter.http.connections import (
    MOST_BODY_BYTES,
    MOST_WAITING,
    TIMEOUT_SECONDS,
    PatientServer,
)
from trainbeacon.exporter.http.webconfig import WebConfigFile

THREADS = 4
QUEUE = 32
#: Ports tried from the wanted one on, when a stranger holds it.
PORTS_TRIED = 16

Environ = dict[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], Any]

_servers: weakref.WeakSet[Server] = weakref.WeakSet()


class Server:
    """An HTTP server. `port` is the one that it really got; TLS is as `web` says."""

    def __init__(
        self,
        application: Callable[[Environ, StartResponse], Iterable[bytes]],
        health: Health,
        host: str,
        port: int,
        web: WebConfigFile | None = None,
        *,
        threads: int = THREADS,
        most_body_bytes: int = MOST_BODY_BYTES,
    ) -> None:
        self.host = host
        self.port = _first_free(host, port)
        self.moved = port not in (0, self.port)
        self._server = PatientServer(
            (host, self.port),
            application,
            numthreads=threads,
            max=threads,
            request_queue_size=MOST_WAITING,
            timeout=TIMEOUT_SECONDS,
            accepted_queue_size=QUEUE,
            accepted_queue_timeout=1,
            shutdown_timeout=1,
            server_name="trainbeacon",
        )
        self._server.max_request_body_size = most_body_bytes
        self._server.health = health
        self._server.web = web or WebConfigFile(None)
        self._server.prepare()
        self.port = self._server.socket.getsockname()[1]
        self._thread = threading.Thread(target=self._server.serve, name="trainbeacon-http", daemon=True)
        _servers.add(self)

    def start(self) -> None:
        """Serve from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Close the port and end the threads."""
        self._server.stop()

    def close_in_child(self) -> None:
        """Let go of the port in a forked child, which would keep it taken after its parent's end."""
        if self._server.socket is not None:
            self._server.socket.close()


def _first_free(host: str, port: int) -> int:
    """The wanted port, or the next free one when another program holds it."""
    if port == 0:
        return 0
    last = min(65535, port + PORTS_TRIED - 1)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in range(port, last + 1):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, candidate))
                probe.listen(1)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    continue
                raise OSError(error.errno, f"host={host!r}, port={candidate}: {error.strerror}") from error
            return candidate
    raise OSError(
        errno.EADDRINUSE, f"port={port}: all ports up to {last} are taken on {host}; set another port"
    )


def _close_in_child() -> None:
    for server in list(_servers):
        server.close_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
