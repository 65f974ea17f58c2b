"""The process is the script's: what it does with signals, children, threads, streams and files is its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.untouched.programs import BEGIN, PROGRAMS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals and /proc of Linux")


def _run(program: str, how: str, folder: Path) -> tuple[int, str, str]:
    """The exit status of a program, what it printed, and what it printed last of an error."""
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", BEGIN + program, how, str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=folder,
    )
    ours = ("training goes on", "ResourceWarning")
    errors = [line for line in done.stderr.splitlines() if not any(words in line for words in ours)]
    said = folder / "said"
    return done.returncode, done.stdout + (said.read_text() if said.exists() else ""), "".join(errors[-1:])


@pytest.mark.parametrize("name", PROGRAMS)
def test_process_of_the_script(name: str, tmp_path: Path) -> None:
    """It prints, ends and fails as it does without a beacon."""
    without = _run(PROGRAMS[name], "without", tmp_path / "without")
    assert without == _run(PROGRAMS[name], "with", tmp_path / "with")
