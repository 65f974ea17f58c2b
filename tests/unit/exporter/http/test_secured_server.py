"""The server with TLS, client certificates and passwords, and against those who try to get past them."""

from __future__ import annotations

import base64
import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import bcrypt
import pytest
from prometheus_client import CollectorRegistry

from tests.certificates import Authority, Pair
from tests.serving import PATIENCE, Answer, request, wait_for
from trainbeacon.exporter.health import Health
from trainbeacon.exporter.http.limits import Limits
from trainbeacon.exporter.http.pages import Application
from trainbeacon.exporter.http.server import Server
from trainbeacon.exporter.http.webconfig import WebConfigFile

PASSWORD = "correct-horse-9173"
HASH = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(10)).decode()
TLS = "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n"
CLIENTS = "  client_ca_file: authority.pem\n  client_auth_type: RequireAndVerifyClientCert\n"
LIMITS = Limits()
#: With these a thread that waited for a client would wait for longer than any test does.
ENDLESS = Limits(idle_seconds=3600, handshake_seconds=3600, head_seconds=3600, body_seconds=3600)
USERS = f"basic_auth_users:\n  prometheus: {HASH}\n"


def basic(password: str = PASSWORD, user: str = "prometheus") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    """The server's certificate."""
    return authority.issue("server", "IP:127.0.0.1", "DNS:localhost")


@pytest.fixture
def folder(tmp_path: Path, authority: Authority, pair: Pair) -> Path:
    """A folder for a web config file, with what it may name."""
    for path in (authority.certificate, pair.certificate, pair.key):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


class Served:
    """A server with a web config file, in this process."""

    def __init__(self, folder: Path, text: str, limits: Limits) -> None:
        self.path = folder / "web.yml"
        self.path.write_text(text)
        self.web = WebConfigFile(str(self.path))
        self.health = Health()
        application = Application(CollectorRegistry(), self.health, list, lambda: None, self.web)
        self.server = Server(application, self.health, "127.0.0.1", 0, self.web, limits=limits)

    def refused(self, reason: str) -> int:
        return self.health.counts()[1][reason]

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.server.port), timeout=120)

    def get(self, path: str = "/metrics", tls: ssl.SSLContext | None = None, **headers: str) -> Answer:
        if tls is None:
            return request(f"http://127.0.0.1:{self.server.port}{path}", **headers)
        connection = http.client.HTTPSConnection("127.0.0.1", self.server.port, timeout=120, context=tls)
        with contextlib.closing(connection):
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())


@pytest.fixture
def serve(folder: Path) -> Iterator[Callable[..., Served]]:
    """Starts a server with this text as its web config file."""
    started: list[Served] = []

    def start(text: str, limits: Limits = LIMITS) -> Served:
        started.append(Served(folder, text, limits))
        started[-1].server.start()
        return started[-1]

    yield start
    for served in started:
        served.server.stop()


