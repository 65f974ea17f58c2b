"""The web configuration file: what it may say, as promtool agrees, and how it is read again."""

from __future__ import annotations

import contextlib
import os
import ssl
import subprocess
import sys
from pathlib import Path

import bcrypt
import pytest

from tests.certificates import Authority
from trainbeacon.config.settings import ConfigError
from trainbeacon.exporter.http.webconfig import WebConfigFile, read

HASH = bcrypt.hashpw(b"hunter2", bcrypt.gensalt(4)).decode()
TLS = "tls_server_config: {cert_file: server.pem, key_file: server.key"
OPTIONAL = f"{TLS}, client_ca_file: authority.pem, client_auth_type: VerifyClientCertIfGiven"
MTLS = f"{TLS}, client_ca_file: authority.pem, client_auth_type: RequireAndVerifyClientCert"


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority, a server's certificate and others that do not fit."""
    folder = tmp_path_factory.mktemp("pki")
    authority = Authority(folder)
    authority.issue("server", "IP:127.0.0.1")
    authority.issue("other", "IP:127.0.0.1")
    (folder / "empty.pem").touch()
    (folder / "encrypted.key").write_text(
        subprocess.run(
            ["openssl", "ec", "-in", folder / "server.key", "-aes128", "-passout", "pass:x"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )
    return folder


def write(folder: Path, text: str) -> str:
    path = folder / "web.yml"
    path.write_text(text)
    return str(path)


VALID = {
    "empty": "",
    "tls": f"{TLS}}}",
    "block style": "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n",
    "no client certificate": f"{TLS}, client_auth_type: NoClientCert}}",
    "client certificates": f"{MTLS}}}",
    "optional client certificates": f"{OPTIONAL}}}",
    "versions": f"{TLS}, min_version: TLS13, max_version: TLS13}}",
    "cipher suites": f"{TLS}, cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]}}",
    "server's order": f"{TLS}, prefer_server_cipher_suites: no}}",
    "passwords": f"basic_auth_users: {{alice: {HASH}, bob: {HASH}}}",
    "password of htpasswd": f"basic_auth_users: {{alice: {HASH.replace('$2b', '$2y')}}}",
    "a number for a name": f"basic_auth_users: {{007: {HASH}}}",
    "everything": f"{MTLS}}}\nbasic_auth_users: {{alice: {HASH}}}\n"
    "http_server_config: {http2: false, headers: {X-Frame-Options: deny}}",
    "empty sections": "tls_server_config:\nbasic_auth_users:\nhttp_server_config:\n",
}


INVALID = {
    "no yaml": ("{", "not valid YAML"),
    "a list": ("- tls_server_config", "it is no mapping"),
    "unknown section": (f"basic_auth_user: {{alice: {HASH}}}", "Did you mean basic_auth_users?"),
    "unknown key": (f"{TLS}, min_versoin: TLS13}}", "Did you mean min_version?"),
    "key twice": (f"basic_auth_users: {{}}\nbasic_auth_users: {{alice: {HASH}}}", "not valid YAML in line"),
    "no key": ("tls_server_config: {cert_file: server.pem}", "tls_server_config.key_file: it is missing"),
    "no certificate": ("tls_server_config: {key_file: server.key}", "cert_file: it is missing"),
    "missing file": (f"{TLS.replace('server.pem', 'gone.pem')}}}", "gone.pem cannot be read: No such file"),
    "empty file": (f"{TLS.replace('server.pem', 'empty.pem')}}}", "no certificate with its key"),
    "another's key": (f"{TLS.replace('server.key', 'other.key')}}}", "no certificate with its key"),
    "encrypted key": (f"{TLS.replace('server.key', 'encrypted.key')}}}", "the key is encrypted"),
    "authority alone": (f"{TLS}, client_ca_file: authority.pem}}", "Add client_auth_type"),
    "no such client_auth_type": (f"{TLS}, client_auth_type: Always}}", "RequireAndVerifyClientCert"),
    "missing authority": (f"{MTLS.replace('authority.pem', 'gone.pem')}}}", "gone.pem cannot be read"),
    "no such version": (f"{TLS}, min_version: TLS9}}", "Give one of TLS12, TLS13"),
    "no such cipher": (f"{TLS}, cipher_suites: [RC5]}}", "Give one of TLS_ECDHE"),
    "password in clear": ("basic_auth_users: {alice: hunter2}", "no bcrypt hash"),
    "header of its own": ("http_server_config: {headers: {Server: x}}", "The headers are"),
    "header's value": ("http_server_config: {headers: {X-Frame-Options: no}}", "deny or sameorigin"),
    "no bool": ("http_server_config: {http2: perhaps}", "neither yes nor no"),
}
STRICTER = {
    "any client certificate": (
        f"{TLS}, client_auth_type: RequireAnyClientCert}}",
        "RequireAndVerifyClientCert",
    ),
    "requested client certificate": (
        f"{TLS}, client_auth_type: RequestClientCert}}",
        "VerifyClientCertIfGiven",
    ),
    "client certificates of any public authority": (
        f"{TLS}, client_auth_type: RequireAndVerifyClientCert}}",
        "Name the authority's PEM file",
    ),
    "empty authority": (f"{MTLS.replace('authority.pem', 'empty.pem')}}}", "it holds no certificate"),
    "old TLS": (f"{TLS}, min_version: TLS10}}", "TLS before 1.2 is broken"),
    "versions that exclude each other": (f"{TLS}, min_version: TLS13, max_version: TLS12}}", "max_version"),
    "curves": (f"{TLS}, curve_preferences: [X25519]}}", "Leave it out"),
    "impossible hash": (f"basic_auth_users: {{alice: {HASH[:30]}{'!' * 30}}}", "no bcrypt hash"),
}


def test_promtool_agrees(every_promtool: str, pki: Path) -> None:
    """promtool takes and refuses what we do, but for what is unsafe or beyond Python's ssl."""
    files = {**VALID, **{case: text for case, (text, _) in {**INVALID, **STRICTER}.items()}}
    for case, text in files.items():
        (pki / f"{case}.yml").write_text(text)
    command = [every_promtool, "check", "web-config", *(str(pki / f"{case}.yml") for case in files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    taken = {case for case in files if f"{pki / case}.yml SUCCESS" in lines}
    assert {*VALID, *STRICTER} == taken


@pytest.mark.parametrize("case", VALID)
def test_valid_files(case: str, pki: Path) -> None:
    """What promtool calls valid and this server can do is taken."""
    path = write(pki, VALID[case])
    assert path in read(path).files


@pytest.mark.parametrize("case", [*INVALID, *STRICTER])
def test_invalid_files(case: str, pki: Path) -> None:
    """What is refused is refused with the file, the key and the way out in the message."""
    text, message = {**INVALID, **STRICTER}[case]
    path = write(pki, text)
    with pytest.raises(ConfigError) as refused:
        read(path)
    assert message in str(refused.value)
    assert path in str(refused.value)


def test_a_client_must_hold_an_allowed_name_only_where_it_must_come_with_a_certificate(pki: Path) -> None:
    """client_allowed_sans alone would let everybody in who shows nothing."""
    names = "client_allowed_sans: [prometheus.example]"
    assert frozenset({"prometheus.example"}) == read(write(pki, f"{MTLS}, {names}}}")).allowed_sans
    with pytest.raises(ConfigError, match="client_allowed_sans: clients may come without a certificate"):
        read(write(pki, f"{TLS}, {names}}}"))


@pytest.mark.parametrize(
    "text",
    [
        "basic_auth_users: {alice: hunter2}",
        "basic_auth_users: {hunter2: alice}",
        "basic_auth_users:\n  alice: *hunter2\n",
        "basic_auth_users:\n  alice: hunter2: x\n",
        "basic_auth_users:\n  alice: !!hunter2 [\n",
        "basic_auth_users: hunter2",
        "basic_auth_users:\n  hunter2: 1\n  hunter2: 2\n",
        "tls_server_config: {key: hunter2, cert: x}",
        "tls_server_config: {cert_file: [hunter2]}",
    ],
)
def test_messages_hold_nothing_secret(text: str, pki: Path) -> None:
    """A password that was written where its hash belongs comes into no log."""
    with pytest.raises(ConfigError) as refused:
        read(write(pki, text))
    assert "hunter2" not in str(refused.value)


def test_the_settings_show_no_hash(pki: Path) -> None:
    """A web config that is printed, in a traceback say, shows nobody's hash."""
    assert HASH not in repr(read(write(pki, VALID["passwords"])))


def test_paths_are_relative_to_the_file(pki: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file and its certificates can be moved together, whatever folder the program runs in."""
    path = write(pki, VALID["tls"])
    monkeypatch.chdir(tmp_path)
    assert "https" == read(path).scheme
    monkeypatch.chdir(pki)
    web = WebConfigFile("web.yml")
    monkeypatch.chdir(tmp_path)
    assert not web.reload()


def test_without_bcrypt_the_extra_is_named(pki: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords need a package that not everyone installs; TLS does not."""
    monkeypatch.setitem(sys.modules, "bcrypt", None)
    with pytest.raises(ConfigError, match=r"trainbeacon\[auth\]"):
        read(write(pki, VALID["passwords"]))
    assert "https" == read(write(pki, VALID["tls"])).scheme


@pytest.mark.parametrize(
    ("case", "warning"),
    [("passwords", "without TLS"), ("empty", "neither TLS nor passwords"), ("everything", None)],
)
def test_warnings(case: str, warning: str | None, pki: Path) -> None:
    """Passwords in the clear and a file that protects nothing are allowed, and said."""
    warnings = read(write(pki, VALID[case])).warnings
    assert ([] if warning is None else [True]) == [str(warning) in found for found in warnings]


class TestReload:
    """Changes are taken over while serving, and mistakes are not."""

    @pytest.fixture
    def folder(self, pki: Path, tmp_path: Path) -> Path:
        for name in ("authority.pem", "server.pem", "server.key", "other.pem", "other.key"):
            (tmp_path / name).write_bytes((pki / name).read_bytes())
        return tmp_path

    def test_nothing_changed(self, folder: Path) -> None:
        """A file that nobody touched is not read again."""
        web = WebConfigFile(write(folder, VALID["everything"]))
        before = web.current
        assert not web.reload()
        assert web.current is before

    def test_a_new_password(self, folder: Path) -> None:
        """The file itself is watched."""
        web = WebConfigFile(write(folder, VALID["passwords"]))
        write(folder, f"basic_auth_users: {{carol: {HASH}}}")
        assert web.reload()
        assert ["carol"] == list(web.current.users)

    @pytest.mark.parametrize("name", ["server.pem", "server.key", "authority.pem"])
    def test_the_files_that_it_names(self, name: str, folder: Path) -> None:
        """A certificate, a key or an authority that is replaced under its name is taken over."""
        web = WebConfigFile(write(folder, VALID["client certificates"]))
        before = web.current.context
        copy = folder / "copy"
        copy.write_bytes((folder / name).read_bytes())
        copy.replace(folder / name)
        assert web.reload()
        assert web.current.context is not before

    def test_a_swapped_link(self, folder: Path) -> None:
        """Kubernetes mounts a secret as links into a folder that it swaps."""
        for version in ("1", "2"):
            (folder / version).mkdir()
            for name in ("server.pem", "server.key"):
                (folder / version / name).write_bytes((folder / name).read_bytes())
        (folder / "data").symlink_to("1")
        web = WebConfigFile(
            write(folder, "tls_server_config: {cert_file: data/server.pem, key_file: data/server.key}")
        )
        (folder / "next").symlink_to("2")
        os.replace(folder / "next", folder / "data")
        assert web.reload()

    def test_half_a_rotation(self, folder: Path) -> None:
        """A certificate without its key yet keeps the old pair, is said once, and is taken with its key."""
        web = WebConfigFile(write(folder, VALID["tls"]))
        before = web.current
        (folder / "server.pem").write_bytes((folder / "other.pem").read_bytes())
        with pytest.raises(ConfigError, match="no certificate with its key"):
            web.reload()
        assert not web.reload()
        assert web.current is before
        (folder / "server.key").write_bytes((folder / "other.key").read_bytes())
        assert web.reload()
        assert web.current is not before

    def test_a_file_that_comes_later(self, folder: Path) -> None:
        """A new file that the settings name already is taken when it is there."""
        web = WebConfigFile(write(folder, VALID["tls"]))
        write(folder, f"{TLS.replace('server.pem', 'late.pem')}}}")
        with pytest.raises(ConfigError, match=r"late\.pem cannot be read"):
            web.reload()
        (folder / "late.pem").write_bytes((folder / "server.pem").read_bytes())
        assert web.reload()

    @pytest.mark.parametrize(
        ("before", "after"),
        [("everything", ""), ("tls", ""), ("passwords", ""), ("everything", "tls"), ("passwords", "tls")],
    )
    def test_protection_is_not_lost_by_a_reload(self, before: str, after: str, folder: Path) -> None:
        """An emptied or half-written file opens nothing: that takes a restart."""
        web = WebConfigFile(write(folder, VALID[before]))
        write(folder, VALID[after] if after else "")
        with pytest.raises(ConfigError, match="Restart"):
            web.reload()
        assert ("https" if before != "passwords" else "http") == web.current.scheme

    def test_a_file_that_is_gone(self, folder: Path) -> None:
        """The settings stay as they were while there is no file."""
        path = write(folder, VALID["tls"])
        web = WebConfigFile(path)
        os.unlink(path)
        with pytest.raises(ConfigError, match="cannot be read"):
            web.reload()
        assert "https" == web.current.scheme

    def test_no_part_of_a_file_opens_anything(self, folder: Path) -> None:
        """However far the writing of the file has come, what was closed stays closed until it is whole."""
        whole = (
            "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n"
            "  client_ca_file: authority.pem\n  client_auth_type: RequireAndVerifyClientCert\n"
            "  client_allowed_sans:\n  - a.example\n  - b.example\n"
            "  min_version: TLS13\n  cipher_suites:\n  - TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384\n"
            f"basic_auth_users:\n  alice: {HASH}\n  bob: {HASH}\n"
        )
        path = write(folder, whole)
        web = WebConfigFile(path)
        first = web.current
        for length in range(len(whole)):
            write(folder, whole[:length])
            with contextlib.suppress(ConfigError):
                web.reload()
            now = web.current
            assert "https" == now.scheme
            assert now.context is not None
            assert (ssl.CERT_REQUIRED, ssl.TLSVersion.TLSv1_3) == (
                now.context.verify_mode,
                now.context.minimum_version,
            )
            assert now.users
            assert now.allowed_sans
            assert now.allowed_sans <= (first.allowed_sans or set())
            assert first.suites == now.suites
        write(folder, whole)
        web.reload()
        assert {"alice", "bob"} == set(web.current.users)
