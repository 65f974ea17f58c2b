"""Metrics of the machine: GPUs, the node, and the training process as system and allocator see it.

The GPU fields were tried against a scripted stand-in of NVML only, hence experimental.
"""

from __future__ import annotations

from .metric import Label, Metric, Type, facts

#: Why a GPU's clocks are held down.
THROTTLE_REASONS = (
    "power_cap",
    "software_thermal",
    "hardware_thermal",
    "power_brake",
    "hardware_slowdown",
    "sync_boost",
)
#: What an XID is of; docs/gpu.md says which number goes where.
XID_CLASSES = (
    "application",
    "memory_contained",
    "memory_uncorrectable",
    "nvlink",
    "driver",
    "gpu_lost",
    "other",
)

_DIRECTION = Label("direction", "seen from the GPU", ("transmitted", "received"))


def _gpu(name: str, unit: str, help: str, *labels: Label, type: Type = "gauge") -> Metric:
    return Metric("GPU", name, type, unit, help, labels, level="gpu", source="gpu", stability="experimental")


_GPU = (
    _gpu("training_gpu_up", "", "1 while the GPU answers, 0 once it is lost to the driver."),
    _gpu(
        "training_gpu_utilization_ratio",
        "ratio",
        "Share of the last sample period in which a kernel ran on the GPU.",
    ),
    _gpu("training_gpu_memory_used_bytes", "bytes", "GPU memory in use, by all processes."),
    _gpu("training_gpu_memory_total_bytes", "bytes", "GPU memory."),
    _gpu("training_gpu_temperature_celsius", "celsius", "Temperature of the GPU."),
    _gpu("training_gpu_power_watts", "watts", "Power drawn by the GPU."),
    _gpu("training_gpu_power_limit_watts", "watts", "Power limit that is set for the GPU."),
    _gpu(
        "training_gpu_energy_joules_total",
        "joules",
        "Energy drawn by the GPU since its driver was loaded.",
        type="counter",
    ),
    _gpu(
        "training_gpu_clock_hertz",
        "hertz",
        "Present frequency of the GPU's clocks.",
        Label("clock", "part of the GPU", ("graphics", "sm", "memory")),
    ),
    _gpu(
        "training_gpu_sm_clock_max_hertz", "hertz", "Highest frequency of the clock of the multiprocessors."
    ),
    _gpu(
        "training_gpu_throttled",
        "",
        "1 while the clocks are throttled for this reason.",
        Label("reason", "what holds them down", THROTTLE_REASONS),
    ),
    _gpu(
        "training_gpu_xid_errors_total",
        "",
        "XIDs, errors reported by the driver, since the exporter started to watch the GPU.",
        Label("class", "what the XID is of", XID_CLASSES),
        type="counter",
    ),
    _gpu("training_gpu_xid_last", "", "Number of the newest XID that the exporter saw."),
    _gpu(
        "training_gpu_xid_last_timestamp_seconds",
        "seconds",
        "Unix time at which the newest XID was reported.",
    ),
    _gpu(
        "training_gpu_xid_watched",
        "",
        "1 while the GPU's XIDs are watched, 0 if the driver does not report them.",
    ),
    _gpu(
        "training_gpu_ecc_errors_total",
        "",
        "Memory errors since the driver was loaded, up to 30 s old.",
        Label("kind", "whether ECC put it right", ("corrected", "uncorrected")),
        type="counter",
    ),
    _gpu(
        "training_gpu_remapped_rows",
        "",
        "Memory rows replaced by spares, and 1 if a reset is pending or remapping failed, up to 30 s old.",
        Label("kind", "why replaced, or what is amiss", ("corrected", "uncorrected", "pending", "failed")),
    ),
    _gpu(
        "training_gpu_recovery_action",
        "",
        "Action that the driver requests: 0 nothing, 1 reset, 2 reboot, 3 drain peers, 4 drain and reset.",
    ),
    _gpu(
        "training_gpu_nvlink_bytes_total",
        "bytes",
        "Payload over all NVLink links of the GPU.",
        _DIRECTION,
        type="counter",
    ),
    _gpu(
        "training_gpu_nvlink_errors_total",
        "",
        "Errors over all NVLink links of the GPU, up to 30 s old; not on Blackwell.",
        Label("kind", "what went wrong", ("crc_flit", "crc_data", "replay", "recovery")),
        type="counter",
    ),
    _gpu("training_gpu_nvlink_links_active", "", "NVLink links of the GPU that are up, up to 30 s old."),
    _gpu(
        "training_gpu_pcie_bytes_total",
        "bytes",
        "Traffic over PCIe as the GPU counts it; absent on GPUs that only sample it.",
        _DIRECTION,
        type="counter",
    ),
    _gpu(
        "training_gpu_pcie_errors_total",
        "",
        "Errors of the PCIe link, up to 30 s old.",
        Label("kind", "what went wrong", ("replay", "correctable", "nonfatal", "fatal")),
        type="counter",
    ),
    _gpu(
        "training_gpu_sm_active_ratio",
        "ratio",
        "Share of the multiprocessors that were busy since the last scrape (Hopper and later).",
    ),
    _gpu(
        "training_gpu_sm_occupancy_ratio",
        "ratio",
        "Active warps over the most there can be, since the last scrape (Hopper and later).",
    ),
    _gpu(
        "training_gpu_tensor_active_ratio",
        "ratio",
        "Share of the time in which tensor cores worked, since the last scrape (Hopper and later).",
    ),
    _gpu(
        "training_gpu_memory_active_ratio",
        "ratio",
        "Memory bandwidth used over the most there is, since the last scrape (Hopper and later).",
    ),
    _gpu("training_gpu_mig_enabled", "", "1 if the GPU is partitioned into MIG instances, up to 30 s old."),
    Metric(
        "GPU",
        "training_gpu_mig_info",
        "info",
        "",
        "The MIG instances of the GPU, up to 30 s old.",
        (Label("uuid", "UUID of the instance", limit=7), Label("name", "product name and profile", limit=1)),
        level="gpu",
        source="gpu",
        stability="experimental",
    ),
    Metric(
        "GPU",
        "training_gpu_info",
        "info",
        "",
        "Identity of the GPU.",
        facts(uuid="UUID of the GPU", name="product name", driver="driver version"),
        level="gpu",
        source="gpu",
        stability="experimental",
    ),
)