class TestTls:
    def test_a_client_that_knows_the_authority_is_served(
        self, serve: Callable[..., Served], authority: Authority
    ) -> None:
        """Every page, one connection after the other, and several requests on one."""
        served = serve(TLS)
        trusting = authority.client_context()
        assert [200, 200, 200] == [
            served.get(path, trusting).status for path in ("/metrics", "/", "/healthz")
        ]
        connection = http.client.HTTPSConnection("127.0.0.1", served.server.port, context=trusting)
        with contextlib.closing(connection):
            for _ in range(3):
                connection.request("GET", "/healthz")
                assert b"ok\n" == connection.getresponse().read()

    def test_pipelined_requests_are_all_answered(
        self, serve: Callable[..., Served], authority: Authority
    ) -> None:
        """Requests that came in one TLS record are not forgotten in what was decrypted already."""
        served = serve(TLS)
        with authority.client_context().wrap_socket(served.connect(), server_hostname="127.0.0.1") as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 2 + b"GET / HTTP/1.0\r\n\r\n")
            answer = b""
            while chunk := client.recv(65536):
                answer += chunk
        assert 3 == answer.count(b"200 OK")

    def test_plain_http_is_told_so(self, serve: Callable[..., Served]) -> None:
        """A scrape configuration without `scheme: https` gets an answer that says what is wrong."""
        served = serve(TLS)
        answer = served.get()
        assert 400 == answer.status
        assert "HTTPS only" in answer.text
        wait_for(lambda: served.refused("tls") == 1)

    def test_a_client_that_does_not_trust_us_is_counted(self, serve: Callable[..., Served]) -> None:
        """A handshake that the client breaks off shows as refused."""
        served = serve(TLS)
        with pytest.raises(ssl.SSLCertVerificationError):
            served.get(tls=ssl.create_default_context())
        wait_for(lambda: served.refused("tls") == 1)

    def test_old_versions_are_refused(self, serve: Callable[..., Served], authority: Authority) -> None:
        """min_version holds: with TLS13 a client of TLS 1.2 has no handshake."""
        served = serve(TLS + "  min_version: TLS13\n")
        old = authority.client_context()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(ssl.SSLError):
            served.get(tls=old)
        assert 200 == served.get(tls=authority.client_context()).status
        wait_for(lambda: served.refused("tls") == 1)

    def test_a_tcp_probe_is_no_failed_handshake(
        self, serve: Callable[..., Served], authority: Authority
    ) -> None:
        """The kubelet's TCP probe, every ten seconds for ever, does not look like an attack."""
        served = serve(TLS)
        for _ in range(3):
            served.connect().close()
        assert 200 == served.get("/healthz", authority.client_context()).status
        assert 0 == served.refused("tls")

    def test_a_new_certificate_is_shown_without_a_restart(
        self, serve: Callable[..., Served], folder: Path, authority: Authority
    ) -> None:
        """After a rotation the next connection has the new certificate; half of one changes nothing."""
        served = serve(TLS)
        trusting = authority.client_context()
        renewed = authority.issue("renewed", "IP:127.0.0.1")

        def serial() -> object:
            with trusting.wrap_socket(served.connect(), server_hostname="127.0.0.1") as client:
                return (client.getpeercert() or {})["serialNumber"]

        before = serial()
        (folder / "server.pem").write_bytes(renewed.certificate.read_bytes())
        with pytest.raises(ValueError, match="no certificate with its key"):
            served.web.reload()
        assert before == serial()
        (folder / "server.key").write_bytes(renewed.key.read_bytes())
        assert served.web.reload()
        assert before != serial()


class TestClientCertificates:
    def test_only_who_the_authority_signed(
        self, serve: Callable[..., Served], authority: Authority, tmp_path: Path
    ) -> None:
        """No certificate and one of another authority get no page; counted each time."""
        served = serve(TLS + CLIENTS)
        known = authority.issue("prometheus", "DNS:prometheus.example", client=True)
        stranger = Authority(tmp_path / "other").issue("prometheus", client=True)
        assert 200 == served.get(tls=authority.client_context(known)).status
        for context in (authority.client_context(), authority.client_context(stranger)):
            with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
                served.get(tls=context)
        wait_for(lambda: served.refused("tls") == 2)

    def test_only_who_has_an_allowed_name(self, serve: Callable[..., Served], authority: Authority) -> None:
        """client_allowed_sans lets one service in of all that the authority has signed."""
        served = serve(TLS + CLIENTS + "  client_allowed_sans: [prometheus.example]\n")
        allowed = authority.issue("allowed", "DNS:prometheus.example", client=True)
        other = authority.issue("other", "DNS:other.example", client=True)
        assert 200 == served.get(tls=authority.client_context(allowed)).status
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
            served.get(tls=authority.client_context(other))
        wait_for(lambda: served.refused("tls") == 1)


class TestPasswords:
    @pytest.mark.parametrize("path", ["/metrics", "/", "/nothing"])
    def test_no_page_without(self, path: str, serve: Callable[..., Served]) -> None:
        """A challenge, and nothing that tells what runs here."""
        served = serve(USERS)
        for headers in ({}, {"authorization": basic("wrong")}, {"authorization": basic(user="nobody")}):
            answer = served.get(path, **headers)
            assert 401 == answer.status
            assert answer.headers["www-authenticate"].startswith("Basic ")
            assert "a user name and password, please\n" == answer.text
        assert 3 == served.refused("unauthorized")
        assert {200, 404} >= {served.get(path, authorization=basic()).status}

    def test_probes_need_none(self, serve: Callable[..., Served]) -> None:
        """/healthz says that the server lives and nothing else: a kubelet has no password to send."""
        served = serve(USERS)
        answer = served.get("/healthz")
        assert (200, "ok\n") == (answer.status, answer.text)

    def test_a_new_password_holds_at_once(self, serve: Callable[..., Served]) -> None:
        """After a reload the old password opens nothing, though it was right a moment ago."""
        served = serve(USERS)
        assert 200 == served.get(authorization=basic()).status
        changed = bcrypt.hashpw(b"changed", bcrypt.gensalt(4)).decode()
        served.path.write_text(f"basic_auth_users: {{prometheus: {changed}}}")
        assert served.web.reload()
        assert [401, 200] == [served.get(authorization=basic(p)).status for p in (PASSWORD, "changed")]

    def test_headers_of_the_file_are_on_every_answer(self, serve: Callable[..., Served]) -> None:
        """On the challenge too."""
        served = serve(f"{USERS}http_server_config: {{headers: {{X-Frame-Options: deny}}}}")
        for headers in ({}, {"authorization": basic()}):
            assert "deny" == served.get(**headers).headers["x-frame-options"]


