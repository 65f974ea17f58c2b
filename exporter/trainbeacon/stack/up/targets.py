"""The exporters that are scraped: those of every folder of black boxes that is in use."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from trainbeacon.stack.discover import Served, served
from trainbeacon.stack.up.state import replace

#: A folder that nobody has served for so long is worth a word: ranks start a new exporter within seconds.
SECONDS_UNTIL_SAID = 15.0
#: A target stays for so long after its exporter has gone, as long as ranks live there: then it is down,
#: and Prometheus has to see that.
SECONDS_KEPT = 300.0


class Targets:
    """Keeps `targets.json` up to date. `turn` is called every second or two, in the main thread."""

    def __init__(
        self, folder: Path, say: Callable[[str], None], *, look: Callable[[], Sequence[Served]] = served
    ) -> None:
        self.file = folder / "targets.json"
        self._say = say
        self._look = look
        self._known: dict[str, tuple[tuple[str, str], float]] = {}
        self._unserved: dict[str, float] = {}
        self._written = ""
        self.write([])

    def turn(self) -> None:
        """Look for runs now."""
        now = time.monotonic()
        found = {each.directory: each for each in self._look()}
        for directory, each in found.items():
            if each.target is not None:
                if self._known.get(directory, (None,))[0] != each.target:
                    self._say(f"scraping {each.url} ({directory})")
                self._known[directory] = each.target, now
        for directory, (_target, seen) in list(self._known.items()):
            live = directory in found and found[directory].live
            if now - seen > (SECONDS_KEPT if live else 3.0):
                del self._known[directory]
        self._say_who_is_not_served(found, now)
        self.write([target for target, _ in self._known.values()])

    def write(self, targets: Sequence[tuple[str, str]]) -> None:
        """Hand the targets to Prometheus, if they are others than before."""
        groups = [
            {"targets": [address], "labels": {} if scheme == "http" else {"__scheme__": scheme}}
            for scheme, address in sorted(set(targets))
        ]
        text = json.dumps(groups, indent=1)
        if text != self._written:
            replace(self.file, text)
            self._written = text

    def _say_who_is_not_served(self, found: dict[str, Served], now: float) -> None:
        """A run with serve="off" is left alone: whoever said so has something else in mind, or forgot it."""
        for directory, each in found.items():
            if each.url or not each.live:
                self._unserved.pop(directory, None)
            elif now - self._unserved.setdefault(directory, now) > SECONDS_UNTIL_SAID:
                self._unserved[directory] = float("inf")
                self._say(f"nobody serves {directory}: trainbeacon agent --directory {directory}")