_ALLOCATOR = (
    Metric(
        "torch allocator",
        "training_allocator_bytes",
        "gauge",
        "bytes",
        "GPU memory in PyTorch's allocator, over all devices of the rank, sampled every 5 s.",
        (
            Label(
                "kind",
                "held by tensors now and at most, taken from the driver, or free in split blocks",
                ("allocated", "peak", "reserved", "inactive_split"),
            ),
        ),
        survives=False,
        stability="experimental",
    ),
    Metric(
        "torch allocator",
        "training_allocator_retries_total",
        "counter",
        "",
        "Allocations that succeeded only after PyTorch had released its cache.",
        stability="experimental",
    ),
    Metric(
        "torch allocator",
        "training_allocator_oom_total",
        "counter",
        "",
        "Allocations that failed because the GPU's memory was full.",
        stability="experimental",
    ),
)

_PROCESS = (
    Metric(
        "host and process",
        "training_process_cpu_seconds_total",
        "counter",
        "seconds",
        "Processor time of the training process, user and system.",
        source="host",
        survives=False,
    ),
    Metric(
        "host and process",
        "training_process_resident_memory_bytes",
        "gauge",
        "bytes",
        "Resident memory of the training process.",
        source="host",
        survives=False,
    ),
    Metric(
        "host and process",
        "training_process_open_files",
        "gauge",
        "",
        "File descriptors that the training process holds.",
        source="host",
        survives=False,
    ),
    Metric(
        "host and process",
        "training_process_threads",
        "gauge",
        "",
        "Threads of the training process.",
        source="host",
        survives=False,
    ),
)


def _host(name: str, type: Type, unit: str, help: str, *labels: Label) -> Metric:
    return Metric("host and process", name, type, unit, help, labels, level="node", source="host")


_OF_PACKETS = Label("direction", "seen from the node", ("received", "transmitted"))


_HOST = (
    _host("training_host_cpu_ratio", "gauge", "ratio", "Share of the node's processor time in use."),
    _host("training_host_memory_used_bytes", "gauge", "bytes", "Memory of the node that is not available."),
    _host("training_host_memory_total_bytes", "gauge", "bytes", "Memory of the node."),
    _host("training_host_shared_memory_used_bytes", "gauge", "bytes", "Space in use on /dev/shm."),
    _host("training_host_shared_memory_total_bytes", "gauge", "bytes", "Size of /dev/shm."),
    _host("training_host_disk_read_bytes_total", "counter", "bytes", "Bytes read from the node's disks."),
    _host("training_host_disk_written_bytes_total", "counter", "bytes", "Bytes written to the node's disks."),
    _host(
        "training_host_network_received_bytes_total",
        "counter",
        "bytes",
        "Bytes received on the node's interfaces, loopback left out.",
    ),
    _host(
        "training_host_network_transmitted_bytes_total",
        "counter",
        "bytes",
        "Bytes sent on the node's interfaces, loopback left out.",
    ),
    _host(
        "training_host_network_packets_total",
        "counter",
        "",
        "Packets over the node's network cards.",
        _OF_PACKETS,
    ),
    _host(
        "training_host_network_errors_total",
        "counter",
        "",
        "Packets that the node's network cards found broken or had no room for.",
        _OF_PACKETS,
        Label("kind", "broken, or dropped", ("error", "drop")),
    ),
)

HARDWARE = (*_GPU, *_ALLOCATOR, *_PROCESS, *_HOST)
