"""Finds Prometheus and Alertmanager on this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: Names of each program; Debian calls Alertmanager by the second.
NAMES = {
    "prometheus": ("prometheus",),
    "alertmanager": ("alertmanager", "prometheus-alertmanager"),
    "promtool": ("promtool",),
    "amtool": ("amtool",),
}

HOW_TO_GET = (
    "Prometheus and Alertmanager were not found on the PATH or in {cache}.\n"
    "  in a checkout of TrainBeacon:  make tools     (unpacks Debian's packages into that folder; no root)\n"
    "  Debian, Ubuntu:                sudo apt install prometheus prometheus-alertmanager\n"
    "  anywhere:                      put `prometheus` and `alertmanager` on the PATH"
)


@dataclass(frozen=True)
class Binaries:
    """Paths of the programs; None for what is missing."""

    prometheus: Path | None = None
    alertmanager: Path | None = None
    promtool: Path | None = None
    amtool: Path | None = None

    @property
    def complete(self) -> bool:
        """Whether a stack can be started."""
        return self.prometheus is not None and self.alertmanager is not None


def find(cache: Path | None = None, path: str | None = None) -> Binaries:
    """Look on the PATH (or `path`), then in the private cache of `make tools`."""
    cache = cache or cache_dir()
    return Binaries(**{program: _find(names, cache, path) for program, names in NAMES.items()})


def cache_dir() -> Path:
    """Where Debian's packages are unpacked."""
    return cache_folder() / "debian" / "default" / "usr" / "bin"


def cache_folder() -> Path:
    """Our folder among the caches of this user."""
    base = os.path.expandvars("${XDG_CACHE_HOME}")
    home = Path(base) if base.startswith("/") else Path("~/.cache").expanduser()
    return home / "trainbeacon"


def _find(names: tuple[str, ...], cache: Path, path: str | None) -> Path | None:
    return next(_candidates(names, cache, path), None)


def _candidates(names: tuple[str, ...], cache: Path, path: str | None) -> Iterator[Path]:
    for folders in (path, str(cache)):
        for name in names:
            found = shutil.which(name, path=folders)
            if found:
                yield Path(found)
