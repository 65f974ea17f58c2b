"""The GPUs and hosts of one run or of all: what is broken, what is held down, what stands idle."""

from __future__ import annotations

from grafana.common import FLEET_ANNOTATIONS, PLACES, RUNS, SELECTORS, above, link
from grafana.dashboard import Dashboard, Row, Variable
from grafana.neighbours import DCGM, NODE
from grafana.panels import Band, BarGauge, Query, Stat, TimeSeries
from grafana.plots import Lanes
from grafana.tables import Table
from grafana.verdict import alerts_of

HOST = Variable(
    "instance",
    "Host",
    "query_result(group by (instance, hostname)"
    " (last_over_time(instance_run:training_rank:info{<runs>}[$__range])))",
    whole="",
    regex='/hostname="(?<text>[^"]*)".*instance="(?<value>[^"]*)"/',
)
GPU = Variable("gpu", "GPU", "label_values(training_gpu_up{<hosts>}, gpu)", numeric=True)

ON_HOST = f'{SELECTORS["place"]}, instance=~"$instance"'
KEY = "by (cluster, namespace, instance, gpu)"
# Of a GPU in trouble whose it was when that began: a lost one ends its run.
OWNED = "by (cluster, namespace, instance, gpu, hostname, run, rank)"
OWNER = (
    f'max {OWNED} (instance_gpu:training_place:info{{<gpus>, run!=""}})'
    f" or on (cluster, namespace, instance, gpu) max {OWNED} (instance_gpu:training_rank:info{{<gpus>}})"
    f" or on (cluster, namespace, instance, gpu) max {OWNED} (instance_gpu:training_rank:last{{<gpus>}})"
)
LIVES = f"max {KEY} (training_gpu_up{{<gpus>}})"
# Cheap at thousands of GPUs: gauges, and what the rules have summed up.
XID_AGE = f"(time() - max {KEY} (training_gpu_xid_last_timestamp_seconds{{<gpus>}}) < $__range_s)"
ECC = f'max {KEY} (instance_gpu_kind:training_gpu_ecc_errors:increase15m{{<gpus>, kind="uncorrected"}})'
HELD = f'max {KEY} (instance_gpu_reason:training_gpu_throttled:avg5m{{<gpus>, reason!="power_cap"}})'
ASKED = f"max {KEY} (training_gpu_recovery_action{{<gpus>}})"
ACTIONS = {
    0: ("nothing", "transparent"),
    1: ("reset", "red"),
    2: ("reboot", "red"),
    3: ("drain", "red"),
    4: ("drain, reset", "red"),
}
CLOCK = (
    f'max {KEY} (training_gpu_clock_hertz{{<gpus>, clock="sm"}})'
    ' / scalar(quantile(0.5, training_gpu_clock_hertz{<gpus>, clock="sm"}))'
)
# What makes a GPU worth a look, the worst as the highest number: lost, XIDs, memory errors, held down.
BADNESS = (
    f"sum {KEY} ("
    "instance_gpu:training_gpu_badness:sum{<gpus>}"
    f' or label_replace(1e4 * ({XID_AGE} > bool 0), "reason", "xid", "", ""))'
)
WORST = f" and on (cluster, namespace, instance, gpu) topk(8, {BADNESS})"
RATE = "rate({}{{<gpus>}}[$__rate_interval])"
HOST_RATE = "rate(training_host_{}_bytes_total{{<hosts>}}[$__rate_interval])"
OF_GPU = "on (cluster, namespace, instance, gpu) instance_gpu:training_rank:info{<gpus>}"
BY_HOST = "by (cluster, namespace, instance)"
IDLE = f"topk(24, count {BY_HOST} (training_gpu_up{{<gpus>}} == 1 unless {OF_GPU}))"
HELD_COLORS = {
    "power_cap": "blue",
    "software_thermal": "orange",
    "hardware_thermal": "red",
    "power_brake": "red",
    "hardware_slowdown": "red",
    "sync_boost": "blue",
}
HOT = above(87, near=80)

