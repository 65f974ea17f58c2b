"""The bridge as a web application: Alertmanager posts to `/alerts/<receiver>`, people read `/runbooks/`."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry

from trainbeacon.exporter.exposition import metrics_page
from trainbeacon.exporter.http.pages import Gate, answer
from trainbeacon.exporter.http.webconfig import WebConfigFile
from trainbeacon.exporter.http.wsgi import Environ, StartResponse

from .counts import Counts
from .delivery import Outbox, Post
from .runbooks import Runbooks
from .settings import Settings
from .webhook import Notification, PayloadError

log = logging.getLogger("trainbeacon.notify")

PATH = "/alerts/"
RUNBOOKS = "/runbooks"
#: A group of a thousand alerts with long annotations has less.
MOST_BODY_BYTES = 4 * 1024 * 1024

_STATUS = {"delivered": "200 OK", "failed": "503 Service Unavailable", "deferred": "503 Service Unavailable"}


class Bridge:
    """Takes notifications of Alertmanager's and answers when they are delivered.

    Args:
        settings: receivers and the deadline.
        post: hands a message to one address.
        web: passwords asked for and headers added; by default none.
        runbooks: what is served under /runbooks/; by default nothing.
    """

    def __init__(
        self,
        settings: Settings,
        post: Post,
        web: WebConfigFile | None = None,
        runbooks: Runbooks | None = None,
    ) -> None:
        self._runbooks = runbooks
        self.counts = Counts(settings.receivers)
        self._settings = settings
        self._outboxes = {
            name: Outbox(receiver, post, self.counts, grafana=settings.grafana_url)
            for name, receiver in settings.receivers.items()
        }
        self._gate = Gate(web or WebConfigFile(None), self.counts)
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self.counts)  # type: ignore[arg-type]

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request, if its sender may ask."""
        start = self._gate.adding_headers(start_response)
        return self._gate.refusal(environ, start) or self._page(environ, start)

    def stop(self) -> None:
        """Deliver no more; what waits is refused, and Alertmanager tries again."""
        for outbox in self._outboxes.values():
            outbox.stop()

    def _page(self, environ: Environ, start: StartResponse) -> Iterable[bytes]:
        path, method = environ.get("PATH_INFO", "/"), environ.get("REQUEST_METHOD", "GET")
        if path.startswith(PATH):
            if method != "POST":
                return self._refuse(start, "405 Method Not Allowed", "method", "only POST\n", Allow="POST")
            return self._take(path.removeprefix(PATH), environ, start)
        if method != "GET":
            return self._refuse(start, "405 Method Not Allowed", "method", "only GET\n", Allow="GET")
        if path == "/metrics":
            return metrics_page(self._registry, environ, start)
        if path == "/healthz":
            return answer(start, "200 OK", "ok\n")
        if path == RUNBOOKS:  # links within a page are relative to the folder
            return answer(start, "308 Permanent Redirect", "see runbooks/\n", Location=f"{RUNBOOKS}/")
        if path.startswith(f"{RUNBOOKS}/") and self._runbooks is not None:
            page = self._runbooks.page(path.removeprefix(f"{RUNBOOKS}/"))
            if page is not None:
                policy = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
                return answer(start, "200 OK", page, "text/html; charset=utf-8", **policy)
        if path == "/":
            names = "".join(f"  {PATH}{name}\n" for name in self._outboxes)
            others = "runbooks:\n  /runbooks/\nmetrics:\n  /metrics\n"
            return answer(start, "200 OK", f"TrainBeacon notify\nreceivers:\n{names}{others}")
        return self._refuse(start, "404 Not Found", "not_found", "not here\n")

    def _take(self, name: str, environ: Environ, start: StartResponse) -> Iterable[bytes]:
        outbox = self._outboxes.get(name)
        if outbox is None:
            known = ", ".join(self._outboxes)
            log.warning("Alertmanager asks for receiver %r, but there are only %s", name[:80], known)
            self.counts.request("refused")
            return self._refuse(start, "404 Not Found", "not_found", f"no such receiver; there are {known}\n")
        try:
            notification = Notification.parse(environ["wsgi.input"].read(_length(environ)))
        except PayloadError as error:
            self.counts.request("refused")
            return self._refuse(start, "400 Bad Request", "malformed", f"{error}\n")
        return self._deliver(outbox, notification, start)

    def _deliver(self, outbox: Outbox, notification: Notification, start: StartResponse) -> Iterable[bytes]:
        seconds = float(self._settings.deadline_seconds)
        ticket = outbox.submit(notification, seconds)
        outcome = ticket.outcome if ticket.done.wait(seconds) else "deferred"
        self.counts.request(outcome)
        retry = {"Retry-After": "10"} if outcome != "delivered" else {}
        return answer(start, _STATUS[outcome], f"{outcome}\n", **retry)

    def _refuse(
        self, start: StartResponse, status: str, reason: str, text: str, **headers: str
    ) -> Iterable[bytes]:
        self.counts.refused(reason)
        return answer(start, status, text, **headers)


def _length(environ: dict[str, Any]) -> int:
    try:
        return min(MOST_BODY_BYTES, int(environ.get("CONTENT_LENGTH") or 0))
    except ValueError:
        return 0
