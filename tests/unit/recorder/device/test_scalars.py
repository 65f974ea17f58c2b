"""What a script may log as a number, and what is said about the rest."""

from __future__ import annotations

import collections
import math
from typing import Any

import numpy as np
import pytest
import torch

from trainbeacon.recorder.device.scalars import batch_size, on_device, to_float

Pair = collections.namedtuple("Pair", "inputs targets")


@pytest.mark.parametrize(
    "value",
    [
        2,
        2.0,
        np.float64(2),
        np.float32(2),
        np.float16(2),
        np.int64(2),
        np.uint8(2),
        np.array(2.0),
        np.array([2]),
        np.array([[2.0]]),
        torch.tensor(2),
        torch.tensor(2.0, dtype=torch.float64),
        torch.tensor(2.0, dtype=torch.bfloat16),
        torch.tensor(2.0, dtype=torch.float16),
        torch.tensor([[2.0]]),
        torch.tensor(2.0, requires_grad=True),
        torch.tensor(1.0, requires_grad=True) * 2,
    ],
    ids=lambda value: f"{type(value).__name__}-{getattr(value, 'dtype', '')}-{getattr(value, 'ndim', '')}",
)
def test_whatever_holds_one_number_is_a_number(value: Any) -> None:
    """Python numbers, NumPy scalars and arrays of one element, CPU tensors with or without a graph."""
    number = to_float("loss", value)
    assert (number, type(number)) == (2.0, float)


def test_truth_is_zero_or_one() -> None:
    """Booleans of every kind are 0 or 1."""
    values = (True, np.bool_(True), torch.tensor(True), False)
    assert [to_float("ok", value) for value in values] == [1.0, 1.0, 1.0, 0.0]


def test_nan_and_infinity_are_numbers() -> None:
    """A loss that is not finite is what must be recorded most of all."""
    assert math.isnan(to_float("loss", torch.tensor(float("nan"))))
    assert to_float("loss", np.float32("-inf")) == -math.inf


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("0.5", "str"),
        (None, "NoneType"),
        ([0.5], "list"),
        ({"loss": 0.5}, "dict"),
        (1j, "complex"),
        (np.complex64(1j), "complex"),
        (torch.tensor(1j), "complex"),
        (np.array("text"), "str"),
    ],
)
def test_what_is_no_number_is_named_with_its_type_and_a_fix(value: Any, kind: str) -> None:
    """The error says which argument, what it was, and what to do."""
    with pytest.raises(TypeError, match=rf"^f1 must be a number.* not {kind} .*convert it with float\(\)$"):
        to_float("f1", value)


@pytest.mark.parametrize(("value", "count"), [(torch.ones(3), 3), (np.ones((2, 2)), 4), (torch.ones(0), 0)])
def test_several_numbers_are_not_one(value: Any, count: int) -> None:
    """The error says how many elements there are and that a mean or a sum is wanted."""
    with pytest.raises(TypeError, match=rf"^loss has {count} elements, not one: log a mean or a sum of it$"):
        to_float("loss", value)


def test_a_distributed_tensor_is_not_read() -> None:
    """Reading a sharded tensor would be a collective: the error says what to log instead."""

    class Sharded(torch.Tensor):
        def full_tensor(self) -> torch.Tensor:
            raise AssertionError("a collective was run")

        def item(self) -> float:
            raise AssertionError("a collective was run")

    with pytest.raises(TypeError, match=r"loss is a distributed tensor.*log loss\.full_tensor\(\)"):
        to_float("loss", torch.ones(()).as_subclass(Sharded))


def test_a_long_value_is_not_repeated_in_full() -> None:
    """An error message does not carry a megabyte of what was logged."""
    with pytest.raises(TypeError) as caught:
        to_float("loss", "x" * 1_000_000)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (torch.zeros(8, 3), 8),
        (np.zeros((5, 2)), 5),
        ((torch.zeros(8, 3), torch.zeros(8)), 8),
        ([torch.zeros(4), torch.zeros(4)], 4),
        (Pair(torch.zeros(6, 2), torch.zeros(6)), 6),
        ({"input_ids": torch.zeros(16, 128), "labels": torch.zeros(16, 128)}, 16),
        ({"name": "a", "image": torch.zeros(3, 2)}, 3),
        (((("deep", torch.zeros(9, 1)),),), 9),
        ({"outer": {"inner": [torch.zeros(7, 1)]}}, 7),
        ((torch.tensor(1.0), torch.zeros(5, 2)), 5),
        (["a text", "another"], 2),
        ([{"id": 1}, {"id": 2}, {"id": 3}], 3),
        (torch.tensor(1.0), 0),
        (torch.zeros(0, 3), 0),
        ((), 0),
        ({}, 0),
        ([], 0),
        (None, 0),
        ("text", 0),
        (object(), 0),
    ],
    ids=range(20),
)
def test_the_samples_of_a_batch(batch: Any, expected: int) -> None:
    """The first dimension of the first array within three levels, the length of a list of samples, or 0."""
    assert batch_size(batch) == expected


def test_a_batch_that_holds_itself_ends() -> None:
    """Looking into a batch is bounded in depth."""
    batch: list[Any] = []
    batch.append(batch)
    assert batch_size(batch) == 1


@pytest.mark.parametrize(
    "value", [1, 1.0, None, "cuda", np.float32(1), np.ones(1), torch.ones(1), torch.ones(1, device="meta")]
)
def test_only_cuda_tensors_are_read_later(value: Any) -> None:
    """Everything else is read at once, or refused at once where there is nothing to read."""
    assert not on_device(value)


def test_an_object_that_answers_to_everything_is_not_on_a_device() -> None:
    """A mock, or an array that makes up its attributes, is not taken for a tensor."""

    class Anything:
        def __getattr__(self, name: str) -> object:
            return self

    assert not on_device(Anything())


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.array("3"), "must be a number"),
        (np.array([1.0, 2.0]), "has 2 elements"),
        (np.array(1j), "must be a number"),
    ],
)
def test_one_that_was_read_does_not_let_others_of_its_kind_pass(value: object, said: str) -> None:
    """An array of text, of several elements or of a complex number is refused after a good one too."""
    assert to_float("loss", np.array(2.5)) == 2.5
    with pytest.raises(TypeError, match=said):
        to_float("loss", value)
