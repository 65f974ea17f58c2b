"""The outbox: puts together what comes together, keeps to the rate, and sends nobody a thing twice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.notify.payloads import alert, notification
from trainbeacon.notify.counts import Counts
from trainbeacon.notify.delivery import Outbox, Rate, Ticket
from trainbeacon.notify.message import Message
from trainbeacon.notify.settings import Receiver

SECONDS = 20.0
HANG = "Hang in gpt since 12:34 UTC: rank 3, node-7"


class Service:
    """Two addresses; those in `down` take nothing."""

    def __init__(self) -> None:
        self.down: set[str] = set()
        self.taken: list[tuple[str, Message]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.asked = threading.Semaphore(0)

    def post(self, url: str, message: Message, format: str) -> bool:
        self.asked.release()
        self.gate.wait(SECONDS)
        if url in self.down:
            return False
        self.taken.append((url, message))
        return True

    def at(self, url: str) -> list[str]:
        return [message.title for taken, message in self.taken if taken == url]


Make = Callable[..., Outbox]


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def outbox(tmp_path: Path, service: Service) -> Iterator[Make]:
    (tmp_path / "team").write_text("a\nb\n", encoding="utf-8")
    made: list[Outbox] = []

    def make(**settings: int) -> Outbox:
        settings = {"coalesce_seconds": 0, **settings}
        receiver = Receiver(name="team", urls_file=str(tmp_path / "team"), **settings)  # type: ignore[arg-type]
        made.append(Outbox(receiver, service.post, Counts(["team"])))
        return made[-1]

    yield make
    service.gate.set()
    for each in made:
        each.stop()


def outcome(ticket: Ticket) -> str:
    assert ticket.done.wait(SECONDS)
    return ticket.outcome


def test_delivered_means_that_every_address_has_it(outbox: Make, service: Service) -> None:
    """The ticket is settled after the last address took the message."""
    assert "delivered" == outcome(outbox().submit(notification(), SECONDS))
    assert [HANG] == service.at("a") == service.at("b")


def test_a_retry_reaches_only_those_that_lack_it(outbox: Make, service: Service) -> None:
    """One service down does not make the other one ring at every retry."""
    box = outbox()
    service.down = {"b"}
    assert "failed" == outcome(box.submit(notification(), SECONDS))
    assert "failed" == outcome(box.submit(notification(), SECONDS))
    service.down = set()
    assert "delivered" == outcome(box.submit(notification(), SECONDS))
    assert (1, 1) == (len(service.at("a")), len(service.at("b")))


def test_a_repetition_is_meant(outbox: Make, service: Service) -> None:
    """What everybody has and Alertmanager sends again after hours is delivered again."""
    box = outbox()
    for _ in range(2):
        assert "delivered" == outcome(box.submit(notification(), SECONDS))
    assert 2 == len(service.at("a"))


def test_what_comes_together_goes_together(outbox: Make, service: Service) -> None:
    """Groups that arrive while a message is on its way make one message."""
    box = outbox()
    service.gate.clear()
    first = box.submit(notification(), SECONDS)
    assert service.asked.acquire(timeout=SECONDS)  # the first one is being sent now
    others = [box.submit(notification(alert(run=f"r{n}"), group=f"r{n}"), SECONDS) for n in range(5)]
    service.gate.set()
    assert ["delivered"] * 6 == [outcome(ticket) for ticket in (first, *others)]
    assert [HANG, HANG.replace("gpt", "r0") + " (+4 in 4 more runs)"] == service.at("a")


def test_two_alertmanagers_make_one_message(outbox: Make, service: Service) -> None:
    """Both of a pair send the same notification; people get it once, both have their answer."""
    box = outbox(coalesce_seconds=1)
    tickets = [box.submit(notification(), SECONDS) for _ in range(2)]
    assert ["delivered", "delivered"] == [outcome(ticket) for ticket in tickets]
    assert 1 == len(service.at("a"))


def test_beyond_the_rate_it_is_deferred(outbox: Make, service: Service) -> None:
    """A notification that cannot go within its time is refused, so that Alertmanager tries again."""
    box = outbox(messages_per_minute=1)
    assert "delivered" == outcome(box.submit(notification(), SECONDS))
    assert "deferred" == outcome(box.submit(notification(alert(run="b")), 0.2))
    assert 1 == len(service.at("a"))


def test_what_arrives_late_is_not_sent_twice(outbox: Make, service: Service) -> None:
    """The request was given up while a slow service took the message: its retry is answered, not sent."""
    box = outbox()
    service.gate.clear()
    late = box.submit(notification(), 0.05)
    assert service.asked.acquire(timeout=SECONDS)
    assert not late.done.wait(0.2)
    service.gate.set()
    assert "delivered" == outcome(late)
    assert "delivered" == outcome(box.submit(notification(), SECONDS))
    assert 1 == len(service.at("a"))


def test_a_missing_file_fails_and_says_so(
    tmp_path: Path, outbox: Make, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    """A secret that vanished is an error with its path, not silence."""
    box = outbox()
    (tmp_path / "team").unlink()
    assert "failed" == outcome(box.submit(notification(), SECONDS))
    assert str(tmp_path / "team") in caplog.text


def test_an_error_in_a_service_fails_that_message_only(outbox: Make, service: Service) -> None:
    """The thread of a receiver outlives whatever a service's library raises."""
    box = outbox()
    post, service.at_once = service.post, True  # type: ignore[attr-defined]
    box._post = lambda *_: 1 / 0  # type: ignore[assignment,return-value]
    assert "failed" == outcome(box.submit(notification(), SECONDS))
    box._post = post
    assert "delivered" == outcome(box.submit(notification(), SECONDS))


def test_stopping_defers_what_waits(outbox: Make, service: Service) -> None:
    """At the end nothing is lost: Alertmanager still has it."""
    box = outbox(coalesce_seconds=60)
    ticket = box.submit(notification(), SECONDS)
    box.stop()
    assert "deferred" == outcome(ticket)
    assert "deferred" == outcome(box.submit(notification(), SECONDS))


def test_the_rate_holds_in_any_minute() -> None:
    """Not 3 at the end of one minute and 3 at the begin of the next."""
    rate = Rate(3)
    for now in (0.0, 50.0, 59.0):
        assert now == rate.free_at(now)
        rate.sent(now)
    assert 60.0 == rate.free_at(59.5)
    rate.sent(60.0)
    assert 110.0 == rate.free_at(61.0)
