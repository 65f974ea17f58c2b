"""The edge to CUDA devices: numbers copied to pinned memory on the stream that works them out.

Nothing here initialises CUDA: it is called with a tensor that is on a device already. It works for
everything that PyTorch calls "cuda", AMD's devices too.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from trainbeacon.recorder.device.copier import NoRoomError

if TYPE_CHECKING:
    import torch

_CELL_BYTES = 8  # the largest element: float64, int64
_MODE_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL, and HIP's


class PinnedCopier:
    """Hands out cells of pinned memory, one for each number under way.

    The copy is enqueued on the current stream of the tensor's device, behind the work that makes the
    number and before whatever overwrites it; an event behind the copy shows when it has arrived. A
    cell is used again only after that, so that no two copies are under way to the same place.

    Args:
        cells: numbers under way at once, for each device.
    """

    def __init__(self, cells: int) -> None:
        self._cells = cells
        self._free: dict[int, deque[_Cell]] = {}

    def prepare(self, tensor: Any) -> None:
        """Allocate the cells for a tensor's device: pages are locked for it, which may wait for it."""
        self._cells_of(tensor.device.index)

    def copy(self, tensor: Any) -> _Cell:
        """Enqueue the copy of a detached tensor of one element; some microseconds, never a wait."""
        import torch

        if torch.cuda.is_current_stream_capturing():
            raise RuntimeError("what is logged while a CUDA graph is captured cannot be read: log it outside")
        free = self._cells_of(tensor.device.index)
        try:
            cell = free.popleft()
        except IndexError:
            raise NoRoomError(f"{self._cells} numbers are under way from one device") from None
        try:
            cell.fetch(tensor, torch.cuda.current_stream(tensor.device))
        except BaseException:
            free.append(cell)
            raise
        return cell

    def _cells_of(self, device: int) -> deque[_Cell]:
        free = self._free.get(device)
        if free is None:
            free = self._free[device] = self._allocate()
        return free

    def _allocate(self) -> deque[_Cell]:
        import torch

        free: deque[_Cell] = deque()
        # Tensors made in inference mode could not be written to outside of it.
        with torch.inference_mode(False):
            memory = self._memory(self._cells * _CELL_BYTES)
            free.extend(_Cell(part, self._event(), free) for part in torch.split(memory, _CELL_BYTES))
        return free

    def _memory(self, size: int) -> torch.Tensor:
        import torch

        return torch.empty(size, dtype=torch.uint8, device="cpu", pin_memory=True)

    def _event(self) -> Any:
        import torch

        # Belongs to the device of the stream that it is first recorded on.
        return torch.cuda.Event()  # type: ignore[no-untyped-call]


class _Cell:
    """Pinned memory for one number, with the event that shows when the number is there."""

    __slots__ = ("_event", "_free", "_memory", "_number", "_views")

    def __init__(self, memory: torch.Tensor, event: Any, free: deque[_Cell]) -> None:
        self._memory = memory
        self._event = event
        self._free = free
        self._views: dict[torch.dtype, torch.Tensor] = {}
        self._number = memory

    def fetch(self, tensor: torch.Tensor, stream: Any) -> None:
        """Enqueue the copy into this cell. The types are equal, so nothing is converted on the device."""
        view = self._views.get(tensor.dtype)
        if view is None:
            view = self._views[tensor.dtype] = self._view(tensor.dtype)
        view.copy_(tensor if tensor.dim() == 0 else tensor.reshape(()), non_blocking=True)
        self._event.record(stream)
        self._number = view

    def _view(self, dtype: torch.dtype) -> torch.Tensor:
        import torch

        with torch.inference_mode(False):
            return self._memory[: dtype.itemsize].view(dtype).reshape(())

    def ready(self) -> bool:
        """Whether the copy has arrived; raises RuntimeError if the device has failed."""
        with captures_of_others_ignored():
            return bool(self._event.query())

    def take(self) -> float:
        """The number; the cell is free for another one then."""
        number = float(self._number.item())
        self._free.append(self)
        return number


@contextmanager
def captures_of_others_ignored() -> Iterator[None]:
    """While one thread captures a CUDA graph, a question after an event breaks the capture by default.

    The mode is this thread's own and is put back: at the end of a run it is the training thread that asks.
    """
    mode = ctypes.c_int(_MODE_THREAD_LOCAL)
    _exchange_mode(mode)
    try:
        yield
    finally:
        _exchange_mode(mode)


def _exchange_mode(mode: ctypes.c_int) -> None:
    """Swap this thread's capture mode with `mode`. Raises OSError without the driver's library."""
    error = _mode_exchanger()(ctypes.byref(mode))
    if error:
        raise RuntimeError(f"the driver keeps the stream capture mode of a thread: error {error}")


@cache
def _mode_exchanger() -> Any:
    """The driver's function; called with the GIL held, which it is too short to give up."""
    import torch

    if torch.version.hip:
        return ctypes.PyDLL("libamdhip64.so").hipThreadExchangeStreamCaptureMode
    return ctypes.PyDLL("libcuda.so.1").cuThreadExchangeStreamCaptureMode
