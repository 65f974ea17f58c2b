"""TLS, client certificates, passwords and headers from a web configuration file.

The file is the one that Prometheus' own exporters take (`promtool check web-config` checks it). What this
server cannot do is refused with the key's name rather than ignored: a limit that is silently not kept is
worse than none. Messages never quote a value of the file, since it holds password hashes.
"""

from __future__ import annotations

import importlib.util
import os
import re
import ssl
from collections.abc import Mapping
from typing import Any, NoReturn

import yaml

from trainbeacon.config import validation
from trainbeacon.config.settings import ConfigError
from trainbeacon.config.validation import BadValueError, Reader, nearest
from trainbeacon.exporter.http.protection import WebConfig, opened_by, stamp_of

_TLS_VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
#: Go's names of client authentication, as far as Python's ssl can do them: it verifies whatever it asks for.
_CLIENT_AUTH = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
#: Go's names of the TLS 1.2 suites that are still sound, and OpenSSL's. Those of TLS 1.3 are always on.
_CIPHERS = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_AES_128_GCM_SHA256": "",
    "TLS_AES_256_GCM_SHA384": "",
    "TLS_CHACHA20_POLY1305_SHA256": "",
}
#: Headers that the file may add, with the values they may have where those are few.
_HEADERS: dict[str, tuple[str, ...]] = {
    "Content-Security-Policy": (),
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
}
_SECTIONS = ("tls_server_config", "http_server_config", "basic_auth_users")
_TLS_KEYS = (
    "cert_file",
    "key_file",
    "client_ca_file",
    "client_ca",
    "client_auth_type",
    "client_allowed_sans",
    "min_version",
    "max_version",
    "cipher_suites",
    "prefer_server_cipher_suites",
)
#: Keys that exporters in Go know and this server cannot do.
_UNSUPPORTED = {
    "cert": "Write the certificate into a file and name it in cert_file.",
    "key": "Write the key into a file of its own and name it in key_file.",
    "curve_preferences": "Leave it out: OpenSSL's order is used.",
    "rate_limit": "Leave it out: the server bounds connections, threads and password checks by itself.",
}
_BCRYPT = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}")
_HASH_FIX = "Make one with `htpasswd -nBC 10 NAME`."
_FLAG = validation.flag()
_VERSION = validation.choice(*_TLS_VERSIONS)
_SUITES = validation.names(_CIPHERS)
_CLIENT_AUTH_TYPE = validation.choice(*_CLIENT_AUTH)


