"""The launcher's variables against torch.distributed, and an elastic job under the real torchrun."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import trainbeacon

torch = pytest.importorskip("torch")
distributed = torch.distributed


@pytest.fixture
def one_rank() -> Iterator[None]:
    """torch.distributed, initialised as rank 0 of 1."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def errors_after_watch(folder: Path) -> float:
    settings: dict[str, Any] = {"serve": "off", "directory": str(folder), "gpu": False}
    with trainbeacon.start(**settings) as beacon:
        beacon.watch(torch.nn.Linear(1, 1))
        recorder = beacon.recorder
        return float(recorder.writer.slots[recorder.at("trainbeacon_errors_total", "hooks")])


@pytest.mark.usefixtures("one_rank")
def test_rank_that_torch_knows_otherwise_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Variables that contradict torch.distributed make wrong labels: one error, and a line that has both."""
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)

    assert errors_after_watch(tmp_path) == 1.0
    [message] = [
        record.getMessage() for record in caplog.records if "torch.distributed" in record.getMessage()
    ]
    assert "rank 0 of 1" in message
    assert "rank 3 of 4 (launcher: env)" in message


@pytest.mark.usefixtures("one_rank")
def test_rank_that_torch_confirms_is_no_error(tmp_path: Path) -> None:
    """Nothing is counted where both agree."""
    assert errors_after_watch(tmp_path) == 0.0


def test_rank_without_torch_distributed_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script may watch before it initialises torch.distributed, or never do so."""
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)

    assert errors_after_watch(tmp_path) == 0.0
