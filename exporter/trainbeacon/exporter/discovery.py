"""Service discovery by file: where this exporter serves, for Prometheus' `file_sd_configs`."""

from __future__ import annotations

import contextlib
import json
import os
import socket

from trainbeacon.blackbox import files
from trainbeacon.config.settings import Config


class DiscoveryFiles:
    """The files that the settings `sd_file` and `sd_dir` ask for; removed again at the end."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._written: dict[str, tuple[int, int]] = {}
        self._pid = os.getpid()

    def write(self, port: int, scheme: str = "http") -> None:
        """Write the address into every file asked for. Raises OSError."""
        name = self._config.advertise or _address_of(self._config.host)
        address = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
        labels = {} if scheme == "http" else {"__scheme__": scheme}
        text = json.dumps([{"targets": [address], "labels": labels}], indent=1) + "\n"
        for path in self._paths(name, port):
            os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
            files.replace(path, text.encode(), mode=0o644)  # Prometheus is another user
            self._written[path] = _identity(path)

    def remove(self) -> None:
        """Take the files away: the target is gone. A file that another exporter has replaced stays.

        In a forked child they are the parent's.
        """
        if os.getpid() != self._pid:
            return
        for path, identity in self._written.items():
            with contextlib.suppress(OSError):
                if _identity(path) == identity:
                    os.unlink(path)
        self._written = {}

    def _paths(self, name: str, port: int) -> list[str]:
        paths = [self._config.sd_file] if self._config.sd_file else []
        if self._config.sd_dir:
            safe = name.replace(":", "_").replace("/", "_")
            paths.append(os.path.join(self._config.sd_dir, f"trainbeacon-{safe}-{port}.json"))
        return paths


def _identity(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino


def _address_of(host: str) -> str:
    """The name to reach the host by: what it listens on, unless that is every interface."""
    return socket.gethostname() if host in ("0.0.0.0", "::", "") else host  # noqa: S104
