"""The HTTP server against clients that are slow, silent, malformed or many."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPConnection

import pytest
from prometheus_client import CollectorRegistry

from tests.serving import request, wait_for
from trainbeacon.blackbox.reader import Box, BoxIdentity
from trainbeacon.exporter.health import Health
from trainbeacon.exporter.http import pages
from trainbeacon.exporter.http import server as module
from trainbeacon.exporter.http.limits import Limits
from trainbeacon.exporter.http.pages import Application, landing_page
from trainbeacon.exporter.http.server import Server
from trainbeacon.stack.ports import free_port

LIMITS = Limits()
#: With these a thread that waited for a client would wait for longer than any test does.
ENDLESS = Limits(idle_seconds=3600, handshake_seconds=3600, head_seconds=3600, body_seconds=3600)
HEAD = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"


class Served:
    """One server on a free port, with an empty registry."""

    def __init__(self, port: int = 0, limits: Limits = LIMITS) -> None:
        self.health = Health()
        self.scrapes = 0
        application = Application(CollectorRegistry(), self.health, list, self._scraped)
        self.server = Server(application, self.health, "127.0.0.1", port, limits=limits)
        self.url = f"http://127.0.0.1:{self.server.port}"

    def _scraped(self) -> None:
        self.scrapes += 1

    def refused(self, reason: str) -> int:
        return self.health.counts()[1][reason]

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.server.port), timeout=120)

    def send(self, data: bytes) -> bytes:
        """What comes back for these bytes until the server hangs up; what it refuses to read is no error."""
        with self.connect() as client:
            answer = b""
            try:
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
                while chunk := client.recv(65536):
                    answer += chunk
            except ConnectionError:
                pass
            return answer


@pytest.fixture
def served() -> Iterator[Served]:
    made = Served()
    made.server.start()
    yield made
    made.server.stop()


def assert_free(port: int) -> None:
    """The next server gets this port, and not the one after it."""
    following = Served(port)
    following.server.stop()
    assert port == following.server.port


@pytest.fixture
def endless() -> Iterator[Served]:
    """A server that bounds no client's time."""
    made = Served(limits=ENDLESS)
    made.server.start()
    yield made
    made.server.stop()


def assert_scraped(served: Served) -> None:
    assert 200 == request(f"{served.url}/metrics").status


def test_idle_connections_take_no_thread(endless: Served) -> None:
    """With ten times as many silent connections as there are threads a scrape is answered."""
    with ExitStack() as stack:
        for _ in range(10 * LIMITS.threads):
            stack.enter_context(endless.connect())
        assert_scraped(endless)


def test_half_requests_take_no_thread(endless: Served) -> None:
    """Slow loris: with ten times as many clients as threads that never end their request one is answered."""
    with ExitStack() as stack:
        clients = [stack.enter_context(endless.connect()) for _ in range(10 * LIMITS.threads)]
        for part in (HEAD, b"X-A: b\r\n", b"X-C"):
            for client in clients:
                client.sendall(part)
            assert_scraped(endless)


def test_bodies_that_never_come_take_no_thread(served: Served) -> None:
    """A scrape has its answer while 36 clients promise bodies, and come back when cut off."""
    over = threading.Event()

    def promise() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError), served.connect() as client:
                client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 4000\r\n\r\n")
                while client.recv(4096):
                    pass

    clients = [threading.Thread(target=promise) for _ in range(36)]
    for client in clients:
        client.start()
    try:
        wait_for(lambda: served.refused("malformed") >= 36, what="clients that were cut off")
        assert_scraped(served)
    finally:
        over.set()
        for client in clients:
            client.join()


def test_a_body_is_read_and_the_connection_goes_on(served: Served) -> None:
    """A client that sends a body with GET, against custom, is answered, whole or in chunks."""
    body = b"Content-Length: 4\r\n\r\nabcd"
    chunks = b"Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n"
    answer = served.send(HEAD + body + HEAD + chunks + HEAD + b"Connection: close\r\n\r\n")
    assert 3 == answer.count(b"HTTP/1.1 200 OK")
    assert 0 == served.refused("malformed")


def test_bodies_share_a_bounded_memory() -> None:
    """However many clients send bodies at once, what waits in memory is bounded; the others get 503."""
    made = Served(limits=Limits(body_bytes=1000, bodies_at_once=2, body_seconds=60))
    made.server.start()
    try:
        with ExitStack() as stack:
            for _ in range(3):
                client = stack.enter_context(made.connect())
                client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n" + b"x" * 900)
            wait_for(lambda: made.refused("busy") == 1, what="refusal")
            assert client.recv(4096).startswith(b"HTTP/1.1 503 ") or made.refused("busy") == 1
            assert 200 == request(f"{made.url}/healthz").status
    finally:
        made.server.stop()


