"""How much of everything a client gets: time, bytes, threads, places."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Limits:
    """The bounds of one server. No thread waits for a client, whatever they are."""

    idle_seconds: float = 10.0
    """How long a connection may stay open between two requests."""
    handshake_seconds: float = 5.0
    """How long a TLS handshake may take, from the connection on."""
    head_seconds: float = 3.0
    """How long the head of a request may take, from its first byte on."""
    body_seconds: float = 3.0
    """How long the body may take after that."""
    answer_seconds: float = 10.0
    """How long a client may take to receive an answer."""
    head_bytes: int = 16 * 1024
    body_bytes: int = 16 * 1024
    bodies_at_once: int = 16
    """Bodies of the full size that may wait in memory together."""
    connections: int = 128
    """Connections that wait for their client; the one that has waited longest goes for the next."""
    queue: int = 32
    """Whole requests that wait for a thread."""
    threads: int = 4


class Refusals(Protocol):
    """Counts what was not answered as asked."""

    def refused(self, reason: str) -> None:
        """One request or connection, by a reason of `trainbeacon_requests_refused_total`."""
