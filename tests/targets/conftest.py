"""One copy of the checkout for all tests of this folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.targets.checkout import Checkout
from tests.targets.forms import Elsewhere, Form, Run, Target

Play = Callable[[Form], str]


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """The copy, gone afterwards: pytest would keep three of them."""
    root = tmp_path_factory.mktemp("targets")
    yield Checkout(root / "checkout", root / "scratch")
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def play(checkout: Checkout, tmp_path: Path) -> Play:
    """Runs a form in the copy; what is covered elsewhere is not run, and is no skipped test either."""

    def run(form: Form) -> str:
        if isinstance(form, Run):
            return checkout.run(form, tmp_path)
        assert isinstance(form, Elsewhere | Target)
        return ""

    return run
