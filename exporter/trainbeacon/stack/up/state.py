"""What `up` keeps on disk: $XDG_STATE_HOME/trainbeacon (default ~/.local/state/trainbeacon).

up.lock             held by the one that runs
up.json             what it says of itself
notify.txt          addresses that messages go to: secrets, for their owner only
targets.json        the exporters that are scraped
prometheus/ ...     data, bounded by time and size
*.log, messages.jsonl   bounded by size
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

_NOTE, _LOCK, _ADDRESSES = "up.json", "up.lock", "notify.txt"


@dataclass(frozen=True)
class Note:
    """What the one that runs says of itself."""

    pid: int
    started: float
    version: str
    urls: dict[str, str] = field(default_factory=dict)
    """Addresses of the servers by name."""
    addresses: int = 0
    """How many addresses messages go to."""
    interval: float = 5.0
    events: list[tuple[float, str]] = field(default_factory=list)
    """What happened to its children, with Unix times, the newest last."""


class State:
    """The folder. Made when it is first used, closed to others."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or default_folder()

    def make(self) -> None:
        """Make the folder. Raises OSError."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chmod(self.folder, 0o700)

    def take_lock(self) -> int | None:
        """The lock as a descriptor that holds it, None if another process has it."""
        descriptor = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
        return descriptor

    @property
    def is_running(self) -> bool:
        """Whether some process holds the lock."""
        try:
            descriptor = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(descriptor)
        return False

    def read_note(self) -> Note | None:
        """What the one that runs has written; None where none runs, or it has not come so far."""
        if not self.is_running:
            return None
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            found: dict[str, Any] = json.loads((self.folder / _NOTE).read_text("utf-8"))
            return Note(**{**found, "events": [(float(at), str(text)) for at, text in found["events"]]})
        return None

    def write_note(self, note: Note) -> None:
        """Say it; a reader sees the old text or the new one."""
        replace(self.folder / _NOTE, json.dumps(asdict(note), indent=1))

    def remove_note(self) -> None:
        """Nothing runs any more."""
        for name in (_NOTE, "targets.json"):
            with contextlib.suppress(OSError):
                (self.folder / name).unlink()

    @property
    def addresses_file(self) -> Path:
        """Where the addresses of messages are kept."""
        return self.folder / _ADDRESSES

    def addresses(self) -> list[str]:
        """The addresses that messages go to."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            lines = (line.strip() for line in self.addresses_file.read_text("utf-8").splitlines())
            return [line for line in lines if line]
        return []

    def write_addresses(self, addresses: list[str]) -> None:
        """Keep them, for their owner only; none at all removes the file."""
        if addresses:
            replace(self.addresses_file, "".join(f"{each}\n" for each in addresses))
        else:
            with contextlib.suppress(OSError):
                self.addresses_file.unlink()

    def purge(self) -> None:
        """Remove the folder with all data. Only where nothing runs."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def size(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


def default_folder() -> Path:
    """`$XDG_STATE_HOME/trainbeacon`, or its like in the home folder."""
    base = os.path.expandvars("${XDG_STATE_HOME}")
    home = Path(base) if base.startswith("/") else Path("~/.local/state").expanduser()
    return home / "trainbeacon"


def replace(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(temporary, path)
