"""The promise of CI: a test that did not run is a failure, unless it needs a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PLAIN_SKIP = "import pytest\ndef test_passes(): pass\ndef test_tool(): pytest.skip('no such tool')\n"
MODULE_SKIP = "import pytest\npytest.importorskip('no_such_module')\n"
GPU_SKIP = (
    "import pytest\ndef test_passes(): pass\n@pytest.mark.gpu\ndef test_gpu(): pytest.skip('no GPU here')\n"
)


@pytest.mark.parametrize(
    ("source", "ci", "status"),
    [
        pytest.param(PLAIN_SKIP, "true", 1, id="a skip in CI"),
        pytest.param(PLAIN_SKIP + MODULE_SKIP, "true", 1, id="a skipped module in CI"),
        pytest.param(GPU_SKIP, "true", 0, id="a GPU test in CI"),
        pytest.param(PLAIN_SKIP, "", 0, id="a skip at home"),
    ],
)
def test_skips_fail_the_run_in_ci_only(
    source: str, ci: str, status: int, tmp_path: Path, repository: Path
) -> None:
    """The run's exit status counts skips in CI, GPU tests apart; elsewhere a skip is just that."""
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  gpu: needs a GPU\n")
    (tmp_path / "test_module.py").write_text(source)
    (tmp_path / "test_other.py").write_text("def test_passes(): pass\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.no_skips", "-p", "no:cacheprovider", "--rootdir", "."],
        cwd=tmp_path,
        env={**os.environ, "CI": ci, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
    )
    assert status == done.returncode, done.stdout
    assert (status == 1) == ("which CI does not allow" in done.stdout)
