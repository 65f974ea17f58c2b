"""One connection: TLS, requests as they arrive, answers; every wait has an end and none has a thread.

A coroutine on the event loop reads a request whole, within `Limits`, before a thread sees it. So clients
that say little, or drip, or promise a body that never comes, cost some memory and no scrape its answer.
HTTP itself is h11's.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import h11

from trainbeacon.exporter.http.limits import Limits, Refusals
from trainbeacon.exporter.http.protection import WebConfig
from trainbeacon.exporter.http.workers import BusyError
from trainbeacon.exporter.http.wsgi import Request, Response

_READ_BYTES = 16 * 1024
#: What is read of a request that was refused, so that closing does not destroy the answer on its way.
_DISCARDED_BYTES, _DISCARDING_SECONDS = 1024 * 1024, 1.0
_TLS_HANDSHAKE = b"\x16"
_WITHOUT_TLS = b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\n\r\nthis server speaks HTTPS only\n"

Result = TypeVar("Result")


@dataclass
class Shared:
    """What the connections of a server share. Belongs to the event loop."""

    limits: Limits
    refusals: Refusals
    answer: Callable[[Request], Awaitable[Response]]
    """Has a thread answer. Raises BusyError."""
    body_bytes: int = 0
    """Bytes of bodies that wait in memory."""


class _RefusalError(Exception):
    """A request that gets this status, and is the last one of its connection."""

    def __init__(self, status: int, reason: str, text: str) -> None:
        super().__init__(text)
        self.status, self.reason, self.text = status, reason, text


class Connection:
    """One accepted connection.

    Attributes:
        sock: what it was accepted as.
        is_waiting: whether it waits for its client: to say something, or to take an answer.
        since: when it began to wait, on the loop's clock.
    """

    def __init__(self, sock: socket.socket, address: str, web: WebConfig, shared: Shared) -> None:
        self.sock = sock
        self.is_waiting = True
        self.since = asyncio.get_running_loop().time()
        self._address = address
        self._web = web
        self._shared = shared
        self._limits = shared.limits
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._is_opening = False
        self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=shared.limits.head_bytes)

    async def serve(self) -> None:
        """Serve until either side has enough."""
        try:
            if await self._is_opened():
                while await self._exchange():
                    self._waits()
        except (OSError, asyncio.TimeoutError, h11.LocalProtocolError):
            pass  # gone, or it does not take its answer
        finally:
            await self._close()

    def release(self) -> None:
        """Close the socket, unless the loop does: to be called when `serve` is over, or never began."""
        if not self._is_opening:
            self.sock.close()

    def _waits(self) -> None:
        self.is_waiting, self.since = True, _now()

    # Opening

    async def _is_opened(self) -> bool:
        if self._web.context is None:
            await self._open(None)
            return True
        first = await self._first_byte()
        if first == _TLS_HANDSHAKE:
            return await self._is_secured(self._web.context)
        if first:
            self._shared.refusals.refused("tls")
            with contextlib.suppress(OSError):
                self.sock.recv(_READ_BYTES)  # unread bytes would reset the connection
                self.sock.send(_WITHOUT_TLS)
        return False  # with nothing said: a probe

    async def _first_byte(self) -> bytes:
        """What the client begins with; empty if it says nothing in time, or goes."""
        loop = asyncio.get_running_loop()
        readable: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self.sock, lambda: None if readable.done() else readable.set_result(None))
        try:
            await asyncio.wait_for(readable, self._limits.handshake_seconds)
            return self.sock.recv(1, socket.MSG_PEEK)
        except (OSError, asyncio.TimeoutError):
            return b""
        finally:
            loop.remove_reader(self.sock)

    async def _is_secured(self, context: ssl.SSLContext) -> bool:
        left = self.since + self._limits.handshake_seconds - _now()
        try:
            writer = await self._open(context, ssl_handshake_timeout=max(0.1, left))
        except OSError:  # also ssl.SSLError and a handshake that takes too long
            self._shared.refusals.refused("tls")
            return False
        certificate = writer.get_extra_info("peercert") or {}
        names = {name for _, name in certificate.get("subjectAltName", ())}
        if self._web.allowed_sans is not None and not names & self._web.allowed_sans:
            self._shared.refusals.refused("tls")
            return False
        return True

    async def _open(
        self, context: ssl.SSLContext | None, ssl_handshake_timeout: float | None = None
    ) -> asyncio.StreamWriter:
        self._is_opening = True  # from here on the socket is the loop's, which closes it where this fails
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(_READ_BYTES)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol, self.sock, ssl=context, ssl_handshake_timeout=ssl_handshake_timeout
        )
        self._reader = reader
        self._writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        return self._writer

    # Requests

    async def _exchange(self) -> bool:
        """Take one request and answer it; whether there may be another."""
        try:
            request = await self._request()
            if request is None:
                return False
            self.is_waiting = False
            response = await self._answer(request)
            self._waits()
            await self._send(response)
        except h11.RemoteProtocolError as error:
            await self._refuse(_RefusalError(error.error_status_hint, "malformed", "no proper HTTP\n"))
        except _RefusalError as refusal:
            await self._refuse(refusal)
        if self._parser.our_state is not h11.DONE or self._parser.their_state is not h11.DONE:
            await self._discard()
            return False
        self._parser.start_next_cycle()
        return True

    async def _request(self) -> Request | None:
        """The next request, whole; None if the client has no more. Raises _RefusalError."""
        parser, limits = self._parser, self._limits
        has_begun = bool(parser.trailing_data[0])
        end = _now() + (limits.head_seconds if has_begun else limits.idle_seconds)
        while (event := parser.next_event()) is h11.NEED_DATA:
            try:
                data = await self._read(end)
            except asyncio.TimeoutError:
                if not has_begun:
                    return None
                raise _RefusalError(408, "malformed", "the request took too long\n") from None
            if data and not has_begun:
                has_begun, end = True, _now() + limits.head_seconds
            parser.receive_data(data)
        if not isinstance(event, h11.Request):
            return None
        if event.http_version not in (b"1.0", b"1.1"):
            raise _RefusalError(505, "malformed", "HTTP/1.1 is served\n")
        return Request(event, await self._body(event), self._address, self._web.scheme)

    async def _body(self, head: h11.Request) -> bytes:
        """All that follows the head, as far as there is room."""
        limit = self._limits.body_bytes
        promised = next((int(value) for name, value in head.headers if name == b"content-length"), 0)
        if promised > limit:
            raise _RefusalError(413, "malformed", f"at most {limit} bytes\n")
        parser, body = self._parser, bytearray()
        end = _now() + self._limits.body_seconds
        try:
            while not isinstance(event := parser.next_event(), h11.EndOfMessage):
                if isinstance(event, h11.Data):
                    self._keep(body, event.data)
                elif event is h11.NEED_DATA:
                    await self._let_go_on()
                    parser.receive_data(await self._read(end))
                else:
                    break
        except asyncio.TimeoutError:
            raise _RefusalError(408, "malformed", "the request took too long\n") from None
        finally:
            self._shared.body_bytes -= len(body)
        return bytes(body)

    def _keep(self, body: bytearray, data: bytes) -> None:
        limit = self._limits.body_bytes
        if len(body) + len(data) > limit:
            raise _RefusalError(413, "malformed", f"at most {limit} bytes\n")
        if self._shared.body_bytes + len(data) > limit * self._limits.bodies_at_once:
            raise _RefusalError(503, "busy", "too many requests at once\n")
        body += data
        self._shared.body_bytes += len(data)

    async def _let_go_on(self) -> None:
        if self._parser.they_are_waiting_for_100_continue:
            writer = self._stream()
            writer.write(self._parser.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
            await self._in_time(writer.drain())

    async def _read(self, end: float) -> bytes:
        assert self._reader is not None
        return await asyncio.wait_for(self._reader.read(_READ_BYTES), max(0.0, end - _now()))

    # Answers

    async def _answer(self, request: Request) -> Response:
        try:
            return await self._shared.answer(request)
        except BusyError:
            raise _RefusalError(503, "busy", "too many requests at once\n") from None

    async def _send(self, response: Response) -> None:
        parser, writer = self._parser, self._stream()
        head = h11.Response(status_code=response.status, reason=response.reason, headers=response.headers)
        parts = [parser.send(head) or b""]
        if response.body:
            parts.append(parser.send(h11.Data(data=response.body)) or b"")
        parts.append(parser.send(h11.EndOfMessage()) or b"")
        writer.write(b"".join(parts))
        await self._in_time(writer.drain())

    async def _refuse(self, refusal: _RefusalError) -> None:
        self._shared.refusals.refused(refusal.reason)
        if self._parser.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await self._send(Response.of_text(refusal.status, refusal.text))

    async def _in_time(self, work: Awaitable[Result]) -> Result:
        return await asyncio.wait_for(work, self._limits.answer_seconds)

    def _stream(self) -> asyncio.StreamWriter:
        assert self._writer is not None
        return self._writer

    # Closing

    async def _discard(self) -> None:
        """Take what still comes, for a moment: closing on unread bytes would destroy the answer."""
        writer = self._stream()
        if not writer.can_write_eof():
            return
        writer.write_eof()
        left, end = _DISCARDED_BYTES, _now() + _DISCARDING_SECONDS
        while left > 0 and (data := await self._read(end)):
            left -= len(data)

    async def _close(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        try:
            await self._in_time(self._writer.wait_closed())  # what is left of an answer goes first
        except (OSError, asyncio.TimeoutError):
            pass  # it does not say goodbye
        finally:
            self._writer.transport.abort()


def _now() -> float:
    return asyncio.get_running_loop().time()
