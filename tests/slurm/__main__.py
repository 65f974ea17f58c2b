"""`make slurm`: the tests of this folder on a Slurm of their own; says why not where that cannot be had.

With `--short` four of them, which is what CI runs. In CI (CI=true) the reason is a failure.
"""

from __future__ import annotations

import os
import sys

import pytest

from tests.hosts import world
from tests.slurm.site import PROGRAMS

#: One of each: two nodes, the end by scancel, a lost node, and the administrator's epilog.
SHORT = (
    "test_train.py::test_two_nodes_train_are_announced_and_leave_nothing",
    "test_train.py::test_scancel_leaves_nothing_without_an_epilog",
    "test_train.py::test_requeue_after_a_lost_node_is_a_new_attempt_of_the_run",
    "test_administrator.py::test_epilog_removes_what_a_killed_job_leaves",
)


def main() -> int:
    """Run pytest in a world of its own."""
    if reason := world.missing(PROGRAMS):
        print(f"tests of Slurm are not run: {reason}; Debian has it in slurm-wlm and munge", file=sys.stderr)
        return int(os.environ.get("CI") == "true")
    if world.INSIDE not in os.environ:
        world.enter("tests.slurm", *sys.argv[1:])
    folder, arguments = os.path.dirname(__file__), sys.argv[1:]
    chosen = [f"{folder}/{name}" for name in SHORT] if "--short" in arguments else [folder]
    others = [each for each in arguments if each != "--short"]
    return int(pytest.main([*chosen, "-p", "no:cacheprovider", "--durations=5", *others]))


if __name__ == "__main__":
    sys.exit(main())
