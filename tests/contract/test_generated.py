"""The promise of generated files: they say what their sources say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools import generate


def test_generated_files_are_up_to_date(repository: Path) -> None:
    """`generate --check` finds nothing to write, so the committed files can be trusted."""
    done = subprocess.run(
        [sys.executable, repository / "tools/generate.py", "--check"], capture_output=True, text=True
    )
    assert (0, "") == (done.returncode, done.stderr)


def test_difference_missing_file_and_orphan_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What differs, is missing, or has lost its source is named, and writing puts all three right."""
    monkeypatch.setattr(generate, "REPOSITORY", tmp_path)
    monkeypatch.setattr(generate, "OWNED", ("made/*.json",))
    made = tmp_path / "made"
    made.mkdir()
    for name in ("same", "differs", "orphan"):
        (made / f"{name}.json").write_text("old")
    files = {made / "same.json": "old", made / "differs.json": "new", made / "missing.json": "new"}

    paths = generate.outdated(files)

    assert ["differs.json", "missing.json", "orphan.json"] == [path.name for path in paths]
    generate.write(files, paths)
    assert files == {path: path.read_text() for path in made.iterdir()}
