"""What the tests of the collectors share: the stand-in NVML and a node that has it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nvml_stub.node import STUB, Node


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("cc"):
        pytest.skip("no C compiler (cc) to build the stand-in NVML")
    directory = tmp_path_factory.mktemp("nvml")
    subprocess.run([sys.executable, str(STUB / "build.py"), str(directory)], check=True)
    return directory / "libnvidia-ml.so.1"


@pytest.fixture
def node(library: Path, tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path, library)
    yield node
    node.close()
