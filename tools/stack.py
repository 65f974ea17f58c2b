"""Have Prometheus and Alertmanager at hand, without root, a service or a change to the machine.

    python3 tools/stack.py [default] [trixie] [sid]

What is on the PATH serves as it is; else Debian's packages are unpacked, as `trainbeacon up` does it
(exporter/trainbeacon/stack/debian.py). Where they cannot be had it says so and succeeds (with CI=true it
fails for `default`). With `default` come other programs that scrape, for the tests. Needs nothing but Python,
apt-get and dpkg-deb.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "exporter"))

from trainbeacon.stack.debian import (
    BINARIES,
    CACHE,
    Apt,
    NotAvailableError,
    find,
    provide,
    suites,
)

__all__ = ["BINARIES", "CACHE", "NotAvailableError", "find", "find_scraper", "main", "provide", "suites"]

#: Programs that scrape and are no Prometheus, all that Debian 12 has; packages of the same name.
SCRAPERS = ("victoria-metrics", "prometheus-exporter-exporter")


def main(wanted: list[str]) -> int:
    """Provide each suite, or say why not."""
    status = 0
    for suite in wanted or ["default"]:
        try:
            print(f"Prometheus and Alertmanager ({suite}): {provide(suite, _say)}")
            if suite == "default":
                provide_scrapers()
        except NotAvailableError as reason:
            print(f"Prometheus and Alertmanager ({suite}) are not available: {reason}", file=sys.stderr)
            status |= suite == "default" and os.environ.get("CI") == "true"
    return int(status)


def find_scraper(name: str) -> str | None:
    """The path of one of SCRAPERS: from the PATH, else the cache."""
    unpacked = CACHE / "scrapers/usr/bin" / name
    return shutil.which(name) or (str(unpacked) if unpacked.exists() else None)


def provide_scrapers() -> None:
    """Make SCRAPERS available; for tests only, which are skipped by name without them."""
    tree = CACHE / "scrapers"
    tree.mkdir(parents=True, exist_ok=True)
    with (tree / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = [name for name in SCRAPERS if find_scraper(name) is None]
        if not missing:
            return
        _say(f"fetching {', '.join(missing)} from Debian ...")
        with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=tree) as scratch:
            try:
                apt = Apt("default", Path(scratch))
                apt.update(_say)
                for name in missing:
                    apt.unpack(name, tree)
            except NotAvailableError as reason:
                _say(f"{', '.join(missing)} cannot be had: {reason}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
