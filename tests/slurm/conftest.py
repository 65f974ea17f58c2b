"""The tests of this folder need a world of their own: `make slurm`, not `make test`."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.hosts.world import INSIDE
from tests.slurm.site import Site

collect_ignore_glob = [] if INSIDE in os.environ else ["test_*.py"]


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """One Slurm for all tests; the world around it ends everything."""
    made = Site()
    made.wait_until_idle()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def jobs_that_end(site: Site) -> Iterator[None]:
    """No test leaves a job to the next."""
    yield
    site.cancel_all()
