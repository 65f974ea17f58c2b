"""The data and the model of the demo's training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from trainbeacon.demo import text
from trainbeacon.demo.model import CharacterModel, Size, loss_of

TINY = Size(text.VOCABULARY, context=32, width=32, heads=2, layers=1)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """More threads than free cores make such small work slower by far."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    for number in range(25):
        (tmp_path / f"module{number:02}.py").write_text(f"number = {number}\n" * 50)
    return tmp_path


def test_every_rank_finds_the_same_files_within_the_size(sources: Path) -> None:
    """The choice depends on the folder alone and stays below the number of bytes asked for."""
    size = (sources / "module00.py").stat().st_size
    chosen = text.source_files(10 * size, sources)
    assert [path.name for path in chosen] == [f"module{number:02}.py" for number in range(10)]
    assert text.source_files(10 * size, sources) == chosen


def test_no_validation_text_is_trained_on(sources: Path) -> None:
    """The split gives each file to one side, a tenth to validation, and the same each time."""
    files = text.source_files(folder=sources)
    training, validation = text.split(files)
    assert sorted(training + validation) == files
    assert len(validation) == 3
    assert text.split(files) == (training, validation)


def test_this_machine_has_text_to_train_on() -> None:
    """The standard library gives at least a megabyte, bounded by what is asked for."""
    total = sum(path.stat().st_size for path in text.source_files(2_000_000))
    assert 1_000_000 < total <= 2_000_000


def test_a_folder_without_sources_says_what_is_missing(tmp_path: Path) -> None:
    """Without sources the error names the folder."""
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        text.source_files(folder=tmp_path)


def test_every_byte_has_a_number_within_the_vocabulary() -> None:
    """Different printable characters get different numbers, all others share one."""
    numbers = text.encode(bytes(range(256))).tolist()
    assert set(numbers) == set(range(text.VOCABULARY))
    assert numbers[200] == numbers[0] == text.UNKNOWN


def test_targets_are_the_next_characters(sources: Path) -> None:
    """A window's targets are its characters moved on by one, and windows do not overlap."""
    windows = text.Windows([sources / "module03.py"], context=8)
    inputs, targets = windows[1]
    whole = text.encode((sources / "module03.py").read_bytes()).long()
    assert torch.equal(inputs, whole[8:16])
    assert torch.equal(targets, whole[9:17])


def test_the_model_cannot_see_what_it_has_to_predict() -> None:
    """Changing a later character leaves the scores of earlier places as they were."""
    torch.manual_seed(0)
    model = CharacterModel(TINY).eval()
    one = torch.randint(text.VOCABULARY, (1, 32))
    other = one.clone()
    other[0, 20:] = (other[0, 20:] + 1) % text.VOCABULARY
    with torch.no_grad():
        first, second = model(one), model(other)
    assert torch.allclose(first[0, :20], second[0, :20])
    assert not torch.allclose(first[0, 20:], second[0, 20:])


def test_the_model_learns() -> None:
    """60 steps on the real text bring the loss from that of guessing (4.6) below 3.4."""
    torch.manual_seed(0)
    model = CharacterModel(TINY)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    windows = text.Windows(text.source_files(200_000), TINY.context)
    losses = []
    for _ in range(60):
        batch = [windows[int(index)] for index in torch.randint(len(windows), (16,))]
        inputs, targets = (torch.stack(part) for part in zip(*batch, strict=True))
        loss = loss_of(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert 4.4 < losses[0] < 4.8
    assert sum(losses[-5:]) / 5 < 3.4
