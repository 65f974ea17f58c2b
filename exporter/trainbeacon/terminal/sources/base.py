"""What all sources have in common: their name, their looks, and how the last one went."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from trainbeacon.terminal.facts_of import Found, facts_of
from trainbeacon.terminal.table import Look, Table
from trainbeacon.verdict.facts import Alert, RunKey, Source

#: Rates are taken over about this long, and looks kept for it.
RATE_SECONDS = 60.0
_SECONDS_BETWEEN_KEPT = 5.0


class FactSource(ABC):
    """One source. `read` blocks, in one thread at a time; the rest does not, and any thread may call it.

    Attributes:
        name: as people are shown it.
        seconds: least time between two looks, for the sake of whoever answers.
        rates: whether counters come as rates.
    """

    seconds = 1.0
    rates = False

    def __init__(self, name: str, *, clock: Callable[[], float] = time.time) -> None:
        self.name = name
        self._clock = clock
        self._table = Table(name)
        self._looks: deque[Look] = deque()
        self._guard = threading.Lock()
        self._found: Found | None = None
        self._state = Source(name)

    @abstractmethod
    def _take(self) -> Look:
        """Look now. What it raises is the reason why not."""

    def read(self) -> bool:
        """Look once; returns whether it went well. What goes wrong is in `state`, and nothing raises."""
        try:
            look = self._take()
            found = facts_of(self.name, self._table, look, self._before(look), rates=self.rates)
        except Exception as error:  # noqa: BLE001 - whatever a source does, the others are shown
            self._state = Source(self.name, self._state.taken_at, reason(error))
            return False
        with self._guard:
            self._remember(look)
            self._found = found
            self._state = Source(self.name, look.at)
        return True

    @property
    def state(self) -> Source:
        """When it was last read, and why the last look failed if it did."""
        return self._state

    @property
    def found(self) -> Found | None:
        """What the last good look showed."""
        with self._guard:
            return self._found

    def alerts(self) -> Sequence[Alert] | None:
        """Firing alerts, None where this source knows of none."""
        return None

    def losses(self) -> Mapping[RunKey, Sequence[float]]:
        """Recent training losses of runs whose past the source knows."""
        return {}

    @abstractmethod
    def close(self) -> None:
        """Let go of files and connections."""

    def _before(self, look: Look) -> Look | None:
        """The oldest look that is kept, to take rates from."""
        return self._looks[0] if self._looks else None

    def _remember(self, look: Look) -> None:
        kept = self._looks
        if not kept or look.at - kept[-1].at >= _SECONDS_BETWEEN_KEPT or look.at < kept[-1].at:
            kept.append(look)
        while len(kept) > 1 and look.at - kept[0].at > RATE_SECONDS:
            kept.popleft()


def reason(error: Exception) -> str:
    """Why something failed, in a few words on one line."""
    inner = getattr(error, "reason", None)
    text = getattr(inner, "strerror", None) or getattr(error, "strerror", None) or str(inner or error)
    return " ".join(str(text or type(error).__name__).split())[:120]
