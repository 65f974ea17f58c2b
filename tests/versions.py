"""The versions of Prometheus on which tests that take minutes are run."""

from __future__ import annotations

import pytest

from tools import stack


def versions_apart(config: pytest.Config) -> list[str]:
    """Those for a test that is marked `versions_apart`: `default`, and by `make versions` the later ones."""
    later = [suite for suite in stack.suites() if suite != "default"]
    return later if config.getoption("--later-versions") else ["default"]
