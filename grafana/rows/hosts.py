"""The row of the hosts chosen: processors, memory, disks and network."""

from __future__ import annotations

from grafana.dashboard import Row
from grafana.panels import Band, BarGauge, Query, TimeSeries

HOST_RATE = "rate(training_host_{}_bytes_total{{<hosts>}}[$__rate_interval])"

HOSTS = Row(
    "Hosts",
    (
        Band("CPU", "Share of processor time in use.", "training_host_cpu_ratio{<hosts>}", maximum=1),
        Band(
            "Memory",
            "Share that is not available.",
            "training_host_memory_used_bytes{<hosts>} / training_host_memory_total_bytes{<hosts>}",
            unit="percentunit",
            maximum=1,
        ),
        Band(
            "Shared memory",
            "Share of /dev/shm in use, where loaders pass their batches.",
            "training_host_shared_memory_used_bytes{<hosts>}"
            " / training_host_shared_memory_total_bytes{<hosts>}",
            unit="percentunit",
            maximum=1,
        ),
        BarGauge(
            "Fullest hosts",
            "By memory: the eight with least to spare.",
            Query(
                "topk(8, max by (instance) (training_host_memory_used_bytes{<hosts>}"
                " / training_host_memory_total_bytes{<hosts>}))",
                "{{instance}}",
            ),
            unit="percentunit",
            maximum=1,
            thresholds=((None, "blue"), (0.9, "orange"), (0.95, "red")),
        ),
        Band("Disk reads", "Of one host.", HOST_RATE.format("disk_read"), unit="Bps"),
        Band("Disk writes", "Of one host.", HOST_RATE.format("disk_written"), unit="Bps"),
        Band(
            "Network in", "Of one host, loopback left out.", HOST_RATE.format("network_received"), unit="Bps"
        ),
        Band(
            "Network out",
            "Of one host, loopback left out.",
            HOST_RATE.format("network_transmitted"),
            unit="Bps",
        ),
        TimeSeries(
            "Network errors",
            "Packets that network cards found broken or had no room for, on the hosts chosen.",
            Query(
                "sum by (direction, kind)"
                " (instance_direction_kind:training_host_network_errors:rate5m{<hosts>})",
                "{{direction}} {{kind}}",
            ),
            unit="cps",
            soft_maximum=1,
            empty="no card to be seen",
        ),
        TimeSeries(
            "Packets lost",
            "Share of the packets of a host. The eight hosts that lose most.",
            Query(
                "topk(8, max by (instance) (instance:training_host_network_errors:ratio_rate5m{<hosts>}))",
                "{{instance}}",
            ),
            unit="percentunit",
            soft_maximum=0.001,
            empty="no card to be seen",
        ),
    ),
    collapsed=True,
)
