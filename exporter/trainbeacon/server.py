"""HTTP: /metrics, /healthz and a landing page, on a bounded number of threads."""

from __future__ import annotations

import contextlib
import errno
import html
import math
import os
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from cheroot.makefile import MakeFile, StreamReader
from cheroot.server import HTTPConnection, HTTPRequest
from cheroot.wsgi import Server as WSGIServer
from prometheus_client import CollectorRegistry

from trainbeacon._version import __version__
from trainbeacon.authentication import PasswordCheck
from trainbeacon.blackbox.reader import Box
from trainbeacon.collectors.health import Health
from trainbeacon.exposition import metrics_page
from trainbeacon.webconfig import WebConfigFile

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

THREADS = 4
QUEUE = 32
#: How long a connection may be idle, and an answer may wait for its reader.
TIMEOUT_SECONDS = 10
#: How long the head of a request may take from its first byte on: until then it has one of the threads.
REQUEST_SECONDS = 3
MOST_HEADER_BYTES = 16 * 1024
#: How long a TLS handshake may take; a connection has a thread only while it has sent something of it.
HANDSHAKE_SECONDS = 5
#: Connections that wait for their client; the one that has waited longest goes for the next.
MOST_WAITING = 128
#: Ports tried from the wanted one on, when a stranger holds it.
PORTS_TRIED = 16

Environ = dict[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], Any]

_servers: weakref.WeakSet[Server] = weakref.WeakSet()