class WebConfigFile:
    """The present settings of one file, read again when it or a file that it names has changed.

    `current` may be read from any thread; `reload` belongs to one.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path and os.path.abspath(path)
        self.current = read(self._path) if self._path else WebConfig()
        self._trouble = ""

    def reload(self) -> bool:
        """Read the file again if something changed; whether new settings hold from now on.

        Raises:
            ConfigError: what is there now cannot be used and the old settings stay; said once.
        """
        if not self._path or (not self._trouble and self._is_unchanged()):
            return False
        try:
            found = read(self._path)
            self._refuse_to_open(found)
        except ConfigError as error:
            if str(error) == self._trouble:
                return False
            self._trouble = str(error)
            raise
        self.current, self._trouble = found, ""
        return True

    def _is_unchanged(self) -> bool:
        return all(stamp == stamp_of(path) for path, stamp in self.current.files.items())

    def _refuse_to_open(self, found: WebConfig) -> None:
        """A file that is being written, or was emptied, must not open what was closed, not for a moment."""
        opened = opened_by(self.current, found)
        if opened:
            raise ConfigError(f"web_config: {self._path}: {opened}.")


def read(path: str) -> WebConfig:
    """Read and check the file at `path` and every file that it names. Raises ConfigError."""
    return _File(path).read()


class _File:
    def __init__(self, path: str) -> None:
        self._path = path
        self._files = {path: stamp_of(path)}

    def read(self) -> WebConfig:
        content = self._section(self._load(), "", _SECTIONS)
        tls = self._section(content.get("tls_server_config"), "tls_server_config", _TLS_KEYS)
        http = self._section(content.get("http_server_config"), "http_server_config", ("headers", "http2"))
        self._read(http, "http_server_config", "http2", _FLAG)  # HTTP/1.1 is all there is, whatever it says
        return WebConfig(
            context=self._context(tls),
            allowed_sans=self._allowed_sans(tls),
            users=self._users(content.get("basic_auth_users")),
            headers=self._headers(http.get("headers")),
            suites=frozenset(suites) if (suites := self._list(tls, "cipher_suites")) is not None else None,
            files=self._files,
        )

    def _refuse(self, key: str, problem: str, fix: str) -> NoReturn:
        raise ConfigError(f"web_config: {self._path}: {f'{key}: ' if key else ''}{problem}. {fix}") from None

    # Its shape

    def _load(self) -> Any:
        try:
            with open(self._path, encoding="utf-8") as file:
                return yaml.load(file, Loader=_Texts)  # noqa: S506 - makes texts, lists and mappings only
        except OSError as error:
            self._refuse("", f"it cannot be read: {error.strerror}", "Give the path of a web config file.")
        except yaml.MarkedYAMLError as error:
            # The parser's own words may quote a password.
            mark = error.problem_mark
            where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
            self._refuse("", f"it is not valid YAML{where}", "Try `promtool check web-config` on it.")
        except (yaml.YAMLError, ValueError, RecursionError):
            self._refuse("", "it is not valid YAML", "Try `promtool check web-config` on it.")

    def _section(self, found: Any, name: str, keys: tuple[str, ...]) -> dict[str, Any]:
        """A mapping with no key but these; an empty one where it is left out."""
        section = self._mapping(found, name)
        for key in section:
            if key in keys:
                continue
            where = f"{name}.{key}" if name else key
            if key in _UNSUPPORTED:
                self._refuse(where, "this server cannot do it", _UNSUPPORTED[key])
            close = nearest(key, keys)
            fix = f"Did you mean {close}?" if close else f"The keys are {', '.join(keys)}."
            self._refuse(where, "there is no such key", fix)
        return section

    def _mapping(self, found: Any, name: str) -> dict[str, Any]:
        if not found:
            return {}
        if not isinstance(found, dict):
            self._refuse(name, "it is no mapping", "Write `key: value` a line.")
        return found

    def _text(self, section: Mapping[str, Any], name: str, key: str) -> str:
        found = section.get(key, "")
        if not isinstance(found, str):
            self._refuse(f"{name}.{key}", "it is no text", "Give one value.")
        return found

    def _read(self, section: Mapping[str, Any], name: str, key: str, reader: Reader) -> Any:
        """One value as the settings of TrainBeacon are read; None where it is left out."""
        text = self._text(section, name, key)
        try:
            return reader.parse(text) if text else None
        except BadValueError as error:  # says what is wrong, and never the value
            self._refuse(f"{name}.{key}", error.problem, error.fix)

    def _list(self, section: Mapping[str, Any], key: str) -> list[str] | None:
        found = section.get(key)
        if not found:
            return None
        if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
            self._refuse(f"tls_server_config.{key}", "it is no list of texts", "Write `- value` a line.")
        return found

    # TLS

    def _context(self, tls: dict[str, Any]) -> ssl.SSLContext | None:
        given = {key: self._text(tls, "tls_server_config", key) for key in _TLS_KEYS[:5]}
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._set_versions(context, tls)
        self._set_ciphers(context, tls)
        if not any(given.values()):
            return None
        context.options |= ssl.OP_NO_RENEGOTIATION  # a client could have us compute without end
        context.set_alpn_protocols(["http/1.1"])
        self._load_certificate(context, given["cert_file"], given["key_file"])
        self._set_client_auth(context, given)
        return context

    def _set_versions(self, context: ssl.SSLContext, tls: dict[str, Any]) -> None:
        least, most = self._version(tls, "min_version", "TLS12"), self._version(tls, "max_version", "TLS13")
        if least > most:
            problem = "it is above max_version"
            self._refuse("tls_server_config.min_version", problem, "Leave max_version out.")
        context.minimum_version, context.maximum_version = least, most

    def _version(self, tls: dict[str, Any], key: str, default: str) -> ssl.TLSVersion:
        if tls.get(key) in ("TLS10", "TLS11"):
            self._refuse(f"tls_server_config.{key}", "TLS before 1.2 is broken", "Give TLS12 or TLS13.")
        return _TLS_VERSIONS[self._read(tls, "tls_server_config", key, _VERSION) or default]

    def _set_ciphers(self, context: ssl.SSLContext, tls: dict[str, Any]) -> None:
        if self._read(tls, "tls_server_config", "prefer_server_cipher_suites", _FLAG) is not False:
            context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
        else:
            context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
        names = self._list(tls, "cipher_suites")
        if names is None:
            return
        try:
            _SUITES.check(names)
        except BadValueError as error:
            self._refuse("tls_server_config.cipher_suites", error.problem, error.fix)
        if wanted := [_CIPHERS[name] for name in names if _CIPHERS[name]]:
            context.set_ciphers(":".join(wanted))

    def _load_certificate(self, context: ssl.SSLContext, certificate: str, key: str) -> None:
        for name, given in (("cert_file", certificate), ("key_file", key)):
            if not given:
                self._refuse(f"tls_server_config.{name}", "it is missing", "Give the path of a PEM file.")
        certificate = self._readable(certificate, "cert_file")
        key = self._readable(key, "key_file")
        try:
            context.load_cert_chain(certificate, key, password=_no_password)
        except (ssl.SSLError, ValueError) as error:
            reason = error.reason if isinstance(error, ssl.SSLError) else error
            problem = f"{certificate} and {key} are no certificate with its key: {reason or 'no PEM'}"
            self._refuse("tls_server_config.cert_file", problem, "Give PEM files that belong together.")

    def _set_client_auth(self, context: ssl.SSLContext, given: dict[str, str]) -> None:
        wanted = self._read(given, "tls_server_config", "client_auth_type", _CLIENT_AUTH_TYPE)
        mode = _CLIENT_AUTH[wanted or "NoClientCert"]
        has_authority = bool(given["client_ca_file"] or given["client_ca"])
        if has_authority and mode is ssl.CERT_NONE:
            problem = "it is set and client_auth_type asks for no certificate"
            fix = "Add client_auth_type: RequireAndVerifyClientCert."
            self._refuse("tls_server_config.client_ca_file", problem, fix)
        if mode is not ssl.CERT_NONE and not has_authority:
            # An exporter in Go would take any certificate that some public authority signed.
            problem = "it is set without client_ca_file"
            self._refuse("tls_server_config.client_auth_type", problem, "Name the authority's PEM file.")
        context.verify_mode = mode
        if has_authority:
            self._load_authority(context, given)

    def _load_authority(self, context: ssl.SSLContext, given: dict[str, str]) -> None:
        key = "client_ca_file" if given["client_ca_file"] else "client_ca"
        path = self._readable(given[key], key) if key == "client_ca_file" else None
        try:
            context.load_verify_locations(cafile=path, cadata=None if path else given[key])
        except (ssl.SSLError, ValueError):
            self._refuse(f"tls_server_config.{key}", "it holds no certificate", "Give PEM certificates.")

    def _readable(self, path: str, key: str) -> str:
        """The path, relative to the folder of the file, as one that can be opened; watched from now on."""
        full = os.path.join(os.path.dirname(os.path.abspath(self._path)), path)
        self._files[full] = stamp_of(full)
        try:
            with open(full, "rb"):
                return full
        except OSError as error:
            problem = f"{full} cannot be read: {error.strerror}"
            self._refuse(f"tls_server_config.{key}", problem, "Give a PEM file that this user may read.")

    def _allowed_sans(self, tls: dict[str, Any]) -> frozenset[str] | None:
        names = self._list(tls, "client_allowed_sans")
        if names is None:
            return None
        if tls.get("client_auth_type") != "RequireAndVerifyClientCert":
            problem = "clients may come without a certificate"
            fix = "Add client_auth_type: RequireAndVerifyClientCert."
            self._refuse("tls_server_config.client_allowed_sans", problem, fix)
        return frozenset(names)

    # Passwords and headers

    def _users(self, found: Any) -> dict[str, bytes]:
        users = self._mapping(found, "basic_auth_users")
        for known in users.values():
            # The name stays out of the message too: written the wrong way round, it is the password.
            cost = _BCRYPT.fullmatch(known) if isinstance(known, str) else None
            if cost is None or not 4 <= int(cost[1]) <= 31:
                self._refuse("basic_auth_users", "a user's value is no bcrypt hash", _HASH_FIX)
        if users and importlib.util.find_spec("bcrypt") is None:
            fix = "Install it: pip install 'trainbeacon[auth]'."
            self._refuse("basic_auth_users", "the package bcrypt is not installed", fix)
        return {name: known.encode() for name, known in users.items()}

    def _headers(self, found: Any) -> tuple[tuple[str, str], ...]:
        headers = self._mapping(found, "http_server_config.headers")
        for name, value in headers.items():
            key = f"http_server_config.headers.{name}"
            if name not in _HEADERS:
                self._refuse(key, "it cannot be set", f"The headers are {', '.join(_HEADERS)}.")
            if not isinstance(value, str) or not value.isascii() or not value.isprintable():
                self._refuse(key, "it is no line of ASCII text", "Give one line.")
            if _HEADERS[name] and value not in _HEADERS[name]:
                self._refuse(key, "it has another value", f"Give {' or '.join(_HEADERS[name])}.")
        return tuple(headers.items())


def _no_password() -> NoReturn:
    # Without this OpenSSL would ask for it on the terminal.
    raise ValueError("the key is encrypted")


class _Texts(yaml.BaseLoader):
    """Every scalar as the text it is written as; a key that comes twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if not all(isinstance(key, str) for key in keys) or len(set(keys)) < len(keys):
            raise yaml.MarkedYAMLError(problem="a key comes twice", problem_mark=node.start_mark)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping
