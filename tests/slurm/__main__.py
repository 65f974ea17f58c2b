"""`make slurm`: the tests of this folder on a Slurm of their own; says why not where that cannot be had.

In CI (CI=true) the reason is a failure.
"""

from __future__ import annotations

import os
import sys

import pytest

from tests.hosts import world
from tests.slurm.site import PROGRAMS


def main() -> int:
    """Run pytest in a world of its own."""
    if reason := world.missing(PROGRAMS):
        print(f"tests of Slurm are not run: {reason}; Debian has it in slurm-wlm and munge", file=sys.stderr)
        return int(os.environ.get("CI") == "true")
    if world.INSIDE not in os.environ:
        world.enter("tests.slurm", *sys.argv[1:])
    folder = os.path.dirname(__file__)
    return int(pytest.main([folder, "-p", "no:cacheprovider", "--durations=5", *sys.argv[1:]]))


if __name__ == "__main__":
    sys.exit(main())
