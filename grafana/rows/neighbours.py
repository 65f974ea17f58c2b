"""Rows of what other exporters tell of the same GPUs and hosts; without them the panels stay quiet."""

from __future__ import annotations

from grafana.dashboard import Row
from grafana.panels import Band, Query, TimeSeries

# The same GPUs and hosts as other exporters see them, by UUID and by host name.
BY_UUID = (
    ' and on (UUID) label_replace(instance_gpu:training_rank:info{<gpus>}, "UUID", "$1", "gpu_uuid", "(.+)")'
)
BY_NODE = (
    " and on (instance) (node_uname_info and on (nodename)"
    ' label_replace(instance_run:training_rank:info{<hosts>}, "nodename", "$1", "hostname", "(.+)"))'
)


def host_of(expr: str) -> str:
    """What dcgm-exporter serves with its host as `host`: older ones say `Hostname`, newer ones `hostname`."""
    for label in ("Hostname", "hostname"):
        expr = f'label_replace({expr}, "host", "$1", "{label}", "(.+)")'
    return expr


DCGM = Row(
    "As dcgm-exporter sees the same GPUs",
    (
        Band(
            "Graphics engine",
            "Share of time in which it was busy, over the GPUs of our ranks, joined by UUID.",
            "DCGM_FI_PROF_GR_ENGINE_ACTIVE" + BY_UUID,
            unit="percentunit",
            maximum=1,
            empty="no dcgm-exporter",
        ),
        Band(
            "Tensor cores",
            "Share of the cycles in which they worked.",
            "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE" + BY_UUID,
            unit="percentunit",
            maximum=1,
            empty="no dcgm-exporter",
        ),
        Band(
            "Memory temperature",
            "Which NVML does not tell.",
            "DCGM_FI_DEV_MEMORY_TEMP" + BY_UUID,
            unit="celsius",
            minimum=None,
            empty="no dcgm-exporter",
        ),
        TimeSeries(
            "Last XID",
            "Number of the last XID of the eight GPUs with the highest.",
            Query(
                f"topk(8, max by (host, gpu) ({host_of(f'(DCGM_FI_DEV_XID_ERRORS > 0){BY_UUID}')}))",
                "{{host}} GPU {{gpu}}",
            ),
            unit="short",
            empty="none, or no dcgm-exporter",
        ),
    ),
    collapsed=True,
)

NODE = Row(
    "As node_exporter sees the same hosts",
    (
        Band(
            "Load",
            "Over one minute, over the cores.",
            f"node_load1{BY_NODE}",
            unit="short",
            empty="no node_exporter",
        ),
        Band(
            "Waiting for memory",
            "Share of time in which some task waited for memory (pressure stall information).",
            f"rate(node_pressure_memory_waiting_seconds_total[$__rate_interval]){BY_NODE}",
            unit="percentunit",
            empty="no node_exporter",
        ),
        TimeSeries(
            "Fullest disks",
            "Share of a file system in use. The eight fullest.",
            Query(
                'topk(8, max by (instance, mountpoint) (1 - node_filesystem_avail_bytes{fstype!="tmpfs"}'
                f" / node_filesystem_size_bytes{BY_NODE}))",
                "{{instance}} {{mountpoint}}",
            ),
            unit="percentunit",
            maximum=1,
            empty="no node_exporter",
        ),
        Band(
            "InfiniBand",
            "Received over a port.",
            f"rate(node_infiniband_port_data_received_bytes_total[$__rate_interval]){BY_NODE}",
            unit="Bps",
            empty="no InfiniBand, or no node_exporter",
        ),
    ),
    collapsed=True,
)