NOW = Row(
    "What is broken",
    (
        alerts_of(
            "Verdict",
            "What fires of the runs and hosts chosen, the most urgent first, with host and GPU.",
            "<runs>",
            rows=8,
            wide=True,
            width=24,
            height=5,
        ),
        Stat(
            "GPUs",
            "Lost: gone to the driver. Idle: no rank of ours runs there.",
            (
                Query(f"count(training_gpu_up{{<gpus>}} == 1 and {OF_GPU})", "in use"),
                Query(f"count(training_gpu_up{{<gpus>}} == 1 unless {OF_GPU})", "idle"),
                Query("count(training_gpu_up{<gpus>} == 0)", "lost", thresholds=above(1)),
            ),
            width=6,
            unit="short",
            colors={"in use": "green"},
            empty="no GPU",
        ),
        Stat(
            "Held down",
            "GPUs whose clocks are held down at the moment, by reason. A power cap alone is usual.",
            Query("sum by (reason) (instance_reason:training_gpu_throttled:sum{<hosts>}) > 0", "{{reason}}"),
            width=6,
            unit="short",
            colors=HELD_COLORS,
            empty="none",
        ),
        Stat(
            "XIDs",
            "GPUs with an error reported by the driver in the time shown.",
            Query(f"count({XID_AGE})", "GPUs"),
            width=4,
            unit="short",
            thresholds=((None, "red"),),
            empty="none",
        ),
        Stat(
            "Memory errors",
            "Over all GPUs in the last quarter of an hour; and GPUs that must be reset for a row to be"
            " replaced, or cannot replace it. A corrected error harms nobody; many of them announce worse.",
            (
                Query(
                    "sum by (kind) (instance_kind:training_gpu_ecc_errors:increase15m{<hosts>}) > 0",
                    "{{kind}}",
                ),
                Query('count(training_gpu_remapped_rows{<gpus>, kind=~"pending|failed"} > 0)', "to reset"),
            ),
            width=8,
            decimals=0,
            colors={"corrected": "blue", "uncorrected": "red", "to reset": "red"},
            empty="none",
        ),
        Table(
            "GPUs to look at",
            "At most eight: lost, with XIDs or uncorrected memory errors in the time shown, held down for"
            " heat or power faults, or hottest.",
            (
                Query(f"sort_desc(topk(8, {BADNESS}))"),  # the rows stay in the order of the first query
                Query(f"({OWNER}){WORST}"),
                Query(
                    f"min {KEY} (training_gpu_up{{<gpus>}}){WORST}",
                    "up",
                    mappings={0: ("lost", "red"), 1: ("up", "green")},
                    width=50,
                ),
                Query(
                    f"max {KEY} (training_gpu_xid_last{{<gpus>}} > 0){WORST}", "XID", unit="none", width=50
                ),
                Query(f"{XID_AGE}{WORST}", "XID since", decimals=0, thresholds=above(0), width=90),
                Query(f"({ECC} or 0 * {LIVES}){WORST}", "ECC", decimals=0, thresholds=above(1), width=55),
                Query(f"({ASKED} or 0 * {LIVES}){WORST}", "asks for", mappings=ACTIONS, width=90),
                Query(
                    f"({HELD} or 0 * {LIVES}){WORST}",
                    "held down",
                    unit="percentunit",
                    decimals=0,
                    thresholds=above(0.5, near=0.01),
                    width=85,
                ),
                Query(
                    f"{CLOCK}{WORST}",
                    "clock",
                    unit="percentunit",
                    decimals=0,
                    thresholds=((None, "red"), (0.85, "orange"), (0.95, "transparent")),
                    width=70,
                ),
                Query(
                    f"max {KEY} (training_gpu_temperature_celsius{{<gpus>}}){WORST}",
                    "heat",
                    thresholds=HOT,
                    decimals=0,
                    width=65,
                ),
                Query(
                    f"max {KEY} (training_gpu_utilization_ratio{{<gpus>}}){WORST}",
                    "use",
                    decimals=0,
                    width=60,
                ),
                Query(
                    f"max {KEY} (training_gpu_power_watts{{<gpus>}}){WORST}", "power", decimals=0, width=75
                ),
            ),
            labels={"hostname": 120, "gpu": 45, "run": 0, "rank": 45},
            width=24,
            height=8,
            first=(
                "hostname",
                "gpu",
                "up",
                "XID",
                "XID since",
                "ECC",
                "asks for",
                "held down",
                "run",
                "rank",
            ),
            hidden=("cluster", "namespace", "instance"),
            links={"rank": link("ranks", run="run", rank="rank"), "run": link("run", run="run")},
            empty="-",
        ),
    ),
    height=3,
)

USE = Row(
    "What stands idle",
    (
        Table(
            "Idle GPUs",
            "Those that no rank of ours runs on, by host: the 24 hosts with most.",
            (
                Query(IDLE, "idle GPUs", unit="short", width=90),
                Query(
                    "max by (cluster, namespace, instance, hostname)"
                    " (last_over_time(instance_run:training_rank:info{<hosts>}[$__range]))"
                    f" and on (cluster, namespace, instance) {IDLE}"
                ),
            ),
            labels={"hostname": 0, "instance": 0},
            hidden=("cluster", "namespace"),
            sort=("idle GPUs",),
            width=8,
            empty="none",
        ),
        Lanes(
            "Least used GPUs",
            "Utilisation of the 24 GPUs that are used least, over time.",
            Query(
                "max by (instance, gpu) (training_gpu_utilization_ratio{<gpus>}"
                " and bottomk(24, avg_over_time(training_gpu_utilization_ratio{<gpus>}[$__range] @ end())))",
                "{{instance}} GPU {{gpu}}",
            ),
            width=16,
            low=0,
            high=1,
            reverse=True,
        ),
    ),
    height=9,
    collapsed=True,
)

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
            Query("sum by (reason) (instance_reason:training_gpu_throttled:sum{<hosts>})", "{{reason}}"),
            stacked=True,
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
            empty="not told",
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
                " * on (cluster, namespace, instance, gpu) group_left (run)"
                " instance_gpu:training_rank:info{<gpus>}))",
                "{{run}}",
            ),
        ),
    ),
    collapsed=True,
)

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

DASHBOARD = Dashboard(
    "TrainBeacon / Hardware",
    "The GPUs and hosts of one run or of all: what is broken, what is held down, what stands idle.",
    (NOW, USE, GPUS, ERRORS, EFFICIENCY, HOSTS, DCGM, NODE),
    variables=(*PLACES, RUNS, HOST, GPU),
    selectors={"hosts": ON_HOST, "gpus": f'{ON_HOST}, gpu=~"$gpu"'} | SELECTORS,
    annotations=FLEET_ANNOTATIONS,
    since="now-1h",
)
