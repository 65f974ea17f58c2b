"""What the bridge counts, as its own /metrics shows it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator

from trainbeacon import catalogue
from trainbeacon.exporter.collectors.base import Families
from trainbeacon.exporter.health import Health

REQUESTS = catalogue.BY_NAME["trainbeacon_notify_requests_total"].labels[0].values
OUTCOMES = ("delivered", "failed")


class Counts(Health):
    """Counts of one bridge. Safe to use from several threads."""

    def __init__(self, receivers: Iterable[str]) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._receivers = tuple(receivers)
        self._requests: Counter[str] = Counter(dict.fromkeys(REQUESTS, 0))
        self._messages: Counter[tuple[str, str]] = Counter()
        self._last: dict[str, float] = {}
        self._waiting: Counter[str] = Counter()

    def request(self, outcome: str) -> None:
        """A request of Alertmanager's was answered."""
        with self._lock:
            self._requests[outcome] += 1

    def message(self, receiver: str, outcome: str, now: float) -> None:
        """A message to one address was taken, or not."""
        with self._lock:
            self._messages[receiver, outcome] += 1
            if outcome == "delivered":
                self._last[receiver] = now

    def waiting(self, receiver: str, notifications: int) -> None:
        """How many notifications wait for their delivery."""
        with self._lock:
            self._waiting[receiver] = notifications

    def collect(self) -> Iterator[object]:
        """The families, as prometheus-client wants them."""
        families = Families()
        with self._lock:
            for outcome, count in self._requests.items():
                families.add("trainbeacon_notify_requests_total", count, outcome)
            for receiver in self._receivers:
                for outcome in OUTCOMES:
                    number = self._messages[receiver, outcome]
                    families.add("trainbeacon_notify_messages_total", number, receiver, outcome)
                families.add("trainbeacon_notify_waiting", self._waiting[receiver], receiver)
                if receiver in self._last:
                    name = "trainbeacon_notify_last_success_timestamp_seconds"
                    families.add(name, self._last[receiver], receiver)
        for reason, count in self.counts()[1].items():
            families.add("trainbeacon_requests_refused_total", count, reason)
        yield from families
