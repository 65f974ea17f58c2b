"""Passwords: who is let in, and what it costs the server when somebody tries many."""

from __future__ import annotations

import base64
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice

import bcrypt
import pytest

from tests.serving import PATIENCE
from trainbeacon.exporter.http.authentication import MOST_CHECKS, PasswordCheck


def hashed(password: str, cost: int = 4) -> bytes:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost))


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


USERS = {"alice": hashed("wonderland"), "bob": hashed("s:p ä"), "long": hashed("x" * 72)}


@pytest.mark.parametrize(
    ("header", "verdict"),
    [
        (basic("alice", "wonderland"), "authorised"),
        (basic("alice", "wonderland").replace("Basic", "bAsIc "), "authorised"),
        (basic("bob", "s:p ä"), "authorised"),
        (basic("long", "x" * 80), "authorised"),
        (basic("alice", "Wonderland"), "unauthorized"),
        (basic("alice", ""), "unauthorized"),
        (basic("alice", "wonderland\0"), "unauthorized"),
        (basic("Alice", "wonderland"), "unauthorized"),
        (basic("bob", "wonderland"), "unauthorized"),
        (basic("", ""), "unauthorized"),
        ("", "unauthorized"),
        ("Basic", "unauthorized"),
        ("Basic !!!!", "unauthorized"),
        ("Basic " + base64.b64encode(b"alice").decode(), "unauthorized"),
        ("Basic " + base64.b64encode(b"\xff\xfe:x").decode(), "unauthorized"),
        (f"Bearer {basic('alice', 'wonderland')}", "unauthorized"),
    ],
)
def test_who_is_let_in(header: str, verdict: str) -> None:
    """A user with their own password, however it is written in the header, and nobody else; twice alike."""
    passwords = PasswordCheck()
    assert [verdict, verdict] == [passwords.check(USERS, header, "1") for _ in range(2)]


class SlowCheck:
    """Stands in for bcrypt's check: each lasts until the test lets all of them go on, and fits nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.goes_on = threading.Event()
        monkeypatch.setattr(bcrypt, "checkpw", self._check)

    def _check(self, password: bytes, known: bytes) -> bool:
        assert self.goes_on.wait(PATIENCE)
        return False


def test_a_right_password_is_checked_once_and_a_new_hash_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scraper pays bcrypt once; a password that was changed is at once of no use."""
    passwords = PasswordCheck()
    users = {"alice": hashed("wonderland")}
    header = basic("alice", "wonderland")
    checked, check = [], bcrypt.checkpw
    monkeypatch.setattr(bcrypt, "checkpw", lambda *given: (checked.append(given), check(*given))[1])
    assert ["authorised"] * 5 == [passwords.check(users, header, "1") for _ in range(5)]
    assert [(b"wonderland", users["alice"])] == checked
    assert "unauthorized" == passwords.check({"alice": hashed("looking-glass")}, header, "1")
    assert "unauthorized" == passwords.check({"bob": users["alice"]}, header, "1")


def test_times_do_not_tell_who_exists() -> None:
    """A name that nobody has takes as long as a wrong password of somebody's."""
    passwords = PasswordCheck()
    users = {"alice": hashed("wonderland", cost=8)}

    def seconds(user: str) -> float:
        begun = time.thread_time()
        passwords.check(users, basic(user, "guess"), "1")
        return time.thread_time() - begun

    known, unknown = (statistics.median(seconds(user) for _ in range(9)) for user in ("alice", "mallory"))
    assert 0.5 < known / unknown < 2


def test_one_address_cannot_keep_another_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many wrong passwords from one address one is checked at a time: the next address has its turn."""
    passwords, users = PasswordCheck(), {"alice": hashed("wonderland")}
    slow = SlowCheck(monkeypatch)
    with ThreadPoolExecutor(3) as pool:
        first, second = (pool.submit(passwords.check, users, basic("alice", "1"), "mallory") for _ in "12")
        refused = next(as_completed([first, second], PATIENCE))  # while the other one lasts
        assert "busy" == refused.result()
        other = pool.submit(passwords.check, users, basic("alice", "2"), "prometheus")
        slow.goes_on.set()
        assert "unauthorized" == other.result(PATIENCE)
    assert ["busy", "unauthorized"] == sorted([first.result(), second.result()])


def test_no_more_than_two_checks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many addresses try passwords, the cores of the node are left to the training."""
    passwords, users = PasswordCheck(), {"alice": hashed("wonderland")}
    slow = SlowCheck(monkeypatch)
    with ThreadPoolExecutor(6) as pool:
        guesses = [pool.submit(passwords.check, users, basic("alice", "x"), str(n)) for n in range(6)]
        refused = list(islice(as_completed(guesses, PATIENCE), 6 - MOST_CHECKS))
        assert {"busy"} == {guess.result() for guess in refused}
        slow.goes_on.set()
    assert MOST_CHECKS == [guess.result() for guess in guesses].count("unauthorized")