class TestAttacks:
    """Somebody on the network who means ill does not keep Prometheus from scraping."""

    @contextlib.contextmanager
    def _attacked(self, attack: Callable[[], None], threads: int) -> Iterator[None]:
        over = threading.Event()

        def repeat() -> None:
            while not over.is_set():
                with contextlib.suppress(OSError, http.client.HTTPException):
                    attack()

        attackers = [threading.Thread(target=repeat) for _ in range(threads)]
        for attacker in attackers:
            attacker.start()
        try:
            yield
        finally:
            over.set()
            for attacker in attackers:
                attacker.join()

    def test_slow_handshakes(self, serve: Callable[..., Served], authority: Authority) -> None:
        """Clients that say half a hello and wait take no thread; their end is counted."""
        served = serve(TLS, ENDLESS)
        trusting = authority.client_context()
        hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
        clients = [served.connect() for _ in range(10 * LIMITS.threads)]
        try:
            for client in clients:
                client.sendall(hello)
            for drip in range(5):
                for client in clients:
                    client.sendall(b"%c" % drip)
                assert 200 == served.get(tls=trusting).status
        finally:
            for client in clients:
                client.close()
        wait_for(lambda: served.refused("tls") >= len(clients), what="counts")

    def test_half_requests_after_the_handshake(
        self, serve: Callable[..., Served], authority: Authority
    ) -> None:
        """Slow loris within TLS takes no thread either."""
        served = serve(TLS, ENDLESS)
        trusting = authority.client_context()
        with contextlib.ExitStack() as stack:
            for _ in range(5 * LIMITS.threads):
                sock = stack.enter_context(served.connect())
                client = stack.enter_context(trusting.wrap_socket(sock, server_hostname="127.0.0.1"))
                client.sendall(b"GET /metrics HTTP/1.1\r\n")
            assert 200 == served.get(tls=trusting).status

    def test_a_drip_does_not_keep_a_handshake_alive(self, serve: Callable[..., Served]) -> None:
        """A byte now and then does not win time: a handshake has a bounded one."""
        served = serve(TLS, Limits(handshake_seconds=0.5))
        with served.connect() as client:
            client.sendall(b"\x16\x03\x01\x02\x00")

            def is_hung_up() -> bool:
                try:
                    client.sendall(b"\x01")
                except OSError:
                    return True
                return False

            wait_for(is_hung_up)
        wait_for(lambda: served.refused("tls") == 1)

    @pytest.mark.parametrize("text", ["", TLS], ids=["http", "https"])
    def test_more_connections_than_there_is_room(
        self, text: str, serve: Callable[..., Served], authority: Authority
    ) -> None:
        """The one that has waited longest goes for a new one, so that a scrape always finds room."""
        served = serve(text, ENDLESS)
        trusting = authority.client_context() if text else None
        clients = []
        try:
            for _ in range(2 * LIMITS.connections):
                clients.append(served.connect())
                clients[-1].sendall(b"\x16" if text else b"")
            assert 200 == served.get(tls=trusting).status
            assert served.refused("busy") > 0
        finally:
            for client in clients:
                client.close()

    def test_a_storm_of_wrong_passwords(
        self, serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A scraper whose password was right once is served while others are tried and their checks last."""
        served, goes_on = serve(USERS), threading.Event()
        assert 200 == served.get(authorization=basic()).status
        monkeypatch.setattr(bcrypt, "checkpw", lambda *_: goes_on.wait(PATIENCE) and False)
        with self._attacked(lambda: served.get(authorization=basic("guess")) and None, threads=6):
            try:
                wait_for(lambda: served.refused("busy") >= 3, what="guesses that are refused")
                assert [200] * 20 == [served.get(authorization=basic()).status for _ in range(20)]
            finally:
                goes_on.set()
            wait_for(lambda: served.refused("unauthorized") >= 1, what="guesses that are wrong")
