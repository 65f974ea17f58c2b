"""The tests of this folder need podman and minutes: `make images`, not `make test`."""

from __future__ import annotations

import os

import pytest

from tests.images import podman

INSIDE = "TRAINBEACON_TESTS_IMAGES"

collect_ignore_glob = [] if INSIDE in os.environ else ["test_*.py"]


@pytest.fixture(scope="session")
def agent_image() -> str:
    """deploy/images/Dockerfile, built."""
    podman.build_base()
    podman.build(podman.AGENT, "Dockerfile")
    return podman.AGENT


@pytest.fixture(scope="session")
def demo_image(agent_image: str) -> str:
    """deploy/images/demo.Dockerfile, built."""
    podman.build(podman.DEMO, "demo.Dockerfile")
    return podman.DEMO
