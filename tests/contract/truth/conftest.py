"""One run, and its box, for the tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

import trainbeacon
from tests.boxes import only_box
from trainbeacon.blackbox.reader import Box


@pytest.fixture
def beacon(tmp_path: Path) -> Iterator[trainbeacon.Beacon]:
    with trainbeacon.start(run="truth", directory=str(tmp_path), serve="off") as beacon:
        yield beacon


@pytest.fixture
def box(tmp_path: Path) -> Callable[[], Box]:
    return partial(only_box, tmp_path)