def test_no_thread_to_be_had_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that cannot start says why, and gives port, threads and descriptors back."""
    descriptors, threads = len(os.listdir("/proc/self/fd")), set(threading.enumerate())
    made = Served()
    begin, begun = threading.Thread.start, []

    def start(thread: threading.Thread) -> None:
        if len(begun) == 3:
            raise RuntimeError("can't start new thread")
        begun.append(thread)
        begin(thread)

    with monkeypatch.context() as context:
        context.setattr(threading.Thread, "start", start)
        with pytest.raises(OSError, match="cannot be served: no more threads"):
            made.server.start()
    wait_for(lambda: not set(threading.enumerate()) - threads, what="end of the threads")
    assert descriptors >= len(os.listdir("/proc/self/fd"))
    assert_free(made.server.port)


def test_dripping_request_is_cut_off(served: Served) -> None:
    """A client that sends a byte now and then has no more time than one that sends none."""
    with served.connect() as client:
        client.sendall(HEAD)

        def is_cut_off() -> bool:
            try:
                client.sendall(b"a")
            except ConnectionError:
                return True
            return False

        wait_for(is_cut_off, what="end of the connection")
    assert 1 == served.refused("malformed")


def test_connection_is_kept_for_the_next_scrape(served: Served) -> None:
    """A scraper reuses its connection, also after a while of silence."""
    connection = HTTPConnection("127.0.0.1", served.server.port, timeout=120)
    for _ in range(3):
        connection.request("GET", "/healthz")
        assert b"ok\n" == connection.getresponse().read()
        assert connection.sock is not None
    connection.close()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", id="TLS to a plain port"),
        pytest.param(b"hello\r\n\r\n", id="no request line"),
        pytest.param(b"GET / HTTP/9.9\r\n\r\n", id="unknown version"),
        pytest.param(b"GET /metrics HTTP/1.1\r\nno colon\r\n\r\n", id="header without colon"),
        pytest.param(b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n", id="endless address"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 5_000 + b"\r\n", id="endless headers"),
        pytest.param(b"POST / HTTP/1.1\r\nContent-Length: 999999\r\n\r\n", id="body too large"),
        pytest.param(b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n", id="length that is none"),
    ],
)
def test_malformed_request_is_refused_and_counted(
    data: bytes, served: Served, capfd: pytest.CaptureFixture[str]
) -> None:
    """No answer but an error, one count, nothing printed, and the next client is served."""
    answer = served.send(data)
    assert answer[:13] in (b"", *(f"HTTP/1.1 {code} ".encode() for code in (400, 413, 431, 505)))
    wait_for(lambda: served.refused("malformed") == 1, what="count")
    assert_scraped(served)
    assert ("", "") == capfd.readouterr()


def test_garbage_behind_a_request_spoils_only_itself(served: Served) -> None:
    """Pipelined: the good request is answered, the garbage after it refused."""
    answer = served.send(HEAD + b"\r\n" + b"\x00\xff garbage\r\n\r\n")
    first, _, rest = answer.partition(b"ok\n")
    assert first.startswith(b"HTTP/1.1 200 OK")
    assert rest.startswith(b"HTTP/1.1 400 ")
    assert 1 == served.refused("malformed")


def test_client_that_hangs_up_is_no_event(served: Served, capfd: pytest.CaptureFixture[str]) -> None:
    """Clients that leave in the middle of an answer print nothing and harm nobody."""
    for _ in range(20):
        with served.connect() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # reset at close
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    assert_scraped(served)
    assert ("", "") == capfd.readouterr()


def test_only_scrapes_count_as_scrapes(served: Served) -> None:
    """Probes and HEAD do not make an ending exporter believe that its last state was seen."""
    for method, path in (("GET", "/healthz"), ("GET", "/"), ("GET", "/x"), ("HEAD", "/metrics")):
        request(served.url + path, method)
    assert 0 == served.scrapes
    request(f"{served.url}/metrics")
    assert 1 == served.scrapes


def test_threads_are_bounded_and_end(served: Served) -> None:
    """However many clients come at once, the threads stay those of the start; stop ends them."""

    def ours() -> int:
        return sum(thread.name.startswith("trainbeacon-http") for thread in threading.enumerate())

    before = ours()
    with ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(served.connect()).sendall(HEAD + b"\r\n")
        assert before == ours()
    served.server.stop()
    wait_for(lambda: ours() == 0, what="end of the threads")


def test_more_requests_than_can_wait_are_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the threads are busy and the queue is full, the next request gets 503 soon, and is counted."""
    over, working = threading.Event(), threading.Semaphore(0)

    def slow_page(boxes: object) -> str:
        working.release()
        over.wait()
        return ""

    monkeypatch.setattr(pages, "landing_page", slow_page)
    made = Served(limits=Limits(threads=2, queue=0))
    made.server.start()
    try:
        with ExitStack() as stack:
            for _ in range(2):
                stack.enter_context(made.connect()).sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert working.acquire(timeout=120)
            assert 503 == request(f"{made.url}/metrics").status
            assert 1 == made.refused("busy")
            over.set()
            wait_for(lambda: request(f"{made.url}/metrics").status == 200)
    finally:
        over.set()
        made.server.stop()


