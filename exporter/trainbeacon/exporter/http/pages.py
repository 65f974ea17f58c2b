"""The pages: /metrics, /healthz and a landing page, as a WSGI application that lets in who may ask."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import CollectorRegistry

from trainbeacon._version import __version__
from trainbeacon.blackbox.reader import Box
from trainbeacon.exporter.exposition import metrics_page
from trainbeacon.exporter.health import Health
from trainbeacon.exporter.http.authentication import PasswordCheck
from trainbeacon.exporter.http.webconfig import WebConfigFile
from trainbeacon.exporter.http.wsgi import Environ, StartResponse


class Gate:
    """Who may ask, and what every answer says besides: passwords and headers of a web config file."""

    def __init__(self, web: WebConfigFile, health: Health) -> None:
        self._web = web
        self._health = health
        self._passwords = PasswordCheck()

    def adding_headers(self, start_response: StartResponse) -> StartResponse:
        """The same, with the headers that the file asks for."""
        headers = self._web.current.headers

        def start(status: str, own: list[tuple[str, str]]) -> Any:
            return start_response(status, [*own, *headers])

        return start

    def refusal(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes] | None:
        """The answer to who has no right to one; /healthz is for probes, which have no password."""
        users = self._web.current.users
        if not users or environ.get("PATH_INFO") == "/healthz":
            return None
        header, address = environ.get("HTTP_AUTHORIZATION", ""), environ.get("REMOTE_ADDR", "")
        verdict = self._passwords.check(users, header, address)
        if verdict == "authorised":
            return None
        self._health.refused(verdict)
        if verdict == "busy":
            text = "too many passwords are being checked; try again\n"
            return answer(start_response, "503 Service Unavailable", text, **{"Retry-After": "1"})
        challenge = {"WWW-Authenticate": 'Basic realm="trainbeacon", charset="UTF-8"'}
        return answer(start_response, "401 Unauthorized", "a user name and password, please\n", **challenge)


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
        self._gate = Gate(web or WebConfigFile(None), health)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request, if its sender may ask."""
        start = self._gate.adding_headers(start_response)
        return self._gate.refusal(environ, start) or self._page(environ, start)

    def _page(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path, method = environ.get("PATH_INFO", "/"), environ.get("REQUEST_METHOD", "GET")
        if method not in ("GET", "HEAD"):
            self._health.refused("method")
            return answer(start_response, "405 Method Not Allowed", "only GET and HEAD\n", Allow="GET, HEAD")
        if path == "/metrics":
            body = metrics_page(self._registry, environ, start_response)
            if method == "GET":
                self._on_scrape()
        elif path == "/healthz":
            body = answer(start_response, "200 OK", "ok\n")
        elif path == "/":
            body = answer(start_response, "200 OK", landing_page(self._boxes()), "text/html; charset=utf-8")
        else:
            self._health.refused("not_found")
            body = answer(start_response, "404 Not Found", "not here; the metrics are at /metrics\n")
        return [] if method == "HEAD" else body


def answer(
    start_response: StartResponse,
    status: str,
    text: str,
    content_type: str = "text/plain; charset=utf-8",
    **headers: str,
) -> Iterable[bytes]:
    """Answer a request (WSGI) with a text."""
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
