"""What NVML's return codes mean to us, and the form that readings have."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from enum import IntEnum
from typing import Any, NamedTuple


class Code(IntEnum):
    """Return codes of NVML, fixed by its ABI; named here because pynvml is imported late."""

    UNINITIALIZED = 1
    INVALID_ARGUMENT = 2
    NOT_SUPPORTED = 3
    NO_PERMISSION = 4
    NOT_FOUND = 6
    DRIVER_NOT_LOADED = 9
    TIMEOUT = 10
    LIBRARY_NOT_FOUND = 12
    FUNCTION_NOT_FOUND = 13
    GPU_IS_LOST = 15
    RESET_REQUIRED = 16
    NO_DATA = 21
    ARGUMENT_VERSION_MISMATCH = 25
    DEPRECATED = 26
    NOT_READY = 27
    GPU_NOT_FOUND = 28


#: The field is not to be had here, or this driver does not know it: it is left out.
ABSENT = frozenset(
    {
        Code.INVALID_ARGUMENT,
        Code.NOT_SUPPORTED,
        Code.NO_PERMISSION,
        Code.FUNCTION_NOT_FOUND,
        Code.NO_DATA,
        Code.ARGUMENT_VERSION_MISMATCH,
        Code.DEPRECATED,
        Code.NOT_READY,
    }
)
#: The GPU is gone.
LOST = frozenset({Code.GPU_IS_LOST, Code.RESET_REQUIRED, Code.GPU_NOT_FOUND})
#: The library was closed, or its driver unloaded, under us.
CLOSED = frozenset({Code.UNINITIALIZED, Code.DRIVER_NOT_LOADED})


class Sample(NamedTuple):
    """One figure of one GPU; `labels` are the metric's own, without `gpu`."""

    name: str
    value: float
    labels: tuple[str, ...] = ()


def newer_or_older(nvml: Any, newer: Callable[[], Any], older: Callable[[], Any]) -> Any:
    """What `newer` returns, or `older` where the driver does not know the newer call."""
    try:
        return newer()
    except nvml.NVMLError as error:
        if error.value not in ABSENT:
            raise
        return older()


def address(handle: Any) -> int:
    """Where a handle points: two handles of one GPU are equal in nothing else."""
    return ctypes.cast(handle, ctypes.c_void_p).value or 0