class Application:
    """The pages, as a WSGI application.

    Args:
        registry: what /metrics shows.
        health: counts refused requests.
        boxes: what the landing page lists.
        on_scrape: called after each scrape that was answered.
        web: passwords asked for and headers added; by default none.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        health: Health,
        boxes: Callable[[], list[Box]],
        on_scrape: Callable[[], None],
        web: WebConfigFile | None = None,
    ) -> None:
        self._registry = registry
        self._health = health
        self._boxes = boxes
        self._on_scrape = on_scrape
        self._web = web or WebConfigFile(None)
        self._passwords = PasswordCheck()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request, if its sender may ask."""
        headers = self._web.current.headers

        def start(status: str, own: list[tuple[str, str]]) -> Any:
            return start_response(status, [*own, *headers])

        return self._refusal(environ, start) or self._page(environ, start)

    def _refusal(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes] | None:
        """The answer to who has no right to one; /healthz is for probes, which have no password."""
        users = self._web.current.users
        if not users or environ.get("PATH_INFO") == "/healthz":
            return None
        header, address = environ.get("HTTP_AUTHORIZATION", ""), environ.get("REMOTE_ADDR", "")
        verdict = self._passwords.check(users, header, address)
        if verdict == "welcome":
            return None
        self._health.refused(verdict)
        if verdict == "busy":
            text = "too many passwords are being checked; try again\n"
            return _answer(start_response, "503 Service Unavailable", text, **{"Retry-After": "1"})
        challenge = {"WWW-Authenticate": 'Basic realm="trainbeacon", charset="UTF-8"'}
        return _answer(start_response, "401 Unauthorized", "a user name and password, please\n", **challenge)

    def _page(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path, method = environ.get("PATH_INFO", "/"), environ.get("REQUEST_METHOD", "GET")
        if method not in ("GET", "HEAD"):
            self._health.refused("method")
            return _answer(start_response, "405 Method Not Allowed", "only GET and HEAD\n", Allow="GET, HEAD")
        if path == "/metrics":
            body = metrics_page(self._registry, environ, start_response)
            if method == "GET":
                self._on_scrape()
        elif path == "/healthz":
            body = _answer(start_response, "200 OK", "ok\n")
        elif path == "/":
            body = _answer(start_response, "200 OK", landing_page(self._boxes()), "text/html; charset=utf-8")
        else:
            self._health.refused("not_found")
            body = _answer(start_response, "404 Not Found", "not here; the metrics are at /metrics\n")
        return [] if method == "HEAD" else body


def _answer(
    start_response: StartResponse,
    status: str,
    text: str,
    content_type: str = "text/plain; charset=utf-8",
    **headers: str,
) -> Iterable[bytes]:
    body = text.encode()
    start_response(
        status,
        [("Content-Type", content_type), ("Content-Length", str(len(body))), *headers.items()],
    )
    return [body]


def landing_page(boxes: list[Box]) -> str:
    """A page for a person who followed the address: what is served, and where to go."""
    rows = "".join(
        f"<tr><td>{html.escape(box.identity.run)}<td>{box.identity.rank}<td>{box.state}"
        f"<td>{box.number('training_step') or 0:.0f}"
        for box in boxes
    )
    ranks = (
        f"<table><tr><th>run<th>rank<th>state<th>step{rows}</table>"
        if boxes
        else "<p>No training here now.</p>"
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>TrainBeacon</title>"
        "<style>body{font-family:sans-serif;margin:2em}td,th{text-align:left;padding:.2em 1em .2em 0}</style>"
        f"<h1>TrainBeacon {__version__}</h1>{ranks}"
        '<p><a href="/metrics">Metrics</a> &middot; <a href="/healthz">Health</a></p></html>\n'
    )


class Server:
    """The HTTP server of one exporter. `port` is the one that it really got; TLS is as `web` says."""

    def __init__(
        self,
        application: Application,
        health: Health,
        host: str,
        port: int,
        web: WebConfigFile | None = None,
    ) -> None:
        self.host = host
        self.port = _first_free(host, port)
        self.moved = port not in (0, self.port)
        self._server = _PatientServer(
            (host, self.port),
            application,
            numthreads=THREADS,
            max=THREADS,
            request_queue_size=MOST_WAITING,
            timeout=TIMEOUT_SECONDS,
            accepted_queue_size=QUEUE,
            accepted_queue_timeout=1,
            shutdown_timeout=1,
            server_name="trainbeacon",
        )
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


class _TimedSocket(socket.SocketIO):
    """Reads from a socket until a deadline, however many bytes drip in before it."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock, "rb")
        self._socket = sock
        self.deadline = math.inf

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        """Read what is there. Raises TimeoutError at the deadline."""
        remaining = self.deadline - time.monotonic()
        self._socket.settimeout(min(TIMEOUT_SECONDS, max(0.001, remaining)))
        return super().readinto(buffer)


class _TimedReader(StreamReader):
    """cheroot's reader of requests over a `_TimedSocket`."""

    def __init__(self, sock: socket.socket, size: int) -> None:
        super(StreamReader, self).__init__(_TimedSocket(sock), size)
        self.bytes_read = 0
        self._socket = sock

    def has_data(self) -> bool:
        """Whether something was read already; what TLS has decrypted makes no socket readable again."""
        pending = isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0
        return pending or bool(super().has_data())  # type: ignore[no-untyped-call]


def _make_file(sock: socket.socket, mode: str, size: int) -> Any:
    return _TimedReader(sock, size) if "r" in mode else MakeFile(sock, mode, size)


class _Request(HTTPRequest):
    def parse_request(self) -> None:
        """Read the head of a request, in bounded time."""
        self.conn.rfile.raw.deadline = time.monotonic() + REQUEST_SECONDS
        super().parse_request()
        self.conn.socket.settimeout(TIMEOUT_SECONDS)

    def simple_response(self, status: Any, msg: str = "") -> None:
        """What cheroot answers by itself: a request that is no proper HTTP."""
        self.server.health.refused("malformed")
        super().simple_response(status, msg)


class _Connection(HTTPConnection):
    """One connection; with TLS its handshake goes on as bytes arrive, and no thread waits for it."""

    RequestHandlerClass = _Request

    def __init__(self, server: Any, sock: socket.socket, makefile: Any = None) -> None:
        self._web = server.web.current
        self._handshake_end = math.inf
        if self._web.context is not None:
            sock = self._web.context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            self._handshake_end = time.monotonic() + HANDSHAKE_SECONDS
        super().__init__(server, sock, _make_file)
        self.is_new = True
        self.is_secured = self._web.context is None
        self.sent_hello = self.is_told_to_go = False

    def communicate(self) -> bool:
        """Answer a request, or go on with the handshake; whether the connection goes on too."""
        if not self.is_secured:
            return self._shake_hands()
        return bool(super().communicate())  # type: ignore[no-untyped-call]

    def _shake_hands(self) -> bool:
        try:
            self.socket.settimeout(0)
            self.socket.do_handshake()
        except ssl.SSLWantReadError:
            self.sent_hello = True
            return time.monotonic() < self._handshake_end
        except (ssl.SSLEOFError, ConnectionError):
            return False  # a TCP probe, unless it had said hello
        except OSError as error:
            self.sent_hello = True
            if getattr(error, "reason", "") == "HTTP_REQUEST":
                self._answer_without_tls()
            return False
        self.sent_hello = True
        self.is_secured = self._has_allowed_name()
        self.socket.settimeout(TIMEOUT_SECONDS)
        return self.is_secured

    def _answer_without_tls(self) -> None:
        """Say to a client of plain HTTP what is wrong, past the TLS of the socket."""
        text = b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\n\r\nthis server speaks HTTPS only\n"
        with contextlib.suppress(OSError):
            socket.socket.recv(self.socket, MOST_HEADER_BYTES)  # unread bytes would reset the connection
            socket.socket.send(self.socket, text)

    def _has_allowed_name(self) -> bool:
        allowed = self._web.allowed_sans
        if allowed is None:
            return True
        certificate = self.socket.getpeercert() or {}
        return any(name in allowed for _, name in certificate.get("subjectAltName", ()))

    def tell_to_go(self) -> None:
        """Hang up; the end is seen, and the connection closed, where all others are looked after."""
        self.is_told_to_go = True
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)  # ssl's own would drop its state

    def close(self) -> None:
        """Close it; a handshake that was begun and came to no good end is counted."""
        if self.sent_hello and not self.is_secured:
            self.server.health.refused("tls")
            self.sent_hello = False
        super().close()


class _PatientServer(WSGIServer):
    """Gives a connection to a thread only once it has sent something: idle ones take none."""

    ConnectionClass = _Connection
    max_request_header_size = MOST_HEADER_BYTES
    max_request_body_size = MOST_HEADER_BYTES
    health: Health
    web: WebConfigFile
    _connections: Any

    def process_conn(self, conn: HTTPConnection) -> None:
        """Take a connection that was accepted just now, or one that has something to read."""
        if isinstance(conn, _Connection) and conn.is_new:
            conn.is_new = False
            self._make_room()
            self.put_conn(conn)
        else:
            super().process_conn(conn)

    def _make_room(self) -> None:
        """Keep the number of waiting connections bounded without turning a new one, a scrape, away."""
        waiting = [
            conn
            for _, conn in self._connections._selector.connections
            if conn is not self and not conn.is_told_to_go
        ]
        if len(waiting) >= MOST_WAITING:
            self.health.refused("busy")
            min(waiting, key=lambda conn: conn.last_used).tell_to_go()

    def error_log(self, msg: str = "", level: int = 20, traceback: bool = False) -> None:
        """Clients that hang up are everyday; cheroot would print them to the job's output."""


def _close_in_child() -> None:
    for server in list(_servers):
        server.close_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
