"""Have Prometheus and Alertmanager at hand, without root, a service or a change to the machine.

    python3 tools/stack.py [default] [trixie] [sid]

What is on the PATH serves as it is; else Debian's packages are unpacked, as `trainbeacon up` does it
(exporter/trainbeacon/stack/debian.py). Where they cannot be had it says so and succeeds (with CI=true it
fails for `default`). Needs nothing but Python, apt-get and dpkg-deb.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "exporter"))

from trainbeacon.stack.debian import (
    BINARIES,
    CACHE,
    NotAvailableError,
    find,
    provide,
    suites,
)

__all__ = ["BINARIES", "CACHE", "NotAvailableError", "find", "main", "provide", "suites"]


def main(wanted: list[str]) -> int:
    """Provide each suite, or say why not."""
    status = 0
    for suite in wanted or ["default"]:
        try:
            print(f"Prometheus and Alertmanager ({suite}): {provide(suite, _say)}")
        except NotAvailableError as reason:
            print(f"Prometheus and Alertmanager ({suite}) are not available: {reason}", file=sys.stderr)
            status |= suite == "default" and os.environ.get("CI") == "true"
    return int(status)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
