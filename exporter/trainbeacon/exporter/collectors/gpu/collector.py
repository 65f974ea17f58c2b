"""NVML kept open, and every GPU that it shows."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from trainbeacon import catalogue
from trainbeacon.exporter.collectors.base import Families
from trainbeacon.exporter.collectors.gpu.events import XidWatch
from trainbeacon.exporter.collectors.gpu.fields import FAST, SLOW, SLOW_INTERVAL
from trainbeacon.exporter.collectors.gpu.nvml import ABSENT, CLOSED, LOST, Code, Sample
from trainbeacon.exporter.collectors.gpu.profile import Profile

#: Seconds between two nvmlInit: on a node without persistence mode one can take seconds.
INIT_INTERVAL = 60.0
#: Seconds that a scrape waits for another one: a sick driver can hold a call for ever.
LOCK_TIMEOUT = 5.0
#: Instances that one GPU can be cut into.
MOST_MIG_INSTANCES = 7

_STATES: dict[int, str] = {
    Code.LIBRARY_NOT_FOUND: "no_library",
    Code.DRIVER_NOT_LOADED: "no_driver",
    Code.NO_PERMISSION: "no_permission",
}


@dataclass
class _Gpu:
    """A GPU that answered when NVML was opened, with what is kept of it from scrape to scrape."""

    handle: Any
    uuid: str
    name: str
    profile: Profile
    slow: list[Sample] = field(default_factory=list)
    instances: list[tuple[str, str]] = field(default_factory=list)
    slow_due: float = 0.0


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

    def read(self, now: float, unexpected: list[Exception]) -> dict[int, list[Sample]]:
        """The samples of each GPU that answers. Raises only when the session itself is over."""
        self.lost -= self.gpus.keys()  # those that were found are asked again
        readings = {index: self._read_gpu(index, now, unexpected) for index in self.gpus}
        return {index: samples for index, samples in readings.items() if index not in self.lost}

    def close(self) -> None:
        """Give the library back; a driver that is gone already has nothing to say to that."""
        for gpu in self.gpus.values():
            gpu.profile.close()
        with suppress(self.nvml.NVMLError):
            self.nvml.nvmlShutdown()

    def _find(self, index: int) -> None:
        nvml = self.nvml
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            uuid = self._text(nvml.nvmlDeviceGetUUID, handle)
            name = self._text(nvml.nvmlDeviceGetName, handle)
        except nvml.NVMLError as error:
            if error.value in CLOSED:
                raise
            if error.value == Code.NO_PERMISSION:
                self.forbidden = True
            else:  # lost, without power, without interrupts: it does not answer
                self.lost.add(index)
        else:
            self.gpus[index] = _Gpu(handle, uuid, name, Profile(nvml, handle))

    def _read_gpu(self, index: int, now: float, unexpected: list[Exception]) -> list[Sample]:
        gpu = self.gpus[index]
        samples: list[Sample] = []
        try:
            for reader in FAST:
                samples += self._ask(unexpected, reader, self.nvml, gpu.handle)
            samples += self._ask(unexpected, gpu.profile.read, now)
            if now >= gpu.slow_due:
                self._read_slow(gpu, unexpected)
                gpu.slow_due = now + SLOW_INTERVAL
        except self.nvml.NVMLError as error:
            if error.value in CLOSED:
                raise
            self.lost.add(index)
        return samples + gpu.slow

    def _read_slow(self, gpu: _Gpu, unexpected: list[Exception]) -> None:
        samples: list[Sample] = []
        for reader in SLOW:
            samples += self._ask(unexpected, reader, self.nvml, gpu.handle)
        gpu.slow = samples
        partitioned = Sample("training_gpu_mig_enabled", 1) in samples
        gpu.instances = self._ask(unexpected, self._instances, gpu.handle) if partitioned else []

    def _instances(self, handle: Any) -> list[tuple[str, str]]:
        """UUID and name of each MIG instance of a GPU."""
        nvml = self.nvml
        found = []
        for index in range(min(nvml.nvmlDeviceGetMaxMigDeviceCount(handle), MOST_MIG_INSTANCES)):
            try:
                instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
            except nvml.NVMLError as error:
                if error.value != Code.NOT_FOUND:  # the places need not be filled from the first
                    raise
            else:
                found.append((nvml.nvmlDeviceGetUUID(instance), self._text(nvml.nvmlDeviceGetName, instance)))
        return found

    def _ask(self, unexpected: list[Exception], read: Callable[..., Iterable[Any]], *args: Any) -> list[Any]:
        """What one reader says; raises when not the field but the GPU or the library is gone."""
        try:
            return list(read(*args))
        except self.nvml.NVMLError as error:
            if error.value in LOST | CLOSED:
                raise
            if error.value not in ABSENT:
                unexpected.append(error)
            return []

    def _text(self, call: Callable[..., str], *arguments: Any) -> str:
        try:
            return call(*arguments)
        except self.nvml.NVMLError as error:
            if error.value not in ABSENT:
                raise
            return ""


class GpuCollector:
    """Serves every GPU that NVML shows, and the state of NVML itself.

    The first `collect` imports pynvml, opens the library and starts the thread that waits for XIDs,
    which ends with the collector; from then on a scrape costs some twenty calls a GPU. The library is
    opened at most once in `INIT_INTERVAL` seconds: again when it was not there, when the driver was
    reloaded under it, and when a GPU is lost, since only a fresh start can find a GPU that was reset.
    A GPU seen once and not answering now has `training_gpu_up` 0 and its XIDs; what NVML returns
    beyond the known states is raised after all other GPUs were read. `collect` may be called from
    several threads: one reads, the others wait `LOCK_TIMEOUT` seconds at most and then raise
    `TimeoutError`.
    """

    name = "gpu"

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._session: _Session | None = None
        self._state = "failed"
        self._init_due = clock()
        self._seen: set[int] = set()
        self._xids = XidWatch()
        # Collectors have no end of their own: an exporter in a thread is dropped, a process exits.
        weakref.finalize(self, self._xids.stop)

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

    def _read(self, unexpected: list[Exception]) -> dict[int, list[Sample]]:
        for _ in range(2):  # a library that closed under us is opened anew in the same scrape
            session = self._open()
            if session is None:
                break
            try:
                return session.read(self._clock(), unexpected)
            except session.nvml.NVMLError as error:
                self._close(error.value)
        return {}

    def _open(self) -> _Session | None:
        complete = self._session is not None and not self._session.lost
        if complete or self._clock() < self._init_due:
            return self._session
        import pynvml  # not at the top: an exporter on a node without GPUs would pay for it at its start

        self._close(Code.GPU_IS_LOST)
        self._init_due = self._clock() + INIT_INTERVAL
        try:
            session = self._session = _Session(pynvml)
        except pynvml.NVMLError as error:
            self._state = _STATES.get(error.value, "failed")
        else:
            self._state = "no_permission" if session.forbidden else "ok"
            self._seen |= session.gpus.keys() | session.lost
            self._xids.start(pynvml, {index: gpu.handle for index, gpu in session.gpus.items()})
        return self._session

    def _close(self, reason: int) -> None:
        if self._session:
            self._xids.stop()  # first, since it waits inside the library
            self._session.close()
            self._session = None
            self._state = _STATES.get(reason, "failed")

    def _add(self, families: Families, readings: dict[int, list[Sample]]) -> None:
        for state in catalogue.NVML_STATES:
            families.add("trainbeacon_nvml_state", float(state == self._state), state)
        for index in sorted(self._seen):
            families.add("training_gpu_up", float(index in readings), str(index))
        for index, samples in readings.items():
            for name, value, labels in samples:
                families.add(name, value, str(index), *labels)
            families.add("training_gpu_xid_watched", float(index in self._xids.watched), str(index))
            self._add_info(families, index)
        for index, (name, value, labels) in self._xids.samples():
            families.add(name, value, str(index), *labels)

    def _add_info(self, families: Families, index: int) -> None:
        if self._session:
            gpu = self._session.gpus[index]
            families.add_info("training_gpu_info", str(index), gpu.uuid, gpu.name, self._session.driver)
            for uuid, name in gpu.instances:
                families.add_info("training_gpu_mig_info", str(index), uuid, name)
