"""The HTTP server: one event loop in a thread of its own for all connections, a few threads for answers."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import threading
import weakref

from trainbeacon.exporter.http.connections import Connection, Shared
from trainbeacon.exporter.http.limits import Limits, Refusals
from trainbeacon.exporter.http.webconfig import WebConfigFile
from trainbeacon.exporter.http.workers import Workers
from trainbeacon.exporter.http.wsgi import Application, Request, Response, call

log = logging.getLogger("trainbeacon")

#: Ports tried from the wanted one on, when a stranger holds it.
PORTS_TRIED = 16
#: How long `stop` lets answers on their way arrive.
STOP_SECONDS = 1.0
#: Connections accepted in a row before those that are there have their turn.
_ACCEPTED_AT_ONCE = 16
#: Without a descriptor for the next connection: how long to wait for one.
_EXHAUSTED_SECONDS = 0.1
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

_servers: weakref.WeakSet[Server] = weakref.WeakSet()


class Server:
    """An HTTP server. It listens from the beginning and answers between `start` and `stop`.

    Args:
        application: the pages, as WSGI has them; called from several threads at once.
        refusals: counts what was not answered as asked.
        host: address to listen on.
        port: the wanted port; 0 takes any free one.
        web: TLS as its present settings say, for each new connection.
        limits: what a client gets.

    Attributes:
        port: the one that it really got.
        moved: whether that is another one than was wanted.

    Raises:
        OSError: no port, or no such address; the text names the settings.
    """

    def __init__(
        self,
        application: Application,
        refusals: Refusals,
        host: str,
        port: int,
        web: WebConfigFile | None = None,
        *,
        limits: Limits | None = None,
    ) -> None:
        self.host = host
        self._limits = limits or Limits()
        self._application = application
        self._refusals = refusals
        self._web = web or WebConfigFile(None)
        self._workers: Workers[Response] = Workers(self._limits.threads, self._limits.queue)
        self._connections: dict[Connection, asyncio.Task[None]] = {}
        self._shared = Shared(self._limits, refusals, self._answer)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="trainbeacon-http", daemon=True)
        self._listener = _listen(host, port, self._limits.connections)
        self.port = int(self._listener.getsockname()[1])
        self.moved = port not in (0, self.port)
        _servers.add(self)

    def start(self) -> None:
        """Serve from now on. Raises OSError, with nothing left behind, without threads or descriptors."""
        try:
            self._loop = asyncio.new_event_loop()
            self._workers.start()
            self._thread.start()
        except (OSError, RuntimeError) as error:
            self._workers.stop()
            self._listener.close()
            if self._loop is not None:
                self._loop.close()
                self._loop = None
            reason = error.strerror if isinstance(error, OSError) else "no more threads can be had"
            raise OSError(errno.EAGAIN, f"/metrics cannot be served: {reason}") from error

    def stop(self) -> None:
        """Close the port at once, and the connections after a second at most."""
        self._listener.close() if self._loop is None else self._end()

    def _end(self) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # it is over already
            self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(STOP_SECONDS * 3)

    def close_in_child(self) -> None:
        """Let go of port and connections in a forked child, which would keep them after its parent's end."""
        for sock in (self._listener, *(connection.sock for connection in self._connections)):
            with contextlib.suppress(OSError):
                sock.close()

    # The event loop, in its thread

    def _run(self) -> None:
        loop = self._loop
        assert loop is not None
        loop.set_exception_handler(lambda *_: None)  # clients that hang up are everyday
        try:
            loop.run_until_complete(self._serve())
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            self._workers.stop()
            self._listener.close()
            loop.close()

    async def _serve(self) -> None:
        self._listen()
        await self._over.wait()
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        for connection, task in self._connections.items():
            if connection.is_waiting:
                task.cancel()
        tasks = set(self._connections.values())
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=STOP_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.wait(tasks, timeout=STOP_SECONDS)
            await asyncio.sleep(0)  # the loop closes the sockets in its next turn

    def _listen(self) -> None:
        if not self._over.is_set():
            asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        """Take the clients that are there, some at once, so that the others have their turn."""
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                sock, address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause()
                return  # else a client that was gone before it was accepted
            self._take(sock, str(address[0]))

    def _pause(self) -> None:
        """No descriptor is left for the next client: the one that has waited longest goes for it."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listener)
        loop.call_later(_EXHAUSTED_SECONDS, self._listen)
        self._make_room(0)

    def _take(self, sock: socket.socket, address: str) -> None:
        sock.setblocking(False)
        self._make_room(self._limits.connections - 1)
        connection = Connection(sock, address, self._web.current, self._shared)
        task = asyncio.ensure_future(connection.serve())
        self._connections[connection] = task
        task.add_done_callback(lambda _: self._forget(connection))

    def _forget(self, connection: Connection) -> None:
        del self._connections[connection]
        connection.release()

    def _make_room(self, most: int) -> None:
        """Keep the number of waiting connections bounded without turning a new one, a scrape, away."""
        waiting = [connection for connection in self._connections if connection.is_waiting]
        if len(waiting) > most:
            longest = min(waiting, key=lambda connection: connection.since)
            longest.is_waiting = False
            self._refusals.refused("busy")
            self._connections[longest].cancel()

    async def _answer(self, request: Request) -> Response:
        return await self._workers.run(lambda: self._call(request))

    def _call(self, request: Request) -> Response:
        try:
            return call(self._application, request)
        except Exception:  # the boundary: the next request must be served
            log.warning("a page failed", exc_info=True)
            return Response.of_text(500, "this page failed; the log of the exporter says why\n")


def _listen(host: str, port: int, backlog: int) -> socket.socket:
    """A listening socket on the wanted port, or the next free one when another program holds it."""
    last = min(65535, port + PORTS_TRIED - 1) if port else 0
    if host == "::" and not _has_ipv6():
        host = "0.0.0.0"  # noqa: S104 - it said all addresses
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in range(port, last + 1):
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            if host == "::":  # both families, whatever the system's default is
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, candidate))
            listener.listen(backlog)
            listener.setblocking(False)
        except OSError as error:
            listener.close()
            if error.errno == errno.EADDRINUSE:
                continue
            raise OSError(error.errno, f"host={host!r}, port={candidate}: {error.strerror}") from error
        return listener
    raise OSError(
        errno.EADDRINUSE, f"port={port}: all ports up to {last} are taken on {host}; set another port"
    )


def _has_ipv6() -> bool:
    """Whether this machine lets a program listen on IPv6 at all."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
    except OSError:
        return False
    return True


def _close_in_child() -> None:
    for server in list(_servers):
        server.close_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
