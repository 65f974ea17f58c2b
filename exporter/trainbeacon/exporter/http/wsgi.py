"""Between HTTP and the pages: a request as WSGI has it (PEP 3333), and an answer whole in memory."""

from __future__ import annotations

import http
import io
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any
from urllib.parse import unquote_to_bytes

import h11

Environ = dict[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]


@dataclass(frozen=True)
class Request:
    """A request that has arrived whole."""

    head: h11.Request
    body: bytes
    address: str
    scheme: str

    def as_wsgi(self) -> Environ:
        """What a WSGI application is given: PEP 3333's environ."""
        target = self.head.target.decode("latin-1")
        if not target.startswith("/"):  # as a proxy is asked, or the asterisk of OPTIONS
            target = "/" + target.partition("://")[2].partition("/")[2]
        path, _, query = target.partition("?")
        environ: Environ = {
            "REQUEST_METHOD": self.head.method.decode("latin-1"),
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
            "QUERY_STRING": query,
            "SERVER_PROTOCOL": f"HTTP/{self.head.http_version.decode('latin-1')}",
            "REMOTE_ADDR": self.address,
            "CONTENT_LENGTH": str(len(self.body)),
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": self.scheme,
            "wsgi.input": io.BytesIO(self.body),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        for name, value in self.head.headers:
            key = "HTTP_" + name.decode("latin-1").upper().replace("-", "_")
            text = value.decode("latin-1")
            environ[key] = f"{environ[key]},{text}" if key in environ else text
        environ["CONTENT_TYPE"] = environ.get("HTTP_CONTENT_TYPE", "")
        return environ


@dataclass(frozen=True)
class Response:
    """An answer, whole."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes

    @classmethod
    def of_text(cls, status: int, text: str) -> Response:
        """What the server says by itself."""
        headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(text)))]
        return cls(status, http.HTTPStatus(status).phrase, [*headers, ("Connection", "close")], text.encode())


def call(application: Application, request: Request) -> Response:
    """Have the application answer; takes as long as that does, and raises what it raises."""
    started: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]]) -> None:
        started.append((status, headers))

    parts = application(request.as_wsgi(), start_response)
    body = b"".join(parts)
    status, headers = started[-1]
    code, _, reason = status.partition(" ")
    now = formatdate(usegmt=True)
    return Response(int(code), reason, [*headers, ("Date", now), ("Server", "trainbeacon")], body)
