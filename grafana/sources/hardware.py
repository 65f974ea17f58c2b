"""The GPUs and hosts of one run or of all: what is broken, what is held down, what stands idle."""

from __future__ import annotations

from grafana.common import FLEET_ANNOTATIONS, PLACES, RUNS, SELECTORS, above, link
from grafana.dashboard import Dashboard, Row, Variable
from grafana.panels import Query, Stat
from grafana.plots import Lanes
from grafana.rows.gpus import EFFICIENCY, ERRORS, GPUS, HELD_COLORS
from grafana.rows.hosts import HOSTS
from grafana.rows.neighbours import DCGM, NODE
from grafana.rows.verdict import alerts_of
from grafana.tables import Table

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
KEY = "by (cluster, namespace, instance, pod, gpu)"
# Of a GPU in trouble whose it was when that began: a lost one ends its run.
OWNED = "by (cluster, namespace, instance, pod, gpu, hostname, run, rank)"
OWNER = (
    f'max {OWNED} (instance_gpu:training_place:info{{<gpus>, run!=""}})'
    f" or on (cluster, namespace, instance, pod, gpu) max {OWNED} (instance_gpu:training_rank:info{{<gpus>}})"
    f" or on (cluster, namespace, instance, pod, gpu) max {OWNED} (instance_gpu:training_rank:last{{<gpus>}})"
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
WORST = f" and on (cluster, namespace, instance, pod, gpu) topk(8, {BADNESS})"
OF_GPU = "on (cluster, namespace, instance, pod, gpu) instance_gpu:training_rank:info{<gpus>}"
BY_HOST = "by (cluster, namespace, instance)"
IDLE = f"topk(24, count {BY_HOST} (training_gpu_up{{<gpus>}} == 1 unless {OF_GPU}))"
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
            hidden=("cluster", "namespace", "instance", "pod"),
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

DASHBOARD = Dashboard(
    "TrainBeacon / Hardware",
    "The GPUs and hosts of one run or of all: what is broken, what is held down, what stands idle.",
    (NOW, USE, GPUS, ERRORS, EFFICIENCY, HOSTS, DCGM, NODE),
    variables=(*PLACES, RUNS, HOST, GPU),
    selectors={"hosts": ON_HOST, "gpus": f'{ON_HOST}, gpu=~"$gpu"'} | SELECTORS,
    annotations=FLEET_ANNOTATIONS,
    since="now-1h",
)