def test_stop_frees_the_port_although_clients_hang_on() -> None:
    """An exporter that ends does not wait for idle or half-done clients."""
    made = Served(free_port(), ENDLESS)
    made.server.start()
    with made.connect(), made.connect() as half:
        half.sendall(HEAD)
        made.server.stop()
    assert_free(made.server.port)


def test_taken_port_moves_to_the_next() -> None:
    """The wanted port is taken by a stranger: the next free one, and `moved` says so."""
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        made = Served(stranger.getsockname()[1])
        made.server.stop()
        assert (True, True) == (made.server.moved, made.server.port > stranger.getsockname()[1])


def test_no_free_port_names_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen taken ports are an error that says what to do; here the sixteen are one."""
    monkeypatch.setattr(module, "PORTS_TRIED", 1)
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        with pytest.raises(OSError, match=f"port={port}: all ports up to {port} are taken on 127.0.0.1; set"):
            Served(port)


def test_address_that_is_not_ours_names_the_setting() -> None:
    """An address of another machine is an error that names it."""
    application = Application(CollectorRegistry(), Health(), list, lambda: None)
    with pytest.raises(OSError, match=r"host='192\.0\.2\.1', port="):
        Server(application, Health(), "192.0.2.1", free_port())


#: In a network of its own, where all addresses are loopback's: who answers on "::", with and without IPv6.
EVERYWHERE = """\
import errno, fcntl, socket, struct, sys
from urllib.request import urlopen
from prometheus_client import CollectorRegistry
from trainbeacon.exporter.health import Health
from trainbeacon.exporter.http.pages import Application
from trainbeacon.exporter.http.server import Server

with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as up:
    fcntl.ioctl(up, 0x8914, struct.pack("16sh14x", b"lo", 0x49))  # SIOCSIFFLAGS: up, running, loopback
if "--without" in sys.argv:
    class Socket(socket.socket):
        def __init__(self, family=-1, *others, **more):
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
            super().__init__(family, *others, **more)
    socket.socket = Socket
health = Health()
pages = Application(CollectorRegistry(), health, lambda: [], lambda: None)
server = Server(pages, health, "::", 9797)
server.start()
for host in ("127.0.0.1", "[::1]"):
    try:
        print(host, urlopen(f"http://{host}:9797/healthz").status)
    except OSError:
        print(host, "nobody")
server.stop()
"""


@pytest.mark.parametrize(
    ("options", "answered"),
    [([], "127.0.0.1 200\n[::1] 200\n"), (["--without"], "127.0.0.1 200\n[::1] nobody\n")],
)
def test_all_addresses_are_those_of_both_families(options: list[str], answered: str) -> None:
    """The default address takes IPv6 and IPv4; where the kernel has no IPv6, IPv4 alone."""
    as_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", "--net", *as_root, sys.executable, "-c", EVERYWHERE, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (0, answered) == (done.returncode, done.stdout), done.stderr


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_child_lets_go_of_the_port() -> None:
    """A child forked while we serve does not keep the port when we are gone."""
    made = Served(free_port())
    made.server.start()
    said, says = os.pipe()
    told, tells = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(tells)
        os.write(says, b"!")  # what is to be done after a fork has been done
        os.read(told, 1)
        os._exit(0)
    try:
        assert b"!" == os.read(said, 1)
        made.server.stop()
        assert_free(made.server.port)
    finally:
        for descriptor in (said, says, told, tells):
            os.close(descriptor)
        os.waitpid(child, 0)


def test_landing_page_escapes_the_run() -> None:
    """A run's name is the user's text: it cannot bring a script into the page."""
    box = Box(
        "b", BoxIdentity("<script>x</script>", 0, 1.0), "running", True, {("training_step", ()): 7.0}, ()
    )
    page = landing_page([box])
    assert "<script>" not in page
    assert "&lt;script&gt;x&lt;/script&gt;<td>0<td>running<td>7" in page


def test_landing_page_without_training() -> None:
    """Nothing to show is said."""
    assert "No training here now" in landing_page([])
