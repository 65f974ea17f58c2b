"""One bad receiver stops no other, and nothing of its address is in a log: over real sockets."""

from __future__ import annotations

import logging
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.notify.payloads import notification
from trainbeacon.notify import robots, services
from trainbeacon.notify.counts import Counts
from trainbeacon.notify.delivery import Outbox
from trainbeacon.notify.message import Message
from trainbeacon.notify.settings import Receiver

SECONDS = 60.0
SECRET, TOKEN = "hush-secret", "silent-token"
OVER = threading.Event()


def _close(connection: socket.socket) -> None:
    """At once, without a word."""


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _hang(connection: socket.socket) -> None:
    connection.recv(65536)
    OVER.wait(SECONDS)


def _drip(connection: socket.socket) -> None:
    """A letter at a time: each is in time, the answer never ends."""
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Long: ")
    while not OVER.wait(0.05):
        connection.sendall(b"x")


def _says(*answer: bytes) -> Callable[[socket.socket], None]:
    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"\r\n".join(answer))

    return talk


ELSEWHERE = f"http://127.0.0.1:9/{TOKEN}".encode()
BAD: dict[str, Callable[[socket.socket], None]] = {
    "closes": _close,
    "resets": _reset,
    "hangs": _hang,
    "drips": _drip,
    "no HTTP": _says(b"220 mail.example ESMTP", b""),
    "bytes": _says(bytes(range(256)) * 20),
    "endless header": _says(b"HTTP/1.1 200 OK", b"X: " + b"x" * 200_000, b"", b""),
    "bad length": _says(b"HTTP/1.1 500 Broken", b"Content-Length: many", b"", b"{}"),
    "bad chunks": _says(b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked", b"", b"zz", b"{}"),
    "too short": _says(b"HTTP/1.1 500 Broken", b"Content-Length: 99", b"", b"{}"),
    "500": _says(b"HTTP/1.1 500 Broken", b"Content-Length: 0", b"", b""),
    "redirects": _says(b"HTTP/1.1 302 Found", b"Location: " + ELSEWHERE, b"Content-Length: 0", b"", b""),
    "redirects with the body": _says(
        b"HTTP/1.1 307 Moved", b"Location: " + ELSEWHERE, b"Content-Length: 0", b"", b""
    ),
}


@contextmanager
def listening(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that treats each connection so, on a port."""
    OVER.clear()
    server = socket.create_server(("127.0.0.1", 0))

    def one(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            talk(connection)

    def serve() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=one, args=server.accept()[:1], daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield server.getsockname()[1]
    finally:
        OVER.set()
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        server.close()


def posting(port: int, reached: threading.Event) -> Callable[[str, Message, str], bool]:
    """Our robots and Apprise as they are, on loopback; the address `good` takes everything."""
    here = {"dingtalk": replace(robots.ROBOTS["dingtalk"], origin=f"http://127.0.0.1:{port}")}

    def post(url: str, message: Message, format: str) -> bool:
        if url == "good":
            reached.set()
            return True
        taken = robots.post(url, message, format, here)
        return services.post(url, message, format) if taken is None else taken

    return post


@pytest.mark.parametrize("scheme", ["dingtalk", "json"])
@pytest.mark.parametrize("talk", BAD.values(), ids=BAD)
def test_a_bad_receiver_stops_no_other(
    talk: Callable[[socket.socket], None], scheme: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The address after it has the message, the request fails and is tried again, no secret is logged."""
    caplog.set_level(logging.DEBUG, logger="trainbeacon")
    reached = threading.Event()
    with listening(talk) as port:
        host = TOKEN if scheme == "dingtalk" else f"127.0.0.1:{port}/{TOKEN}"
        (tmp_path / "urls").write_text(f"{scheme}://user:{SECRET}@{host}\ngood\n", encoding="utf-8")
        receiver = Receiver(name="team", urls_file=str(tmp_path / "urls"), coalesce_seconds=0)
        outbox = Outbox(receiver, posting(port, reached), Counts(["team"]), patience=1.0)
        ticket = outbox.submit(notification(), SECONDS)
        assert reached.wait(SECONDS)
        assert ticket.done.wait(SECONDS)
        outbox.stop()
    assert "failed" == ticket.outcome
    assert not [part for part in (SECRET, TOKEN, "127.0.0.1", "user") if part in caplog.text]


def test_an_address_that_hangs_is_not_asked_again_meanwhile(tmp_path: Path) -> None:
    """Threads do not pile up behind it; what it takes in the end is known and not sent again."""
    gate, asked, good = threading.Event(), [], []

    def post(url: str, message: Message, format: str) -> bool:
        if url == "good":
            good.append(message)
            return True
        asked.append(message)
        return gate.wait(SECONDS)

    (tmp_path / "urls").write_text("slow\ngood\n", encoding="utf-8")
    receiver = Receiver(name="team", urls_file=str(tmp_path / "urls"), coalesce_seconds=0)
    outbox = Outbox(receiver, post, Counts(["team"]), patience=0.05)
    for _ in range(3):
        ticket = outbox.submit(notification(), SECONDS)
        assert ticket.done.wait(SECONDS)
        assert "failed" == ticket.outcome
    assert (1, 1) == (len(asked), len(good))
    gate.set()
    outcomes = []
    while "delivered" not in outcomes:
        ticket = outbox.submit(notification(), SECONDS)
        assert ticket.done.wait(SECONDS)
        outcomes.append(ticket.outcome)
    outbox.stop()
    assert 1 == len(asked)


def test_what_a_service_says_is_logged_without_the_address(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Services repeat tokens in their refusals."""
    answer = f'{{"errcode": 300001, "errmsg": "token {TOKEN} of {SECRET} is not exist"}}'.encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(answer)}\r\n\r\n".encode()
    with listening(_says(head + answer)) as port:
        post = posting(port, threading.Event())
        assert not post(f"dingtalk://{SECRET}@{TOKEN}", Message("t", "b", "info"), "text")
    assert "code 300001: token ... of ... is not exist" in caplog.text


@pytest.mark.parametrize(
    "line", [f"{TOKEN}:{SECRET}", TOKEN, f"{TOKEN}://x", f"slack://{TOKEN}", f"dingtalk://[{TOKEN}"]
)
def test_an_address_that_cannot_be_read_is_not_shown(line: str, caplog: pytest.LogCaptureFixture) -> None:
    """What stands in a file of secrets is one, wherever it stands."""
    caplog.set_level(logging.DEBUG)
    assert not services.post(line, Message("t", "b", "info"), "text")
    assert TOKEN not in caplog.text
    assert SECRET not in caplog.text
