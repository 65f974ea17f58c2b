"""Passwords: who is let in, and what it costs the server when somebody tries many."""

from __future__ import annotations

import base64
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import bcrypt
import pytest

from tests.serving import wait_for
from trainbeacon.exporter.http.authentication import MOST_CHECKS, PasswordCheck


def hashed(password: str, cost: int = 4) -> bytes:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost))


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


USERS = {"alice": hashed("wonderland"), "bob": hashed("s:p ä"), "long": hashed("x" * 72)}


@pytest.mark.parametrize(
    ("header", "verdict"),
    [
        (basic("alice", "wonderland"), "welcome"),
        (basic("alice", "wonderland").replace("Basic", "bAsIc "), "welcome"),
        (basic("bob", "s:p ä"), "welcome"),
        (basic("long", "x" * 80), "welcome"),
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


def test_a_right_password_is_checked_once_and_a_new_hash_again() -> None:
    """A scraper pays bcrypt once; a password that was changed is at once of no use."""
    passwords = PasswordCheck()
    users = {"alice": hashed("wonderland", cost=9)}
    header = basic("alice", "wonderland")
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        assert "welcome" == passwords.check(users, header, "1")
        times.append(time.perf_counter() - begun)
    assert max(times[1:]) < times[0] / 5
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


def test_one_address_cannot_keep_another_out() -> None:
    """Of many wrong passwords from one address one is checked at a time: the next address has its turn."""
    passwords = PasswordCheck()
    dear = {"alice": hashed("wonderland", cost=12)}
    verdicts: list[str] = []
    with ThreadPoolExecutor(3) as pool:
        guess = pool.submit(passwords.check, dear, basic("alice", "1"), "mallory")
        wait_for(lambda: "mallory" in passwords._checking)
        verdicts += [passwords.check(dear, basic("alice", "2"), "mallory")]
        scraper = pool.submit(passwords.check, dear, basic("alice", "wonderland"), "prometheus")
        wait_for(lambda: len(passwords._checking) == MOST_CHECKS or scraper.done())
        assert "welcome" == scraper.result()
        assert "unauthorized" == guess.result()
    assert ["busy"] == verdicts
    assert not passwords._checking


def test_no_more_than_two_checks_at_once() -> None:
    """However many addresses try passwords, the cores of the node are left to the training."""
    passwords = PasswordCheck()
    users = {"alice": hashed("wonderland", cost=10)}
    start = threading.Barrier(6)

    def guess(address: int) -> str:
        start.wait()
        return passwords.check(users, basic("alice", "guess"), str(address))

    with ThreadPoolExecutor(6) as pool:
        verdicts = sorted(pool.map(guess, range(6)))
    assert 6 - MOST_CHECKS == verdicts.count("busy")
    assert "welcome" not in verdicts
