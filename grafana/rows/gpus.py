"""Rows of the GPUs chosen: what they do, their errors and links, and what their energy became."""

from __future__ import annotations

from grafana.dashboard import Row
from grafana.panels import Band, BarGauge, Query, TimeSeries

#: Why clocks are held down, and how it is drawn.
HELD_COLORS = {
    "power_cap": "blue",
    "software_thermal": "orange",
    "hardware_thermal": "red",
    "power_brake": "red",
    "hardware_slowdown": "red",
    "sync_boost": "blue",
}
RATE = "rate({}{{<gpus>}}[$__rate_interval])"

GPUS = Row(
    "GPUs",
    (
        Band(
            "Utilisation",
            "Share of time in which a kernel ran.",
            "training_gpu_utilization_ratio{<gpus>}",
            maximum=1,
        ),
        Band(
            "Memory",
            "Share in use by all processes.",
            "training_gpu_memory_used_bytes{<gpus>} / training_gpu_memory_total_bytes{<gpus>}",
            unit="percentunit",
            maximum=1,
        ),
        Band("Temperature", "Of the GPUs chosen.", "training_gpu_temperature_celsius{<gpus>}", minimum=None),
        Band("Power", "Of one GPU.", "training_gpu_power_watts{<gpus>}"),
        Band(
            "SM clock",
            "A GPU that is slower than its peers slows the whole run.",
            'training_gpu_clock_hertz{<gpus>, clock="sm"}',
        ),
        TimeSeries(
            "Held down",
            "GPUs whose clocks are held down, by reason.",
            Query("sum by (reason) (instance_reason:training_gpu_throttled:sum{<hosts>}) > 0", "{{reason}}"),
            stacked=True,
            empty="none",
            colors=HELD_COLORS,
        ),
        TimeSeries(
            "Tensor cores",
            "Share of the time in which they worked, and of the multiprocessors that were busy (Hopper and"
            " later).",
            (
                Query("avg(training_gpu_sm_active_ratio{<gpus>})", "multiprocessors"),
                Query("avg(training_gpu_tensor_active_ratio{<gpus>})", "tensor cores"),
                Query("avg(training_gpu_memory_active_ratio{<gpus>})", "memory bandwidth"),
                Query("avg(training_gpu_sm_occupancy_ratio{<gpus>})", "occupancy"),
            ),
            maximum=1,
            empty="not reported",
        ),
        TimeSeries(
            "PyTorch's memory",
            "On the rank that holds most of each kind.",
            Query("max by (kind) (training_allocator_bytes{<runs>})", "{{kind}}"),
        ),
    ),
    collapsed=True,
)

ERRORS = Row(
    "Errors and links",
    (
        TimeSeries(
            "XIDs",
            "By class, over ten minutes, on the hosts chosen.",
            Query(
                "sum by (class) (instance_class:training_gpu_xid_errors:increase10m{<hosts>})", "{{class}}"
            ),
            soft_maximum=1,
        ),
        TimeSeries(
            "Memory errors",
            "By whether they were corrected, over a quarter of an hour, on the hosts chosen.",
            Query("sum by (kind) (instance_kind:training_gpu_ecc_errors:increase15m{<hosts>})", "{{kind}}"),
            soft_maximum=1,
            colors={"corrected": "blue", "uncorrected": "red"},
        ),
        TimeSeries(
            "Remapped rows",
            "Rows replaced by spares; pending means that a reset is due, failed that the GPU must go.",
            Query("sum by (kind) (training_gpu_remapped_rows{<gpus>})", "{{kind}}"),
        ),
        TimeSeries(
            "Allocations",
            "PyTorch's, of all ranks: that succeeded only after the cache was given back, or failed.",
            (
                Query("sum(increase(training_allocator_retries_total{<runs>}[$__rate_interval]))", "retries"),
                Query(
                    "sum(increase(training_allocator_oom_total{<runs>}[$__rate_interval]))", "out of memory"
                ),
            ),
            bars=True,
            colors={"retries": "orange", "out of memory": "red"},
        ),
        TimeSeries(
            "NVLink",
            "Payload, all GPUs together.",
            Query(f"sum by (direction) ({RATE.format('training_gpu_nvlink_bytes_total')})", "{{direction}}"),
            unit="Bps",
            empty="no NVLink",
        ),
        TimeSeries(
            "NVLink links lost",
            "Links that were up within six hours and are not now.",
            "sum(instance_gpu:training_gpu_nvlink_links_lost:count{<gpus>})",
            soft_maximum=1,
            empty="no NVLink",
        ),
        TimeSeries(
            "PCIe",
            "Traffic as the GPUs count it, all together.",
            Query(f"sum by (direction) ({RATE.format('training_gpu_pcie_bytes_total')})", "{{direction}}"),
            unit="Bps",
            empty="not counted",
        ),
        TimeSeries(
            "Link errors",
            "Of NVLink and PCIe, those that cost time or data, over ten minutes.",
            "sum(instance_gpu:training_gpu_link_errors:increase10m{<gpus>})",
            soft_maximum=1,
        ),
    ),
    collapsed=True,
)

EFFICIENCY = Row(
    "Efficiency",
    (
        TimeSeries(
            "Power of the runs",
            "All GPUs of a run. The ten that draw most.",
            Query("topk(10, max by (run) (run:training_gpu_power_watts:sum{<runs>}))", "{{run}}"),
            stacked=True,
        ),
        TimeSeries(
            "Tokens per joule",
            "Of the GPUs' energy. The ten runs with least.",
            Query(
                "bottomk(10, max by (run) (run:training_tokens_per_second:sum{<runs>}"
                " / (run:training_gpu_power_watts:sum{<runs>} > 0)))",
                "{{run}}",
            ),
            unit="short",
        ),
        TimeSeries(
            "Samples per joule",
            "Of the GPUs' energy. The ten runs with least.",
            Query(
                "bottomk(10, max by (run) (run:training_samples_per_second:sum{<runs>}"
                " / (run:training_gpu_power_watts:sum{<runs>} > 0)))",
                "{{run}}",
            ),
            unit="short",
        ),
        BarGauge(
            "Energy",
            "Of the GPUs chosen, in the time shown, by run. The eight that used most.",
            Query(
                "topk(8, sum by (run) (increase(training_gpu_energy_joules_total{<gpus>}[$__range])"
                " * on (cluster, namespace, instance, pod, gpu) group_left (run)"
                " instance_gpu:training_rank:info{<gpus>}))",
                "{{run}}",
            ),
        ),
    ),
    collapsed=True,
)
