"""The node's GPUs, read through NVML, the management library of NVIDIA's driver.

A missing library, driver or permission, a GPU that fell off the bus and a field that a board lacks
are states of the node, not errors: they are served as such and nothing raises. `gpu` is NVML's own
index, so it agrees with `nvidia-smi`, not with `CUDA_VISIBLE_DEVICES`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from trainbeacon import catalogue

from .base import Families

#: Seconds between two nvmlInit: on a node without persistence mode one can take seconds.
INIT_INTERVAL = 60.0
#: Seconds that a scrape waits for another one: a sick driver can hold a call for ever.
LOCK_TIMEOUT = 5.0


class _Code(IntEnum):
    """Return codes of NVML, fixed by its ABI; named here because pynvml is imported late."""

    UNINITIALIZED = 1
    NOT_SUPPORTED = 3
    NO_PERMISSION = 4
    DRIVER_NOT_LOADED = 9
    LIBRARY_NOT_FOUND = 12
    FUNCTION_NOT_FOUND = 13
    GPU_IS_LOST = 15
    RESET_REQUIRED = 16
    NO_DATA = 21
    ARGUMENT_VERSION_MISMATCH = 25
    DEPRECATED = 26
    NOT_READY = 27
    GPU_NOT_FOUND = 28


_ABSENT = {
    _Code.NOT_SUPPORTED,
    _Code.NO_PERMISSION,
    _Code.FUNCTION_NOT_FOUND,
    _Code.NO_DATA,
    _Code.ARGUMENT_VERSION_MISMATCH,
    _Code.DEPRECATED,
    _Code.NOT_READY,
}
_LOST = {_Code.GPU_IS_LOST, _Code.RESET_REQUIRED, _Code.GPU_NOT_FOUND}
_CLOSED = {_Code.UNINITIALIZED, _Code.DRIVER_NOT_LOADED}
_STATES: dict[int, str] = {
    _Code.LIBRARY_NOT_FOUND: "no_library",
    _Code.DRIVER_NOT_LOADED: "no_driver",
    _Code.NO_PERMISSION: "no_permission",
}

_Sample = tuple[str, float]
_Reader = Callable[[Any, Any], Iterator[_Sample]]


def _utilization(nvml: Any, handle: Any) -> Iterator[_Sample]:
    yield "training_gpu_utilization_ratio", nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100


def _memory(nvml: Any, handle: Any) -> Iterator[_Sample]:
    try:
        # Version 2 keeps the driver's own reserve out of "used", as nvidia-smi does.
        memory = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
    except nvml.NVMLError as error:
        if error.value not in _ABSENT:
            raise
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)  # drivers before 510
    yield "training_gpu_memory_used_bytes", memory.used
    yield "training_gpu_memory_total_bytes", memory.total


def _temperature(nvml: Any, handle: Any) -> Iterator[_Sample]:
    celsius = nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)
    yield "training_gpu_temperature_celsius", celsius


def _power(nvml: Any, handle: Any) -> Iterator[_Sample]:
    yield "training_gpu_power_watts", nvml.nvmlDeviceGetPowerUsage(handle) / 1000


def _power_limit(nvml: Any, handle: Any) -> Iterator[_Sample]:
    yield "training_gpu_power_limit_watts", nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000


#: What is read of a GPU; each reader may fail without taking the others with it.
_READERS: tuple[_Reader, ...] = (_utilization, _memory, _temperature, _power, _power_limit)


@dataclass(frozen=True)
class _Gpu:
    """A GPU that answered when NVML was opened, with what never changes about it."""

    handle: Any
    uuid: str
    name: str


class _Session:
    """NVML between one nvmlInit and its nvmlShutdown. Raises `pynvml.NVMLError` where it cannot open."""

    def __init__(self, nvml: Any) -> None:
        self.nvml = nvml
        self.gpus: dict[int, _Gpu] = {}
        self.lost: set[int] = set()
        self.forbidden = False
        nvml.nvmlInit()
        try:
            self.driver = self._text(nvml.nvmlSystemGetDriverVersion)
            for index in range(nvml.nvmlDeviceGetCount()):
                self._find(index)
        except BaseException:
            self.close()
            raise

    def read(self, unexpected: list[Exception]) -> dict[int, list[_Sample]]:
        """The samples of each GPU that answers. Raises only when the session itself is over."""
        self.lost -= self.gpus.keys()  # those that were found are asked again
        readings = {index: self._read_gpu(index, unexpected) for index in self.gpus}
        return {index: samples for index, samples in readings.items() if index not in self.lost}

    def close(self) -> None:
        """Give the library back; a driver that is gone already has nothing to say to that."""
        with suppress(self.nvml.NVMLError):
            self.nvml.nvmlShutdown()

    def _find(self, index: int) -> None:
        nvml = self.nvml
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            uuid = self._text(nvml.nvmlDeviceGetUUID, handle)
            name = self._text(nvml.nvmlDeviceGetName, handle)
        except nvml.NVMLError as error:
            if error.value in _CLOSED:
                raise
            if error.value == _Code.NO_PERMISSION:
                self.forbidden = True
            else:  # lost, without power, without interrupts: it does not answer
                self.lost.add(index)
        else:
            self.gpus[index] = _Gpu(handle, uuid, name)

    def _read_gpu(self, index: int, unexpected: list[Exception]) -> list[_Sample]:
        samples: list[_Sample] = []
        handle = self.gpus[index].handle
        try:
            for reader in _READERS:
                samples += self._ask(reader, handle, unexpected)
        except self.nvml.NVMLError as error:
            if error.value in _CLOSED:
                raise
            self.lost.add(index)
        return samples

    def _ask(self, reader: _Reader, handle: Any, unexpected: list[Exception]) -> list[_Sample]:
        """The samples of one reader; raises when not the field but the GPU or the library is gone."""
        try:
            return list(reader(self.nvml, handle))
        except self.nvml.NVMLError as error:
            if error.value in _LOST | _CLOSED:
                raise
            if error.value not in _ABSENT:
                unexpected.append(error)
            return []

    def _text(self, call: Callable[..., str], *arguments: Any) -> str:
        try:
            return call(*arguments)
        except self.nvml.NVMLError as error:
            if error.value not in _ABSENT:
                raise
            return ""


class GpuCollector:
    """Serves every GPU that NVML shows, and the state of NVML itself.

    The first `collect` imports pynvml and opens the library; from then on a scrape costs a few calls
    a GPU. The library is opened at most once in `INIT_INTERVAL` seconds: again when it was not there,
    when the driver was reloaded under it, and when a GPU is lost, since only a fresh start can find
    a GPU that was reset. A GPU seen once and not answering now has `training_gpu_up` 0 and nothing
    else; what NVML returns beyond the known states is raised after all other GPUs were read.
    `collect` may be called from several threads: one reads, the others wait `LOCK_TIMEOUT` seconds
    at most and then raise `TimeoutError`.
    """

    name = "gpu"

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._session: _Session | None = None
        self._state = "failed"
        self._init_due = clock()
        self._seen: set[int] = set()

    def collect(self, families: Families) -> None:
        """Read all GPUs now."""
        if not self._lock.acquire(timeout=LOCK_TIMEOUT):
            raise TimeoutError(f"NVML has not answered another scrape for {LOCK_TIMEOUT:g} s")
        unexpected: list[Exception] = []
        try:
            readings = self._read(unexpected)
            self._add(families, readings)
        finally:
            self._lock.release()
        if unexpected:
            raise unexpected[0]

    def _read(self, unexpected: list[Exception]) -> dict[int, list[_Sample]]:
        for _ in range(2):  # a library that closed under us is opened anew in the same scrape
            session = self._open()
            if session is None:
                break
            try:
                return session.read(unexpected)
            except session.nvml.NVMLError as error:
                self._close(error.value)
        return {}

    def _open(self) -> _Session | None:
        complete = self._session is not None and not self._session.lost
        if complete or self._clock() < self._init_due:
            return self._session
        import pynvml  # not at the top: an exporter on a node without GPUs would pay for it at its start

        self._close(_Code.GPU_IS_LOST)
        self._init_due = self._clock() + INIT_INTERVAL
        try:
            self._session = _Session(pynvml)
        except pynvml.NVMLError as error:
            self._state = _STATES.get(error.value, "failed")
        else:
            self._state = "no_permission" if self._session.forbidden else "ok"
            self._seen |= self._session.gpus.keys() | self._session.lost
        return self._session

    def _close(self, reason: int) -> None:
        if self._session:
            self._session.close()
            self._session = None
            self._state = _STATES.get(reason, "failed")

    def _add(self, families: Families, readings: dict[int, list[_Sample]]) -> None:
        for state in catalogue.NVML_STATES:
            families.add("trainbeacon_nvml_state", float(state == self._state), state)
        for index in sorted(self._seen):
            families.add("training_gpu_up", float(index in readings), str(index))
        for index, samples in readings.items():
            for name, value in samples:
                families.add(name, value, str(index))
            self._add_info(families, index)

    def _add_info(self, families: Families, index: int) -> None:
        if self._session:
            gpu = self._session.gpus[index]
            families.add_info("training_gpu_info", str(index), gpu.uuid, gpu.name, self._session.driver)
