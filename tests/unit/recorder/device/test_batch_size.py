"""How many samples a batch has, in whatever form a loader hands it out."""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from trainbeacon.recorder.device.scalars import batch_size, whole

torch = pytest.importorskip("torch")

X, IMAGE = torch.zeros(8, 3), torch.zeros(3, 20, 30)


class Plain(collections.abc.Mapping[str, Any]):
    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data

    def __getitem__(self, key: str) -> Any:
        return self.data[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)


@dataclasses.dataclass
class Fields:
    name: str
    inputs: Any


@pytest.mark.parametrize(
    ("batch", "samples"),
    [
        (X, 8),
        ((X, torch.zeros(8)), 8),
        ([X, torch.zeros(8)], 8),
        ([X, torch.zeros(8, 3)], 8),
        ({"x": X}, 8),
        (collections.UserDict(input_ids=X), 8),
        (Plain({"x": X}), 8),
        (Fields("a", X), 8),
        (([IMAGE] * 8, [{"boxes": torch.zeros(2, 4)}] * 8), 8),
        ([{"image": IMAGE}] * 8, 8),
        ([IMAGE] * 8, 8),
        ([torch.zeros(5), torch.zeros(7)], 2),
        (torch.nn.utils.rnn.pack_sequence([torch.zeros(5)] * 8), 8),
        (SimpleNamespace(num_graphs=8, x=torch.zeros(100, 3)), 8),
        (None, 0),
        (3.0, 0),
        ([], 0),
    ],
)
def test_samples_of_a_batch(batch: Any, samples: int) -> None:
    """The number of samples, or 0 where nothing tells; never the channels of an image."""
    assert samples == batch_size(batch)


@pytest.mark.parametrize(
    "number",
    [
        7,
        7.0,
        True + 6,
        np.int8(7),
        np.uint8(7),
        np.array(7),
        torch.tensor(7, dtype=torch.uint8),
        torch.tensor(7),
    ],
)
def test_counts_are_pythons_own(number: Any) -> None:
    """A count of a small type is summed without an overflow."""
    assert (7, int) == (whole("tokens", number), type(whole("tokens", number)))


def test_large_counts_are_exact() -> None:
    """No count goes through a float."""
    assert 2**60 + 1 == whole("tokens", 2**60 + 1)


@pytest.mark.parametrize("number", [Decimal(7), Fraction(7, 1)])
def test_exact_numbers_of_the_standard_library_are_numbers(number: Any) -> None:
    """Decimal and Fraction count like any number."""
    assert 7 == whole("tokens", number)


@pytest.mark.parametrize("number", [-1, float("nan"), float("inf")])
def test_what_is_no_count_is_refused(number: float) -> None:
    """A negative or endless count is misuse."""
    with pytest.raises(ValueError, match="tokens"):
        whole("tokens", number)
