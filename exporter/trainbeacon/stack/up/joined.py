"""A stack that is up already, as somebody sees it who has joined it: its addresses, and its notifications."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

from trainbeacon.stack.receiver import Notification
from trainbeacon.stack.up.state import Note, State


class Joined:
    """What `up` receives from now on. `new` is called again and again, from one thread."""

    def __init__(self, state: State, note: Note) -> None:
        self.prometheus_url = note.urls["prometheus"]
        self.alertmanager_url = note.urls["alertmanager"]
        self._messages = state.folder / "messages.jsonl"
        self._at = self._size()

    def new(self) -> Iterator[Notification]:
        """The notifications since the last call."""
        size = self._size()
        if size < self._at:  # it was cut down to its end
            self._at = 0
        with contextlib.suppress(OSError), self._messages.open("rb") as file:
            file.seek(self._at)
            lines = file.read(size - self._at).splitlines(keepends=True)
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                self._at += len(line)
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    kept = json.loads(line)
                    yield Notification(
                        alert=kept["alert"],
                        status=kept["status"],
                        receiver="",
                        labels=kept["labels"],
                        annotations=kept["annotations"],
                    )

    def _size(self) -> int:
        with contextlib.suppress(OSError):
            return self._messages.stat().st_size
        return 0


def join(state: State | None = None) -> Joined | None:
    """What is up, None if nothing is."""
    state = state or State()
    note = state.read_note()
    return None if note is None else Joined(state, note)
