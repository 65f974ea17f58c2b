"""Every run of this user on this machine: the folders of its black boxes, and the exporters that serve them.

A rank holds its box open, and an exporter the lock of its folder, whatever folder the user has named. So the
open files of the user's own processes lead to all of them; no registry has to be kept.
"""

from __future__ import annotations

import contextlib
import os
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass

from trainbeacon.blackbox.directory import BOX_SUFFIX, EXPORTER_LOCK, default_directory
from trainbeacon.blackbox.election import exporter_is_there, read_note


@dataclass(frozen=True)
class Served:
    """A folder of black boxes, and who serves it.

    Attributes:
        directory: the folder.
        url: address of its exporter, empty without one.
        live: whether a process has a box in it open.
    """

    directory: str
    url: str = ""
    live: bool = False

    @property
    def target(self) -> tuple[str, str] | None:
        """Scheme and `host:port` of the exporter."""
        parts = urllib.parse.urlsplit(self.url)
        return (parts.scheme, parts.netloc) if parts.scheme and parts.netloc else None


def served() -> list[Served]:
    """The folders in use now, and the default one if it is there. Blocks for milliseconds."""
    live = dict(_open_folders())
    default = default_directory()
    if default not in live and _is_own(default):
        live[default] = False
    return [_look(directory, live[directory]) for directory in sorted(live)]


def _look(directory: str, live: bool) -> Served:
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            note = read_note(descriptor) if exporter_is_there(descriptor) else None
        finally:
            os.close(descriptor)
        return Served(directory, note.url if note is not None else "", live)
    return Served(directory, "", live)


def _open_folders() -> Iterator[tuple[str, bool]]:
    """Folders with a box or a lock that a process of this user has open, with whether it is a box."""
    found: dict[str, bool] = {}
    network = _namespace("self")
    for process in _own_processes():
        if process == str(os.getpid()) or _namespace(process) != network:
            continue  # an exporter in another network is not to be reached from here
        for path in _open_files(process):
            folder, name = os.path.split(path)
            if name == EXPORTER_LOCK or name.endswith(BOX_SUFFIX):
                found[folder] = found.get(folder, False) or name != EXPORTER_LOCK
    yield from found.items()


def _own_processes() -> Iterator[str]:
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError):
                if name.isdecimal() and os.stat(f"/proc/{name}").st_uid == os.geteuid():
                    yield name


def _open_files(process: str) -> Iterator[str]:
    """Paths of open files that mean the same file here: not those of another container, nor removed ones."""
    with contextlib.suppress(OSError):
        for number in os.listdir(f"/proc/{process}/fd"):
            link = f"/proc/{process}/fd/{number}"
            with contextlib.suppress(OSError):
                path = os.readlink(link)
                if path.endswith((EXPORTER_LOCK, BOX_SUFFIX)) and os.path.samefile(link, path):
                    yield path


def _namespace(process: str) -> str:
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{process}/ns/net")
    return ""


def _is_own(directory: str) -> bool:
    with contextlib.suppress(OSError):
        return os.stat(directory).st_uid == os.geteuid()
    return False
