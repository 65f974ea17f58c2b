"""What all checks look at, each thing fetched once."""

from __future__ import annotations

import json
import os
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import psutil

from trainbeacon.doctor.results import SkippedError, UnknownError
from trainbeacon.stack.discover import Served, served
from trainbeacon.stack.up.state import State

SECONDS_TO_ANSWER = 5.0


@dataclass(frozen=True)
class Answer:
    """What a server said."""

    status: int
    text: str
    seconds: float = 0.0

    @property
    def data(self) -> Any:
        """The member `data` of a JSON answer of Prometheus."""
        if self.status != 200:
            raise UnknownError(f"it answers {self.status}: {self.text[:200]}")
        return json.loads(self.text)["data"]


def fetch(url: str, *, body: object = None, seconds: float = SECONDS_TO_ANSWER) -> Answer:
    """One request past any proxy; raises OSError where nothing answers. No certificate is verified."""
    context = ssl._create_unverified_context()  # noqa: S323 - nothing secret is sent
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310
    begun = time.monotonic()
    try:
        with opener.open(request, timeout=seconds) as answer:
            return Answer(answer.status, answer.read().decode(errors="replace"), time.monotonic() - begun)
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.read(2000).decode(errors="replace"), time.monotonic() - begun)
    except ValueError as error:
        raise OSError(str(error)) from error


@dataclass(frozen=True)
class Listener:
    """The process behind an address of this machine, as far as it may be seen."""

    pid: int
    arguments: tuple[str, ...]
    folder: str

    def option(self, name: str) -> str:
        """The value of `--name`, as a path where it is one; empty without."""
        for place, text in enumerate(self.arguments):
            if text.lstrip("-").startswith(f"{name}="):
                return text.partition("=")[2]
            if text.lstrip("-") == name and place + 1 < len(self.arguments):
                return self.arguments[place + 1]
        return ""

    def path(self, name: str) -> str:
        """The file that an option names, relative ones from where the process stands."""
        named = self.option(name)
        return os.path.join(self.folder, named) if named else ""


def listener(url: str) -> Listener | None:
    """Who listens at that address on this machine; None where that is another one, or not to be seen."""
    parts = urllib.parse.urlsplit(url)
    if parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        return None
    with suppress(psutil.Error, OSError):
        for each in psutil.net_connections("tcp"):
            if each.status == psutil.CONN_LISTEN and each.pid and each.laddr and each.laddr[1] == parts.port:
                process = psutil.Process(each.pid)
                return Listener(each.pid, tuple(process.cmdline()), process.cwd())
    return None


@dataclass
class Context:
    """One visit: where to look, and what was found there."""

    prometheus: str = ""
    alertmanager: str = ""
    grafana: str = ""
    files: Sequence[str] = ()
    test_alert: bool = False
    directory: str = ""
    patience: float = 10.0
    clock: Callable[[], float] = time.time
    pages: dict[str, Answer | OSError] = field(default_factory=dict)

    @cached_property
    def served(self) -> list[Served]:
        """The folders of black boxes of this user, with their exporters."""
        found = served()
        if not self.directory:
            return found
        here = os.path.realpath(self.directory)
        named = [each for each in found if os.path.realpath(each.directory) == here]
        return named or [Served(self.directory)]

    def exporters(self) -> Iterator[tuple[Served, Answer]]:
        """The exporters of this machine that answer, with their page."""
        for each in self.served:
            page = self.page(each.url) if each.url else None
            if isinstance(page, Answer) and page.status == 200:
                yield each, page

    def page(self, url: str) -> Answer | OSError:
        """What an exporter serves, or why it does not."""
        if url not in self.pages:
            path = urllib.parse.urlsplit(url).path.strip("/")
            try:
                self.pages[url] = fetch(url if path else f"{url.rstrip('/')}/metrics", seconds=self.patience)
            except OSError as error:
                self.pages[url] = error
        return self.pages[url]

    @cached_property
    def prometheus_url(self) -> str:
        """The Prometheus to ask: the one that was named, else that of `up`."""
        return self._server(self.prometheus, "prometheus")

    @cached_property
    def alertmanager_url(self) -> str:
        """The Alertmanager to ask: named, else that of `up`, else the one that Prometheus sends to."""
        with suppress(SkippedError):
            return self._server(self.alertmanager, "alertmanager")
        with suppress(OSError, SkippedError, UnknownError, ValueError, KeyError, IndexError):
            first = self.ask("alertmanagers")["activeAlertmanagers"][0]["url"]
            return str(first).partition("/api/")[0]
        raise SkippedError("no Alertmanager is named or known to Prometheus: --alertmanager URL")

    def _server(self, named: str, name: str) -> str:
        if named:
            return (named if "://" in named else f"http://{named}").rstrip("/")
        note = State().read_note()
        url = note.urls.get(name, "") if note is not None and not self.prometheus else ""
        if not url:
            raise SkippedError(f"no {name.capitalize()} is named and none is up: --{name} URL")
        return url

    def ask(self, path: str, **parameters: str) -> Any:
        """Part `data` of Prometheus' answer. Raises OSError, SkippedError, UnknownError."""
        query = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
        return fetch(f"{self.prometheus_url}/api/v1/{path}{query}").data

    def query(self, promql: str) -> list[tuple[dict[str, str], float]]:
        """The series of an expression with their present values."""
        result = self.ask("query", query=promql)["result"]
        return [(each["metric"], float(each["value"][1])) for each in result]
