"""Counts what goes wrong in the exporter: its own errors, requests refused, series left out."""

from __future__ import annotations

import threading
from collections import Counter

from trainbeacon import catalogue

_REASONS = catalogue.BY_NAME["trainbeacon_requests_refused_total"].labels[0].values


class Health:
    """Counts what goes wrong in the exporter. Safe to use from several threads."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._errors: Counter[str] = Counter(dict.fromkeys(catalogue.EXPORTER_PLACES, 0))
        self._refused: Counter[str] = Counter(dict.fromkeys(_REASONS, 0))
        self.series_dropped = 0

    def error(self, where: str) -> None:
        """One error in that part of the exporter."""
        with self._guard:
            self._errors[where] += 1

    def refused(self, reason: str) -> None:
        """One HTTP request that was not answered as asked."""
        with self._guard:
            self._refused[reason] += 1

    def dropped(self, series: int) -> None:
        """So many series were left out of a scrape."""
        with self._guard:
            self.series_dropped += series

    def counts(self) -> tuple[dict[str, int], dict[str, int], int]:
        """Errors by place, refusals by reason, series dropped."""
        with self._guard:
            return dict(self._errors), dict(self._refused), self.series_dropped
