"""A webhook on loopback that receives what Alertmanager sends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Condition, Thread
from types import TracebackType

from trainbeacon.notify import webhook

#: The alert that always fires: its notification proves the way.
WATCHDOG = "Watchdog"

_LARGEST_BODY = 4 * 1024 * 1024


@dataclass(frozen=True)
class Notification:
    """One alert as one notification of Alertmanager tells it."""

    alert: str
    """Name of the alert rule."""
    status: str
    """`firing` or `resolved`."""
    receiver: str
    """Name of the receiver in Alertmanager's configuration that it was routed to."""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    starts_at: str = ""
    """RFC 3339 time at which the alert began to fire."""
    fingerprint: str = ""
    """Identifies the alert's labels."""

    @property
    def severity(self) -> str:
        """The label `severity`."""
        return self.labels.get("severity", "")

    @property
    def change(self) -> tuple[str, str, str]:
        """Equal for notifications that only repeat each other."""
        return (self.fingerprint or repr(sorted(self.labels.items())), self.status, self.starts_at)


def parse(payload: bytes) -> list[Notification]:
    """The alerts of one webhook message (version 4). Raises ValueError for anything else."""
    message = webhook.Notification.parse(payload)
    return [_notification(message.receiver, alert) for alert in message.alerts]


def _notification(receiver: str, alert: webhook.Alert) -> Notification:
    if "alertname" not in alert.labels:
        raise ValueError("an alert has no name")
    return Notification(
        alert=alert.name,
        status="firing" if alert.firing else "resolved",
        receiver=receiver,
        labels=alert.labels,
        annotations=alert.annotations,
        starts_at=alert.starts_at,
        fingerprint=alert.fingerprint,
    )


class Receiver:
    """Collects notifications from its start to its end; a context manager.

    `on_change(notification)` is called in a thread of the server for each that does not repeat one before.
    """

    def __init__(self, on_change: Callable[[Notification], None] = lambda notification: None) -> None:
        self._on_change = on_change
        self._received: list[Notification] = []
        self._known: set[tuple[str, str, str]] = set()
        self._arrival = Condition()
        self._server = _Server(self._take)
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """Where to send notifications."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/"

    @property
    def notifications(self) -> list[Notification]:
        """Everything received so far, repetitions included, in order of arrival."""
        with self._arrival:
            return list(self._received)

    def wait_for(self, wanted: Callable[[Notification], bool], seconds: float) -> Notification | None:
        """The first notification, received or to come within the time, that is wanted; else None."""

        def first() -> Notification | None:
            return next((notification for notification in self._received if wanted(notification)), None)

        with self._arrival:
            return self._arrival.wait_for(first, seconds)

    def _take(self, payload: bytes) -> None:
        notifications = parse(payload)
        with self._arrival:
            self._received.extend(notifications)
            new = [each for each in notifications if each.change not in self._known]
            self._known.update(each.change for each in new)
            self._arrival.notify_all()
        for notification in new:
            self._on_change(notification)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self.take = take
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 10

    def do_POST(self) -> None:  # the name that http.server calls
        length = int(self.headers.get("Content-Length") or 0)
        if not 0 < length <= _LARGEST_BODY:
            return self._answer(413)
        try:
            self.server.take(self.rfile.read(length))
        except ValueError:
            return self._answer(400)
        return self._answer(200)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Nothing: notifications are what there is to see."""
