"""The short form of the robustness campaign; `make robustness` runs the full one and writes its figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.robustness.campaign import CHECKS
from tests.robustness.check import SHORT, CannotTryError, Check


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_robustness(check: Check, tmp_path: Path) -> None:
    """Nothing that others do to it, and nothing that a machine lacks, hurts training or the exporter."""
    try:
        assert check.run(tmp_path / "check", SHORT)
    except CannotTryError as reason:
        pytest.skip(str(reason))
