"""Numbers of a device through page-locked memory: to the bit, in order, and without a wait."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tests.device import DeviceTensor, device_tensor  # noqa: E402 - both need torch
from trainbeacon.recorder.device import pinned  # noqa: E402
from trainbeacon.recorder.device.copier import NoRoomError  # noqa: E402
from trainbeacon.recorder.device.pinned import PinnedCopier  # noqa: E402
from trainbeacon.recorder.numerics.gradients import LEAST_INTERVAL, TIME_SHARE, device_seconds  # noqa: E402

NAN = float("nan")


def test_large_models_on_a_device_are_sampled_seldom() -> None:
    """The device's own time for a sample is estimated from the bytes it reads, and kept to 0.1 % as well."""
    weight = device_tensor([1.0]).content.expand(500_000_000)  # 2 GB that take no memory
    large = torch.nn.Parameter(DeviceTensor(weight), requires_grad=False)
    assert device_seconds([large]) == pytest.approx(0.02)
    assert device_seconds([large]) / TIME_SHARE == pytest.approx(40 * LEAST_INTERVAL)


class Stream:
    """Stands for a stream of the device."""


class Event:
    """Stands for a CUDA event: what was recorded on a stream is there once the stream is done."""

    done = True
    mode = 0  # of this thread, while others capture graphs; to ask in it would break theirs

    @classmethod
    def exchange(cls, mode: Any) -> int:
        cls.mode, mode._obj.value = mode._obj.value, cls.mode
        return 0

    def __init__(self) -> None:
        self.stream: Stream | None = None

    def record(self, stream: Stream) -> None:
        self.stream = stream

    def query(self) -> bool:
        assert self.mode == 1
        return self.stream is not None and self.done


class OrdinaryMemory(PinnedCopier):
    """The copier over memory that is not pinned, with a stand-in for events: there is no CUDA here."""

    def _memory(self, size: int) -> Any:
        return torch.zeros(size, dtype=torch.uint8)

    def _event(self) -> Event:
        return Event()


@pytest.fixture
def copier(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], PinnedCopier]:
    """Makes a copier of that many cells, on a device that is not here."""
    monkeypatch.setattr(pinned, "_mode_exchanger", lambda: Event.exchange)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return OrdinaryMemory


@pytest.mark.parametrize(
    ("dtype", "number"),
    [
        (torch.float64, 0.1),
        (torch.float32, 0.5),
        (torch.bfloat16, 3.0),
        (torch.float16, -2.0),
        (torch.int64, 2**52 + 1),
        (torch.int32, -7),
        (torch.uint8, 255),
        (torch.bool, True),
        (torch.float32, math.inf),
    ],
)
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_every_kind_of_number_arrives_to_the_bit(
    copier: Callable[[int], PinnedCopier], dtype: Any, number: float, shape: tuple[int, ...]
) -> None:
    """A cell takes any type of PyTorch, one after the other, without a conversion on the device."""
    cells = copier(1)
    for value in (device_tensor(number, dtype).reshape(shape), device_tensor(-1.0)):
        pending = cells.copy(value.detach())
        assert pending.ready()
        taken = pending.take()
    assert (taken, type(taken)) == (-1.0, float)
    assert cells.copy(device_tensor(number, dtype).reshape(shape)).take() == float(number)


def test_cells_are_used_again_only_after_they_were_read(copier: Callable[[int], PinnedCopier]) -> None:
    """Two copies never go to the same place; without a free one the number is refused at once."""
    cells = copier(2)
    first, second = cells.copy(device_tensor(1.0)), cells.copy(device_tensor(2.0))
    with pytest.raises(NoRoomError, match="2 numbers are under way"):
        cells.copy(device_tensor(3.0))
    assert second.take() == 2.0
    third = cells.copy(device_tensor(3.0))
    assert (first.take(), third.take()) == (1.0, 3.0)


def test_a_number_is_not_there_before_its_event(
    copier: Callable[[int], PinnedCopier], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy has arrived when the event behind it has, and not before."""
    monkeypatch.setattr(Event, "done", False)
    pending = copier(1).copy(device_tensor(1.0))
    assert not pending.ready()
    monkeypatch.setattr(Event, "done", True)
    assert pending.ready()


def test_asking_a_device_breaks_no_captured_graph(
    copier: Callable[[int], PinnedCopier], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread asks in the mode in which captures of others do not mind, and has its own mode back then.

    Where the driver does not know that mode, nothing is asked: the number is given up for the training.
    """
    pending = copier(1).copy(device_tensor(1.0))
    assert pending.ready()  # the event itself looks at the mode
    assert Event.mode == 0
    monkeypatch.setattr(pinned, "_mode_exchanger", lambda: lambda mode: 801)
    with pytest.raises(RuntimeError, match="error 801"):
        pending.ready()


def test_what_cannot_be_copied_takes_no_room(
    copier: Callable[[int], PinnedCopier], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors, and logging inside a captured CUDA graph, leave every cell free for the next number."""
    cells = copier(1)
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "current_stream", lambda device: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            cells.copy(device_tensor(1.0))
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        with pytest.raises(RuntimeError, match="CUDA graph is captured"):
            cells.copy(device_tensor(1.0))
    assert cells.copy(device_tensor(1.0)).take() == 1.0


def test_inference_mode_does_not_spoil_the_cells(copier: Callable[[int], PinnedCopier]) -> None:
    """A beacon whose first number was logged in inference mode goes on in training."""
    cells = copier(1)
    with torch.inference_mode():  # PyTorch's own tensors: the stand-in's copies escape its check
        assert cells.copy(torch.tensor(1.0)).take() == 1.0
    assert cells.copy(torch.tensor(2.0)).take() == 2.0
