"""The order in which files of tests are begun."""

from __future__ import annotations

from pathlib import Path

from tests.order import LONG_FILES


def test_files_that_are_begun_first_exist(repository: Path) -> None:
    """One that was renamed would be begun last, and the suite would take minutes longer."""
    assert [] == [name for name in LONG_FILES if not (repository / name).is_file()]
