"""Times of scrapes over TLS with a password while somebody on the network means ill: docs/security.md.

    python -m benchmarks.under_attack [--scrapes 50]

Needs the openssl program and the extra `auth`. Attackers, server and scraper share this machine.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import os
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import bcrypt

from tests.certificates import Authority
from tests.serving import node, wait_for
from trainbeacon.blackbox.directory import open_directory
from trainbeacon.blackbox.election import read_note
from trainbeacon.testing import read_exposition

PASSWORD = "benchmark"
HALF_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"


class Target:
    """An agent that serves one rank over TLS to who has the password."""

    def __init__(self, authority: Authority, port: int) -> None:
        self.port = port
        self._context = authority.client_context()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def connect_tls(self) -> socket.socket:
        return self._context.wrap_socket(self.connect(), server_hostname="127.0.0.1")

    def scrape(self, password: str = PASSWORD) -> tuple[int, str]:
        credentials = base64.b64encode(f"prometheus:{password}".encode()).decode()
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=20, context=self._context)
        with contextlib.closing(connection):
            connection.request("GET", "/metrics", headers={"Authorization": f"Basic {credentials}"})
            response = connection.getresponse()
            return response.status, response.read().decode()


@contextlib.contextmanager
def target() -> Iterator[Target]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        authority = Authority(folder)
        authority.issue("server", "IP:127.0.0.1")
        known = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(10)).decode()
        web_config = folder / "web.yml"
        web_config.write_text(
            f"tls_server_config: {{cert_file: server.pem, key_file: server.key}}\n"
            f"basic_auth_users: {{prometheus: {known}}}\n"
        )
        with node(folder / "boxes") as made:
            made.rank(serve="off", script=True)
            made.agent("--web-config", str(web_config), wait=False)
            boxes = open_directory(str(made.folder))
            note = wait_for(lambda: read_note(boxes), what="exporter")
            os.close(boxes)
            assert note
            served = Target(authority, int(note.url.rsplit(":", 1)[1].removesuffix("/metrics")))
            wait_for(lambda: served.scrape()[0] == 200)
            yield served


def drip(connect: Callable[[], socket.socket], start: bytes, part: bytes, over: threading.Event) -> None:
    """One client that says a little now and then, until it is thrown out."""
    with connect() as client:
        client.sendall(start)
        while not over.wait(0.3):
            client.sendall(part)


def open_and_leave(served: Target, over: threading.Event) -> None:
    """A new connection every 5 ms, none closed until the server does or 500 newer ones are there."""
    held: list[socket.socket] = []
    while not over.wait(0.005):
        held.append(served.connect())
        held[-1].sendall(b"\x16")
        if len(held) > 500:
            held.pop(0).close()
    for client in held:
        client.close()


@contextlib.contextmanager
def attacked(attack: Callable[[threading.Event], None], clients: int) -> Iterator[None]:
    over = threading.Event()

    def repeat() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError, http.client.HTTPException):
                attack(over)

    threads = [threading.Thread(target=repeat) for _ in range(clients)]
    for thread in threads:
        thread.start()
    time.sleep(1.0)
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def report(name: str, served: Target, scrapes: int) -> None:
    """Time some scrapes and print a line."""
    times, failed = [], 0
    for _ in range(scrapes):
        begun = time.perf_counter()
        try:
            failed += served.scrape()[0] != 200
        except OSError:
            failed += 1
        times.append((time.perf_counter() - begun) * 1000)
        time.sleep(0.02)
    print(
        f"{name}: median {statistics.median(times):.0f} ms, longest {max(times):.0f} ms, failed {failed}",
        flush=True,
    )


def void(result: object) -> None:
    """What an attacker gets is of no use."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.under_attack")
    parser.add_argument("--scrapes", type=int, default=50, help="during each attack (default 50)")
    arguments = parser.parse_args()
    with target() as served:
        attacks: dict[str, tuple[Callable[[threading.Event], None], int]] = {
            "none": (lambda over: void(over.wait()), 1),
            "100 clients that drip a handshake": (
                lambda over: drip(served.connect, HALF_HELLO, b"\1", over),
                100,
            ),
            "60 clients that drip a request": (
                lambda over: drip(served.connect_tls, b"GET /metrics HTTP/1.1\r\n", b"X: y\r\n", over),
                60,
            ),
            "connections opened without pause and left": (lambda over: open_and_leave(served, over), 2),
            "6 clients that try passwords without pause": (lambda over: void(served.scrape("guess")), 6),
        }
        for name, (attack, clients) in attacks.items():
            with attacked(attack, clients):
                report(name, served, arguments.scrapes)
        refused = {
            key.label("reason"): value
            for key, value in read_exposition(served.scrape()[1]).items()
            if key.name == "trainbeacon_requests_refused_total"
        }
        print("refused:", refused)


if __name__ == "__main__":
    main()
