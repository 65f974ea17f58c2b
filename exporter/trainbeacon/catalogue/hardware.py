"""Metrics of the machine: GPUs, the node, and the training process as the operating system sees it."""

from __future__ import annotations

from .model import Metric, Type, facts


def _gpu(name: str, unit: str, help: str) -> Metric:
    return Metric("GPU", name, "gauge", unit, help, level="gpu", source="gpu")


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
    _gpu("training_gpu_power_limit_watts", "watts", "Power that the GPU may draw as it is set now."),
    Metric(
        "GPU",
        "training_gpu_info",
        "info",
        "",
        "Which GPU it is.",
        facts(uuid="UUID of the GPU", name="product name", driver="driver version"),
        level="gpu",
        source="gpu",
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


def _host(name: str, type: Type, unit: str, help: str) -> Metric:
    return Metric("host and process", name, type, unit, help, level="node", source="host")


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
)

HARDWARE = (*_GPU, *_PROCESS, *_HOST)
