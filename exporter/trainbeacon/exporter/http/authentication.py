"""Who may see the pages: basic authentication against bcrypt hashes, at a bounded cost.

A check of a bcrypt hash takes 50 ms and more, by intent. So a password that was right once is known again
by a keyed digest, and no more than two checks run at once, one an address: somebody who tries passwords
keeps neither the four threads of the server nor a scraper at another address from their work.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

from trainbeacon.exporter.http.protection import cost_of

MOST_CHECKS = 2
#: bcrypt looks at no more of a password than this; its Python package refuses what is longer.
_MOST_BYTES = 72

Verdict = Literal["authorised", "unauthorized", "busy"]


class PasswordCheck:
    """Checks credentials. Safe to use from several threads; `check` may take as long as bcrypt does."""

    def __init__(self) -> None:
        self._secret = os.urandom(32)
        self._guard = threading.Lock()
        self._known: dict[str, bytes] = {}
        self._checking: set[str] = set()

    def check(self, users: Mapping[str, bytes], header: str, address: str) -> Verdict:
        """Whether the Authorization header of a request names one of the users with their password.

        `busy` says that it was not looked at, because too many are being checked.
        """
        credentials = _credentials(header)
        if credentials is None:
            return "unauthorized"
        user, password = credentials
        # A name that is not there costs what one that is there costs, so that times do not reveal names.
        known = users.get(user) or _decoy(users)
        digest = self._digest(known, password)
        with self._guard:
            if hmac.compare_digest(digest, self._known.get(user, b"")):
                return "authorised"
        with self._turn(address) as admitted:
            if not admitted:
                return "busy"
            right = _matches(password, known) and user in users
        if right:
            self._remember(user, digest, users)
        return "authorised" if right else "unauthorized"

    def _digest(self, known: bytes, password: bytes) -> bytes:
        """What stands for a password that fits this hash: of no use to who reads our memory later."""
        return hmac.digest(self._secret, known + password, hashlib.sha256)

    def _remember(self, user: str, digest: bytes, users: Mapping[str, bytes]) -> None:
        with self._guard:
            self._known = {name: seen for name, seen in self._known.items() if name in users}
            self._known[user] = digest

    @contextmanager
    def _turn(self, address: str) -> Iterator[bool]:
        with self._guard:
            admitted = len(self._checking) < MOST_CHECKS and address not in self._checking
            if admitted:
                self._checking.add(address)
        try:
            yield admitted
        finally:
            if admitted:
                with self._guard:
                    self._checking.discard(address)


def _credentials(header: str) -> tuple[str, bytes] | None:
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
        return (user.decode(), password) if colon else None
    except (binascii.Error, ValueError):
        return None


def _decoy(users: Mapping[str, bytes]) -> bytes:
    """A hash that nobody's password fits, as expensive to check as the most expensive of the users'."""
    cost = max(map(cost_of, users.values()), default=10)
    return f"$2b${cost:02d}${'.' * 53}".encode()


def _matches(password: bytes, known: bytes) -> bool:
    import bcrypt  # only where the file names users

    try:
        return bcrypt.checkpw(password[:_MOST_BYTES], known)
    except ValueError:  # a hash with the right look and impossible content, or a NUL in the password
        return False
