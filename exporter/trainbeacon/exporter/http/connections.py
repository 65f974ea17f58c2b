"""Connections that get a thread only for what is there: cheroot's, made patient with slow clients.

A handshake or the head of a request takes no thread while it arrives, has a bounded time, and counts as
refused if it comes to no good end. So many clients that say little do not keep a scraper from its answer.
"""

from __future__ import annotations

import contextlib
import math
import queue
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any

from cheroot.makefile import MakeFile, StreamReader
from cheroot.server import HTTPConnection, HTTPRequest
from cheroot.wsgi import Server as WSGIServer

from trainbeacon.exporter.health import Health
from trainbeacon.exporter.http.webconfig import WebConfigFile

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

#: How long a connection may be idle, and an answer may wait for its reader.
TIMEOUT_SECONDS = 10
#: How long the head of a request may take from its first byte on. It gets a thread when it is whole.
REQUEST_SECONDS = 3
MOST_HEADER_BYTES = 16 * 1024
MOST_BODY_BYTES = 16 * 1024
#: How long a TLS handshake may take; a connection has a thread only while it has sent something of it.
HANDSHAKE_SECONDS = 5
#: Connections that wait for their client; the one that has waited longest goes for the next.
MOST_WAITING = 128


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

    def take_back(self) -> bytes:
        """What was read and not used."""
        left = bytes(self._read_buf[self._read_pos :])
        self.give(b"")
        return left

    def give(self, data: bytes) -> None:
        """Have this read next."""
        self._read_buf, self._read_pos = data, 0


def _make_file(sock: socket.socket, mode: str, size: int) -> Any:
    return _TimedReader(sock, size) if "r" in mode else MakeFile(sock, mode, size)


class _Request(HTTPRequest):
    def parse_request(self) -> None:
        """Read the head of a request, in bounded time."""
        self.conn.rfile.raw.deadline = self.conn.head_end
        try:
            super().parse_request()
        except (ValueError, NameError):  # what cheroot lets through and does not understand, and a slip in it
            self.simple_response("400 Bad Request", "no proper HTTP")
        self.conn.socket.settimeout(TIMEOUT_SECONDS)

    def simple_response(self, status: Any, msg: str = "") -> None:
        """What cheroot answers by itself: a request that is no proper HTTP."""
        self.server.health.refused("malformed")
        super().simple_response(status, msg)


class _Connection(HTTPConnection):
    """One connection. Handshakes and heads of requests grow as bytes arrive, and no thread waits for them."""

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
        self._head = b""
        self._is_over = False
        self.head_end = math.inf

    def communicate(self) -> bool:
        """Take what has arrived, and answer a request that is whole; whether the connection goes on."""
        if not self.is_secured:
            return self._shake_hands()
        if not self._is_head_whole():
            return True
        self.rfile.give(self._head)
        self._head = b""
        goes_on = bool(super().communicate())  # type: ignore[no-untyped-call]
        self.head_end = math.inf
        return goes_on

    def _is_head_whole(self) -> bool:
        """Whether a request can be read without waiting for its client, or there is no more to wait for."""
        arrived = self.rfile.take_back() + self._receive()
        if not self._head and arrived:
            self.head_end = time.monotonic() + REQUEST_SECONDS
        self._head += arrived
        ended = b"\n\r\n" in self._head or b"\n\n" in self._head
        too_much = len(self._head) > MOST_HEADER_BYTES
        return ended or too_much or self._is_over or time.monotonic() > self.head_end

    def _receive(self) -> bytes:
        self.socket.settimeout(0)
        try:
            # A whole TLS record fits: what was left of one, decrypted, would make no socket readable.
            received = bytes(self.socket.recv(MOST_HEADER_BYTES))
        except (BlockingIOError, ssl.SSLWantReadError):
            return b""
        self._is_over = not received
        return received

    def _shake_hands(self) -> bool:
        try:
            self.socket.settimeout(0)
            self.socket.do_handshake()
        except ssl.SSLWantReadError:
            self.sent_hello = True
            return time.monotonic() < self._handshake_end
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):  # which of them, depends on the Python
            return False  # a TCP probe, unless it had said hello
        except ssl.SSLError as error:
            self.sent_hello = True
            if getattr(error, "reason", "") == "HTTP_REQUEST":
                self._answer_without_tls()
            return False
        except OSError:
            return False  # gone
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

    def turn_away(self) -> None:
        """Answer that there is too much to do, as far as that is possible without waiting, and close."""
        with contextlib.suppress(OSError):
            self.socket.settimeout(0)
            if self.is_secured:
                self.socket.recv(MOST_HEADER_BYTES)  # unread bytes would reset the connection
                self.socket.send(b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\r\n")
        self._head = b""
        self.close()

    def tell_to_go(self) -> None:
        """Hang up; the end is seen, and the connection closed, where all others are looked after."""
        self.is_told_to_go = True
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)  # ssl's own would drop its state

    def close(self) -> None:
        """Close it; a handshake or a request that was begun and came to no good end is counted."""
        if self.sent_hello and not self.is_secured:
            self.server.health.refused("tls")
        elif self._head:
            self.server.health.refused("malformed")
        self.sent_hello, self._head = False, b""
        super().close()


class PatientServer(WSGIServer):
    """Gives a connection to a thread only once it has sent something: idle ones take none."""

    ConnectionClass = _Connection
    max_request_header_size = MOST_HEADER_BYTES
    max_request_body_size = MOST_BODY_BYTES
    health: Health
    web: WebConfigFile
    _connections: Any

    def process_conn(self, conn: _Connection) -> None:
        """Take a connection that was accepted just now, or one that has something to read."""
        if conn.is_new:
            conn.is_new = False
            self._make_room()
            self.put_conn(conn)
            return
        try:
            self.requests.put(conn)
        except queue.Full:
            self.health.refused("busy")
            conn.turn_away()

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
