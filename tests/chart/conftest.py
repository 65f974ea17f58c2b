"""Helm and kubectl, for the tests of the chart."""

from __future__ import annotations

import pytest

from tools import helm as tool


@pytest.fixture(scope="session")
def helm() -> str:
    """The path of helm."""
    path = tool.find()
    if path is None:
        pytest.skip("helm is not available here: `make helm`, or put it on the PATH")
    return path


@pytest.fixture(scope="session")
def kubectl() -> str:
    """The path of kubectl."""
    path = tool.find("kubectl")
    if path is None:
        pytest.skip("kubectl is not available here: `make helm`, or put it on the PATH")
    return path
