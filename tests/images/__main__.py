"""`make images`: deploy/images built, and run as the chart says; by podman and runc, without a registry.

As root, with Debian's podman, runc and mmdebstrap; elsewhere it says why not (with CI=true it fails).
"""

from __future__ import annotations

import os
import sys

import pytest

from tests.hosts import world
from tests.images.conftest import INSIDE
from tests.images.podman import missing


def main() -> int:
    """Run pytest over this folder."""
    if reason := world.missing(()) or missing():
        print(f"images are not built: {reason}; Debian has podman, runc and mmdebstrap", file=sys.stderr)
        return int(os.environ.get("CI") == "true")
    os.environ[INSIDE] = "1"
    folder = os.path.dirname(__file__)
    return int(
        pytest.main(
            [folder, "-p", "no:cacheprovider", "--durations=8", "--timeout=1500", "-s", *sys.argv[1:]]
        )
    )


if __name__ == "__main__":
    sys.exit(main())
