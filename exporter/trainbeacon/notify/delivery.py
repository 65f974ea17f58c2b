"""The way out: one outbox a receiver, which puts together what comes together and keeps to a rate.

A ticket is settled only when each address of its receiver has taken the message. Where some have and
some have not, the request fails, Alertmanager tries again, and only those that lack it get it then. The
addresses are asked at the same time, each in a thread: one that hangs or breaks holds up no other.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence

from .counts import Counts
from .message import Message, compose
from .settings import Receiver, SettingsError, addresses
from .webhook import Notification

log = logging.getLogger("trainbeacon.notify")

#: Hands a message to one address: `post(url, message, format)`; whether it was taken. May block for seconds.
Post = Callable[[str, Message, str], bool]

MINUTE = 60.0
#: An address that has not answered by then has failed, for now; what it takes later is remembered.
PATIENCE_SECONDS = 20.0
#: For so long it is remembered who has a message that others lack; Alertmanager tries again within it.
REMEMBERED_SECONDS = 3600.0
_MOST_REMEMBERED = 10_000
_MOST_WAITING = 1000


class Ticket:
    """One notification on its way. `outcome` is delivered, failed or deferred once `done` is set."""

    def __init__(self, notification: Notification, arrived: float, deadline: float) -> None:
        self.notification = notification
        self.arrived = arrived
        self.deadline = deadline
        self.done = threading.Event()
        self.outcome = "deferred"

    def settle(self, outcome: str) -> None:
        """Say how it ended."""
        self.outcome = outcome
        self.done.set()


class _Delivery:
    """A message on its way to one address: the identities that it lacks, until it has them."""

    def __init__(self, lacking: set[str]) -> None:
        self.lacking = lacking
        self.done = threading.Event()


class Rate:
    """At most that many in any minute, however they are spread: some services punish a burst for long."""

    def __init__(self, per_minute: int) -> None:
        self._sent: deque[float] = deque(maxlen=per_minute)

    def free_at(self, now: float) -> float:
        """When the next one may go."""
        full = len(self._sent) == self._sent.maxlen
        return self._sent[0] + MINUTE if full else now

    def sent(self, now: float) -> None:
        """One went."""
        self._sent.append(now)


class Outbox:
    """What waits for one receiver, and the thread that delivers it.

    Args:
        receiver: its settings; the addresses are read from its file at each delivery.
        post: hands a message to one address.
        counts: counts each message.
        grafana: address of Grafana for links, empty for none.
        patience: seconds that an address has to take a message.
    """

    def __init__(
        self,
        receiver: Receiver,
        post: Post,
        counts: Counts,
        clock: Callable[[], float] = time.monotonic,
        grafana: str = "",
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self.receiver = receiver
        self._grafana = grafana
        self._patience = patience
        self._post = post
        self._counts = counts
        self._clock = clock
        self._rate = Rate(receiver.messages_per_minute)
        self._queue: list[Ticket] = []
        self._changed = threading.Condition()
        self._over = False
        self._arrived: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._arrivals = threading.Lock()
        self._busy: set[str] = set()
        self._thread = threading.Thread(target=self._run, name=f"notify-{receiver.name}", daemon=True)
        self._thread.start()

    def submit(self, notification: Notification, seconds: float) -> Ticket:
        """Have a notification delivered within that time, or deferred at its end; does not wait."""
        now = self._clock()
        ticket = Ticket(notification, now, now + seconds)
        with self._changed:
            if self._over or len(self._queue) >= _MOST_WAITING:
                ticket.settle("deferred")
            else:
                self._queue.append(ticket)
                self._changed.notify()
        return ticket

    def stop(self) -> None:
        """Defer what waits; what is being delivered goes on."""
        with self._changed:
            self._over = True
            self._changed.notify()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while batch := self._gather():
            try:
                self._deliver(batch)
            except Exception as error:  # noqa: BLE001 - the thread lives on; the text may hold an address
                log.error("receiver %s: a delivery failed: %s", self.receiver.name, type(error).__name__)
            finally:
                for ticket in batch:
                    if not ticket.done.is_set():
                        ticket.settle("failed")

    def _gather(self) -> list[Ticket]:
        """Wait for the next tickets to go together; none of them once it is over."""
        with self._changed:
            while not self._over:
                now = self._clock()
                self._defer(now)
                self._counts.waiting(self.receiver.name, len(self._queue))
                if not self._queue:
                    self._changed.wait()
                    continue
                ready = max(self._queue[0].arrived + self.receiver.coalesce_seconds, self._rate.free_at(now))
                if ready <= now:
                    batch, self._queue = self._queue, []
                    return batch
                self._changed.wait(min(ready, *(ticket.deadline for ticket in self._queue)) - now)
            self._defer(float("inf"))
            return []

    def _defer(self, now: float) -> None:
        for ticket in self._queue:
            if ticket.deadline <= now:
                ticket.settle("deferred")
        self._queue = [ticket for ticket in self._queue if not ticket.done.is_set()]

    def _deliver(self, batch: Sequence[Ticket]) -> None:
        try:
            urls = addresses(self.receiver)
        except SettingsError as error:
            log.error("%s", error)
            return
        self._rate.sent(self._clock())
        deliveries = [self._begin(url, number, batch) for number, url in enumerate(urls, 1)]
        end = time.monotonic() + self._patience
        for delivery in deliveries:
            delivery.done.wait(max(0.0, end - time.monotonic()))
        lacking = set[str]().union(*(delivery.lacking for delivery in deliveries))
        now = self._clock()
        for ticket in batch:
            identity = ticket.notification.identity
            if identity in lacking:
                ticket.settle("failed")
                continue
            if ticket.deadline > now:  # else it was refused meanwhile and comes again: it is then known
                self._forget(identity)
            ticket.settle("delivered")

    def _begin(self, url: str, number: int, batch: Sequence[Ticket]) -> _Delivery:
        """Send one address what it lacks, in a thread; while one is still at it, no other is begun."""
        key = hashlib.sha256(url.encode()).hexdigest()
        with self._arrivals:
            due = {
                ticket.notification.identity: ticket.notification
                for ticket in batch
                if (ticket.notification.identity, key) not in self._arrived
            }
            delivery = _Delivery(set(due))
            if not due or key in self._busy:
                delivery.done.set()
                return delivery
            self._busy.add(key)
        arguments = (url, number, key, list(due.values()), delivery)
        threading.Thread(
            target=self._deliver_to, args=arguments, name=f"{self._thread.name}-{number}", daemon=True
        ).start()
        return delivery

    def _deliver_to(
        self, url: str, number: int, key: str, due: Sequence[Notification], delivery: _Delivery
    ) -> None:
        receiver, taken = self.receiver, False
        try:
            message = compose(due, receiver.format, receiver.longest_text, self._grafana)
            taken = self._post(url, message, receiver.format)
        except Exception as error:  # noqa: BLE001 - whatever a library raises; its text may hold the address
            log.error("receiver %s: address %d: %s", receiver.name, number, type(error).__name__)
        finally:
            self._counts.message(receiver.name, "delivered" if taken else "failed", time.time())
            with self._arrivals:
                self._busy.discard(key)
                if taken:
                    delivery.lacking.clear()
                    for notification in due:
                        self._remember(notification.identity, key)
            delivery.done.set()
        if not taken:
            log.warning("receiver %s: address %d did not take a message", receiver.name, number)

    def _remember(self, identity: str, key: str) -> None:
        """The lock on arrivals is held."""
        now = self._clock()
        self._arrived[identity, key] = now
        while self._arrived:
            oldest = next(iter(self._arrived))
            if now - self._arrived[oldest] < REMEMBERED_SECONDS and len(self._arrived) <= _MOST_REMEMBERED:
                return
            del self._arrived[oldest]

    def _forget(self, identity: str) -> None:
        """Everybody has it: when it comes again it is a repetition that Alertmanager means."""
        with self._arrivals:
            for pair in [pair for pair in self._arrived if pair[0] == identity]:
                del self._arrived[pair]
