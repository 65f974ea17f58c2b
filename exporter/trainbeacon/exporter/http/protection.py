"""What a web configuration file asks for, and whether another one would ask for less."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field

Stamp = tuple[int, int, int, int, int]


def stamp_of(path: str) -> Stamp | None:
    """What distinguishes one content of a file from another without reading it; None if it is not there."""
    try:
        status = os.stat(path)  # of what a link leads to: Kubernetes swaps links
    except OSError:
        return None
    # The time of change shows a new mode too.
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@dataclass(frozen=True)
class WebConfig:
    """What a web configuration file asks for, ready to serve with; by default nothing."""

    context: ssl.SSLContext | None = None
    """Wraps accepted sockets; None serves plain HTTP."""
    allowed_sans: frozenset[str] | None = None
    """Names of which a client certificate must hold one; None for any that the CA signed."""
    users: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """bcrypt hashes by user name; empty asks for no password."""
    headers: tuple[tuple[str, str], ...] = ()
    """Headers added to every answer."""
    suites: frozenset[str] | None = None
    """The only cipher suites of TLS 1.2 that are taken; None for all sound ones."""
    files: Mapping[str, Stamp | None] = field(default_factory=dict)
    """What it was read from, with the stamp of each file from just before."""

    @property
    def scheme(self) -> str:
        """`https` or `http`."""
        return "http" if self.context is None else "https"

    @property
    def warnings(self) -> list[str]:
        """What is allowed and should not stay so."""
        found = []
        if self.users and self.context is None:
            found.append("basic_auth_users without TLS: passwords cross the network readable by anyone")
        if self.files and not self.users and self.context is None:
            found.append("it asks for neither TLS nor passwords: everything is served to everyone")
        if any(cost_of(known) > 13 for known in self.users.values()):
            found.append("a password hash has a cost above 13: checking it takes longer than a second")
        return found


def cost_of(known: bytes) -> int:
    """The cost of a bcrypt hash: its check takes 2**cost rounds."""
    return int(known[4:6])


def opened_by(before: WebConfig, after: WebConfig) -> str:
    """What the second settings would let in that the first keep out, with the fix; empty if nothing.

    A certificate, an authority, a user or a client's name that is another one counts as rotated.
    """
    if before.scheme != after.scheme:
        return "tls_server_config came or went. Restart to serve with or without TLS"
    if before.users and not after.users:
        return "basic_auth_users is gone. Restart to serve without passwords"
    if before.allowed_sans is not None and after.allowed_sans is None:
        return "client_allowed_sans is gone. Restart to let in every client that the authority has signed"
    if before.suites is not None and (after.suites is None or after.suites - before.suites):
        return "cipher_suites has more than before. Restart to take them"
    if before.context is None or after.context is None:
        return ""
    if after.context.verify_mode < before.context.verify_mode:
        return "client_auth_type asks for less than before. Restart to let in clients without a certificate"
    if after.context.minimum_version < before.context.minimum_version:
        return "min_version is lower than before. Restart to serve older versions"
    return ""
