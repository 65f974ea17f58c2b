"""A stand-in for an accelerator: tensors that say they are on a CUDA device, copies that arrive when told.

Everything of ours runs but the calls of CUDA themselves. The numbers lie on the CPU. There is no
autograd over such tensors (PyTorch without CUDA has no engine for it): tests give the gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from trainbeacon.recorder.device.copier import NoRoomError

aten = torch.ops.aten
#: Operations whose result the host needs: with a tensor on a device it waits for it.
READS = {aten._local_scalar_dense.default, aten.equal.default, aten.is_nonzero.default, aten.nonzero.default}


class Waits(TorchDispatchMode):
    """Notes, in this thread, every operation that would make the host wait for a device.

    Attributes:
        seen: their names: scalar reads, and copies of a device's tensor to the host.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        on_device = any(isinstance(value, DeviceTensor) for value in args)
        if on_device and (func in READS or _to_host(func, args, (kwargs or {}).get("device"))):
            self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


class DeviceTensor(torch.Tensor):
    """Says it is on `cuda:0`, as does everything that is worked out from it."""

    content: torch.Tensor

    @staticmethod
    def __new__(cls, content: torch.Tensor) -> DeviceTensor:
        self = torch.Tensor._make_wrapper_subclass(
            cls, content.size(), strides=content.stride(), dtype=content.dtype, device="cuda:0"
        )
        self.content = content
        return self

    def __init__(self, content: torch.Tensor) -> None:
        pass

    def __repr__(self, **_: Any) -> str:
        return f"DeviceTensor({self.to('cpu')})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What would want CUDA itself, which is not here, before the dispatch: `to` and slices."""
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            if func is torch.Tensor.to:
                rest = [value for value in (*args[1:], *kwargs.values()) if _is_dtype_or_host(value)]
                return func(args[0], *rest) if rest else args[0]
            if func is torch.Tensor.__getitem__:
                return aten.slice.Tensor(args[0], 0, args[1].start, args[1].stop)
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        target = kwargs.get("device")
        if target is not None:
            kwargs["device"] = "cpu"
        result = func(*tree_map(_content, args), **tree_map(_content, kwargs))
        if str(func).split(".")[1].endswith("_"):  # in place
            return args[0]
        if target is not None and torch.device(target).type == "cpu":
            return result
        return tree_map(_on_device, result)


def _is_dtype_or_host(value: Any) -> bool:
    return isinstance(value, torch.dtype) or str(value) == "cpu"


def _to_host(func: Any, args: Any, target: Any) -> bool:
    if func is aten.copy_.default:
        return not isinstance(args[0], DeviceTensor)
    return func is aten._to_copy.default and target is not None and torch.device(target).type == "cpu"


def _content(value: Any) -> Any:
    return value.content if isinstance(value, DeviceTensor) else value


def _on_device(value: Any) -> Any:
    return DeviceTensor(value) if isinstance(value, torch.Tensor) else value


def device_tensor(values: Any, dtype: torch.dtype = torch.float32) -> DeviceTensor:
    """A tensor on the device."""
    return DeviceTensor(torch.as_tensor(values, dtype=dtype))


class Copy:
    """A number under way: it arrives when the test says so."""

    def __init__(self, number: float, release: Callable[[], None]) -> None:
        self.number = number
        self.arrived = False
        self.failure: Exception | None = None
        self._release = release

    def ready(self) -> bool:
        if self.failure is not None:
            raise self.failure
        return self.arrived

    def take(self) -> float:
        assert self.arrived, "a number was read before it was there"
        self._release()
        return self.number


class Accelerator:
    """Copies of a device, in the order in which they were asked for.

    Args:
        room: copies that may be under way at once.
        delayed: whether they arrive only when `arrive` says so.
    """

    def __init__(self, room: int = 1024, *, delayed: bool = True) -> None:
        self.copies: list[Copy] = []
        self.under_way = 0
        self._room = room
        self._delayed = delayed

    def prepare(self, tensor: Any) -> None:
        pass

    def copy(self, tensor: DeviceTensor) -> Copy:
        assert not tensor.requires_grad
        if self.under_way >= self._room:
            raise NoRoomError("no room")
        self.under_way += 1
        # The number as it is now: a stream's order sees to that on a device.
        copy = Copy(float(tensor.content.item()), self._release)
        copy.arrived = not self._delayed
        self.copies.append(copy)
        return copy

    def arrive(self, count: float = math.inf, *, last: bool = False) -> None:
        """Let the oldest (or the newest) copies arrive that have not."""
        waiting = [copy for copy in self.copies if not copy.arrived]
        for copy in (reversed(waiting) if last else waiting) if count else ():
            copy.arrived = True
            count -= 1
            if not count:
                break

    def _release(self) -> None:
        self.under_way -= 1
