"""What a GPU says of itself in one call: each reader may fail without taking the others with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from trainbeacon.catalogue.hardware import THROTTLE_REASONS
from trainbeacon.exporter.collectors.gpu.nvml import Sample, newer_or_older

Reader = Callable[[Any, Any], Iterator[Sample]]

#: Clock domains by their number in NVML.
_CLOCKS = {"graphics": 0, "sm": 1, "memory": 2}
#: Bits of the reasons for which clocks are held down. What is left out is no trouble: an idle GPU, and
#: clocks that somebody set.
_REASON_BITS = dict(zip(THROTTLE_REASONS, (0x04, 0x20, 0x40, 0x80, 0x08, 0x10), strict=True))
_CORRECTED, _UNCORRECTED, _VOLATILE = 0, 1, 0

#: Field identifiers of nvmlDeviceGetFieldValues.
_ALL_LINKS = 0xFFFFFFFF
_LINK_STATE = 165
_MOST_LINKS = 18
_RECOVERY_ACTION = 230
_TRAFFIC = {
    (138, _ALL_LINKS): ("training_gpu_nvlink_bytes_total", "transmitted", 1024),
    (139, _ALL_LINKS): ("training_gpu_nvlink_bytes_total", "received", 1024),
    (197, 0): ("training_gpu_pcie_bytes_total", "transmitted", 1),
    (198, 0): ("training_gpu_pcie_bytes_total", "received", 1),
}
_ERRORS = {
    38: ("training_gpu_nvlink_errors_total", "crc_flit"),
    45: ("training_gpu_nvlink_errors_total", "crc_data"),
    52: ("training_gpu_nvlink_errors_total", "replay"),
    59: ("training_gpu_nvlink_errors_total", "recovery"),
    173: ("training_gpu_pcie_errors_total", "correctable"),
    179: ("training_gpu_pcie_errors_total", "nonfatal"),
    180: ("training_gpu_pcie_errors_total", "fatal"),
}
#: Which member of the union holds a value, by the type that NVML says it has.
_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")


def _utilization(nvml: Any, handle: Any) -> Iterator[Sample]:
    yield Sample("training_gpu_utilization_ratio", nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)


def _memory(nvml: Any, handle: Any) -> Iterator[Sample]:
    memory = newer_or_older(
        nvml,
        # Version 2 keeps the driver's own reserve out of "used", as nvidia-smi does.
        lambda: nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2),
        lambda: nvml.nvmlDeviceGetMemoryInfo(handle),  # drivers before 510
    )
    yield Sample("training_gpu_memory_used_bytes", memory.used)
    yield Sample("training_gpu_memory_total_bytes", memory.total)


def _temperature(nvml: Any, handle: Any) -> Iterator[Sample]:
    celsius = nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)
    yield Sample("training_gpu_temperature_celsius", celsius)


def _power(nvml: Any, handle: Any) -> Iterator[Sample]:
    yield Sample("training_gpu_power_watts", nvml.nvmlDeviceGetPowerUsage(handle) / 1000)


def _power_limit(nvml: Any, handle: Any) -> Iterator[Sample]:
    yield Sample("training_gpu_power_limit_watts", nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000)


def _energy(nvml: Any, handle: Any) -> Iterator[Sample]:
    millijoules = nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    yield Sample("training_gpu_energy_joules_total", millijoules / 1000)


def _clock(clock: str) -> Reader:
    def read(nvml: Any, handle: Any) -> Iterator[Sample]:
        megahertz = nvml.nvmlDeviceGetClockInfo(handle, _CLOCKS[clock])
        yield Sample("training_gpu_clock_hertz", megahertz * 1e6, (clock,))

    return read


def _clock_max(nvml: Any, handle: Any) -> Iterator[Sample]:
    megahertz = nvml.nvmlDeviceGetMaxClockInfo(handle, _CLOCKS["sm"])
    yield Sample("training_gpu_sm_clock_max_hertz", megahertz * 1e6)


def _throttled(nvml: Any, handle: Any) -> Iterator[Sample]:
    bits = newer_or_older(
        nvml,
        lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(handle),
        lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle),  # drivers before 535
    )
    for reason, bit in _REASON_BITS.items():
        yield Sample("training_gpu_throttled", float(bool(bits & bit)), (reason,))


def _traffic(nvml: Any, handle: Any) -> Iterator[Sample]:
    for field, count in _field_values(nvml, handle, _TRAFFIC):
        name, direction, unit = _TRAFFIC[field]
        yield Sample(name, count * unit, (direction,))


def _ecc(kind: str, number: int) -> Reader:
    def read(nvml: Any, handle: Any) -> Iterator[Sample]:
        count = nvml.nvmlDeviceGetTotalEccErrors(handle, number, _VOLATILE)
        yield Sample("training_gpu_ecc_errors_total", count, (kind,))

    return read


def _remapped_rows(nvml: Any, handle: Any) -> Iterator[Sample]:
    corrected, uncorrected, pending, failed = nvml.nvmlDeviceGetRemappedRows(handle)
    figures = {"corrected": corrected, "uncorrected": uncorrected, "pending": pending, "failed": failed}
    for kind, figure in figures.items():
        yield Sample("training_gpu_remapped_rows", figure, (kind,))


def _pcie_replays(nvml: Any, handle: Any) -> Iterator[Sample]:
    yield Sample("training_gpu_pcie_errors_total", nvml.nvmlDeviceGetPcieReplayCounter(handle), ("replay",))


def _errors(nvml: Any, handle: Any) -> Iterator[Sample]:
    for (field, _), count in _field_values(nvml, handle, [(field, 0) for field in _ERRORS]):
        name, kind = _ERRORS[field]
        yield Sample(name, count, (kind,))


def _links(nvml: Any, handle: Any) -> Iterator[Sample]:
    asked = [(_LINK_STATE, link) for link in range(_MOST_LINKS)]
    states = [state for _, state in _field_values(nvml, handle, asked)]
    if states:  # one that the board lacks has no state
        yield Sample("training_gpu_nvlink_links_active", sum(states))


def _recovery_action(nvml: Any, handle: Any) -> Iterator[Sample]:
    for _, action in _field_values(nvml, handle, [(_RECOVERY_ACTION, 0)]):
        yield Sample("training_gpu_recovery_action", action)


def _mig(nvml: Any, handle: Any) -> Iterator[Sample]:
    yield Sample("training_gpu_mig_enabled", nvml.nvmlDeviceGetMigMode(handle)[0])


#: Read at every scrape.
FAST: tuple[Reader, ...] = (
    _utilization,
    _memory,
    _temperature,
    _power,
    _power_limit,
    _energy,
    *(_clock(clock) for clock in _CLOCKS),
    _throttled,
    _traffic,
)
#: Read at the first scrape after SLOW_INTERVAL seconds: what changes seldom, and may take milliseconds.
SLOW: tuple[Reader, ...] = (
    _clock_max,
    _ecc("corrected", _CORRECTED),
    _ecc("uncorrected", _UNCORRECTED),
    _remapped_rows,
    _pcie_replays,
    _errors,
    _links,
    _recovery_action,
    _mig,
)
SLOW_INTERVAL = 25.0


def _field_values(
    nvml: Any, handle: Any, fields: Iterable[tuple[int, int]]
) -> Iterator[tuple[tuple[int, int], float]]:
    """The values of those of the (field, scope) that this GPU has."""
    for found in nvml.nvmlDeviceGetFieldValues(handle, list(fields)):
        if found.nvmlReturn == 0 and found.valueType < len(_MEMBERS):
            yield (found.fieldId, found.scopeId), getattr(found.value, _MEMBERS[found.valueType])
