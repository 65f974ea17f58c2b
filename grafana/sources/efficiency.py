"""What was paid for and what became of it: GPU-hours and money by kind, project, owner, run and week.

All of it is added up from one recorded series, the GPU-seconds by run and kind of each evaluation.
"""

from __future__ import annotations

from grafana.common import FLEET_ANNOTATIONS, PLACE, SELECTORS, link
from grafana.dashboard import Dashboard, Row, TextVariable, Variable
from grafana.panels import BarGauge, Query, Stat, TimeSeries
from grafana.tables import Table

SPENT = "run_kind:training_gpu_seconds:increase"
HELD, WASTED = "run:training_gpu_seconds:increase", "run:training_lost_gpu_seconds:increase"
OF_SPENT = f'{PLACE}, project=~"$project", owner=~"$owner", counted=~"$counted", run=~"$run"'
OF_RUNS = f'{PLACE}, project=~"$project", owner=~"$owner", run=~"$run"'
PRODUCTIVE = 'kind="productive"'
LOST = 'kind!~"productive|unknown"'
OF_A_RUN = 'run!=""'
KEY = "by (cluster, namespace, run)"
ON_RUN = "on (cluster, namespace, run)"

# Grafana puts the points of a step of seven days where Unix time's weeks begin, on Thursday at 00:00 UTC. The
# week around it, from Monday to Sunday, ends four days later.
AROUND_THURSDAY = "-4d"
#: Of a line: over a quarter of a year each reads the series of thousands of runs.
POINTS = 150
#: What GPU time goes into, and how it is drawn.
KINDS = {
    "productive": "green",
    "startup": "#8e8e8e",
    "restart": "#705da0",
    "stalled": "red",
    "data_wait": "#ff9830",
    "checkpoint": "#fade2a",
    "evaluation": "#b877d9",
    "straggler": "#f2495c",
    "idle": "#5794f2",
    "other": "#5a5a5a",
    "unknown": "#3a3a3a",
}


def spent(by: str, kinds: str = "", window: str = "$__range", offset: str = "") -> str:
    """GPU-seconds of a window by labels; the series without kinds are a fifth as many."""
    name = SPENT if kinds or "kind" in by else HELD
    if kinds.startswith(LOST) and "kind" not in by:
        name, kinds = WASTED, kinds.removeprefix(LOST).removeprefix(", ")
    return f"sum {by} (sum_over_time({name}{{<spent>{', ' if kinds else ''}{kinds}}}[{window}]{offset}))"


def hours(by: str = "", kinds: str = "", window: str = "$__range", offset: str = "") -> str:
    """GPU-hours of a window by labels."""
    return f"{spent(by, kinds, window, offset)} / 3600"


def share(by: str) -> str:
    """Share of what was held that was productive."""
    return f"({spent(by, PRODUCTIVE)} or 0 * {spent(by)}) / ({spent(by)} > 0)"


# What a GPU-hour costs in each cluster: by OpenCost where it is, also where its own scrape names no cluster,
# else as typed in.
COST = "cluster:node_gpu_hourly_cost:avg"
CLUSTERS = " or ".join(
    f'0 * avg_over_time({name}{{cluster=~"$cluster"}}[$__range])'
    for name in ("cluster:training_gpus_held:sum", "cluster:training_gpus_idle:count")
)
PRICE = (
    f'avg_over_time({COST}{{cluster=~"$cluster"}}[$__range])'
    f' or on (cluster) ({CLUSTERS}) + on () group_left () avg_over_time({COST}{{cluster=""}}[$__range])'
    f" or on (cluster) ({CLUSTERS}) + $price"
)


def money(*labels: str, kinds: str = "") -> str:
    """What the GPU-hours cost."""
    by = f"by ({', '.join(dict.fromkeys(('cluster', *labels)))})"
    total = f" by ({', '.join(labels)})" if labels else ""
    return f"sum{total} ({hours(by, kinds)} * on (cluster) group_left () ({PRICE}))"


def weighted(ratio: str) -> str:
    """The mean of a ratio of the runs, weighted by the GPU time of those that know it."""
    mean = f"avg_over_time({ratio}{{<runs>}}[$__range])"
    return f"sum({spent(KEY)} * {ON_RUN} {mean}) / sum({spent(KEY)} and {ON_RUN} {mean})"


def over_time(ratio: str) -> str:
    """The mean of a ratio of the runs chosen, at each time."""
    return (
        f"avg(avg_over_time({ratio}{{<runs>}}[$__interval])"
        f" and {ON_RUN} last_over_time(run:training_ownership:info{{<owned>}}[$__interval]))"
    )


OF_RUN = "by (cluster, namespace, run, project, owner)"
WORST = f"topk(20, {hours(OF_RUN, f'{LOST}, {OF_A_RUN}')})"
MFU, OFU = "run:training_mfu_ratio:avg5m", "run:training_ofu_ratio:avg5m"

ANSWER = Row(
    "What was paid for, and what became of it",
    (
        Stat(
            "GPU-hours held",
            "From the start of a rank's process to the end of its run; and GPUs that no run is on.",
            hours(),
            unit="short",
            decimals=1,
        ),
        Stat(
            "Productive",
            "Share of the GPU-hours held in which steps were made that no restart took back.",
            share(""),
            unit="percentunit",
            decimals=1,
            thresholds=((None, "red"), (0.5, "orange"), (0.8, "green")),
        ),
        Stat(
            "GPU-hours lost",
            "All that was held and not productive, but for runs that keep no account of it.",
            hours(kinds=LOST),
            unit="short",
            decimals=1,
        ),
        Stat(
            "Cost",
            "Of the GPU-hours held, by OpenCost's price of a GPU where it is, else by the price typed in.",
            money(),
            unit="short",
            decimals=1,
        ),
        Stat(
            "Cost of what was lost",
            "Of the GPU-hours lost, by the same price.",
            money(kinds=LOST),
            unit="short",
            decimals=1,
        ),
        Stat(
            "MFU and OFU",
            "Mean, weighted by GPU-hours. MFU: FLOPs of the model over the peak. OFU: what tensor cores and"
            " clocks show of the same.",
            (Query(weighted(MFU), "MFU"), Query(weighted(OFU), "OFU")),
            unit="percentunit",
            decimals=1,
            empty="unknown",
        ),
        BarGauge(
            "Lost to what",
            "GPU-hours by kind. Restart: from the end of an attempt to the last step made again. Straggler:"
            " waiting for a rank named as slow. Idle: GPUs whose rank has ended while others live, or that no"
            " run is on.",
            Query(f"sort_desc({hours('by (kind)', LOST)})", "{{kind}}"),
            unit="short",
            decimals=1,
            width=9,
            height=10,
            colors=KINDS,
            empty="nothing",
        ),
        Table(
            "Worst runs",
            "The twenty that lost most GPU-hours. A click on a name leads to the run.",
            (
                Query(WORST, "lost", unit="short", decimals=1, width=80),
                Query(
                    f"({share(OF_RUN)}) and {ON_RUN} {WORST}",
                    "productive",
                    unit="percentunit",
                    decimals=0,
                    width=90,
                ),
                Query(
                    f"avg {KEY} (avg_over_time({MFU}{{<runs>}}[$__range])) and {ON_RUN} {WORST}",
                    "MFU",
                    unit="percentunit",
                    decimals=0,
                    width=60,
                ),
            ),
            width=15,
            height=10,
            labels={"run": 0, "project": 90, "owner": 90, "cluster": 90, "namespace": 90},
            sort=("lost",),
            links={"run": link("run", run="run")},
            empty="none",
        ),
    ),
    width=4,
    height=4,
)


def table(label: str, title: str) -> Table:
    """What each value of a label held, lost and cost."""
    by = f"by ({label})"
    return Table(
        title,
        f"GPU-hours, the share that was productive, and what the rest has cost. The empty {label} is of those"
        " that name none, and of idle GPUs.",
        (
            Query(hours(by), "held", unit="short", decimals=1, width=64),
            Query(share(by), "productive", unit="percentunit", decimals=0, width=84),
            Query(hours(by, LOST), "lost", unit="short", decimals=1, width=64),
            Query(money(label, kinds=LOST), "cost", unit="short", decimals=1, width=70),
        ),
        labels={label: 0},
        sort=("lost",),
        empty="none",
    )


WHOSE = Row(
    "Whose",
    (table("project", "By project"), table("owner", "By owner"), table("cluster", "By cluster")),
    width=8,
    height=8,
)

OVER_TIME = Row(
    "Since when",
    (
        TimeSeries(
            "GPUs by what they were held for",
            "GPU-hours an hour over each step of the picture: as many GPUs as were held.",
            Query(
                f"{spent('by (kind)', window='$__interval')} / ($__interval_ms / 1000)", "{{kind}}", step="5m"
            ),
            points=POINTS,
            unit="short",
            stacked=True,
            colors=KINDS,
        ),
        TimeSeries(
            "By week",
            "GPU-hours by what they went into, Monday to Sunday in UTC. A bar stands on its week's Thursday:"
            " that of the present week is there from then on.",
            Query(
                hours("by (kind)", window="7d", offset=f" offset {AROUND_THURSDAY}"), "{{kind}}", step="7d"
            ),
            unit="short",
            bars=True,
            colors=KINDS,
            empty="choose more than a week",
        ),
        TimeSeries(
            "MFU and OFU over time",
            "Mean over the runs. MFU is worked out from the FLOPs that a run says, OFU from tensor cores and"
            " clocks: where they part, one of them is not what it seems.",
            (Query(over_time(MFU), "MFU", step="5m"), Query(over_time(OFU), "OFU", step="5m")),
            points=POINTS,
            unit="percentunit",
            empty="unknown",
        ),
        TimeSeries(
            "GPUs of runs, and idle",
            "Held by runs; and those that answer and that no rank of ours is on.",
            (
                Query('sum(cluster:training_gpus_held:sum{cluster=~"$cluster"})', "of runs"),
                Query('sum(cluster:training_gpus_idle:count{cluster=~"$cluster"})', "idle"),
            ),
            unit="short",
            stacked=True,
            colors={"of runs": "green", "idle": "#5794f2"},
        ),
        TimeSeries(
            "Productive share over time",
            "By project, over each step of the picture.",
            Query(share("by (project)").replace("$__range", "$__interval"), "{{project}}", step="10m"),
            points=POINTS,
            unit="percentunit",
            maximum=1,
        ),
    ),
    width=12,
    height=8,
    collapsed=True,
)

DETAIL = Row(
    "Under way, and slow ranks",
    (
        Table(
            "Expected ends",
            "Of the runs under way, at their pace so far, restarts and pauses included where the run keeps"
            " its history. Absent while it has not said how far it means to go.",
            (
                Query(
                    f"max {KEY} (run:training_expected_end_timestamp_seconds:estimate{{<runs>}}) * 1000",
                    "expected end",
                    unit="dateTimeAsIso",
                    width=170,
                ),
                Query(
                    f"max {KEY} (run:training_expected_end_timestamp_seconds:estimate{{<runs>}}) - time()",
                    "time left",
                    unit="s",
                    decimals=1,
                    width=100,
                ),
                Query(
                    f"max {KEY} (run:training_progress:ratio{{<runs>}})",
                    "done",
                    unit="percentunit",
                    decimals=0,
                    width=70,
                ),
                Query(f"max {KEY} (run:training_world_size:max{{<runs>}})", "ranks", unit="short", width=70),
            ),
            labels={"run": 0, "cluster": 90},
            hidden=("namespace",),
            sort=("time left",),
            links={"run": link("run", run="run")},
            empty="none",
        ),
        Table(
            "What stragglers cost",
            "GPU-hours that a run lost to waiting for its slowest rank, where one is named: how much longer"
            " than the middle rank it takes for its own part of a step, times all ranks. The twelve dearest.",
            (
                Query(
                    "topk(12, sum by (cluster, namespace, run, rank, hostname, cause) (sum_over_time("
                    "run_rank_cause:training_straggler_gpu_seconds:increase{<runs>}[$__range]))) / 3600",
                    "GPU-hours",
                    unit="short",
                    decimals=2,
                    width=100,
                ),
            ),
            labels={"run": 0, "rank": 60, "hostname": 130, "cause": 90, "cluster": 90},
            unit="none",
            hidden=("namespace",),
            sort=("GPU-hours",),
            links={"run": link("run", run="run"), "rank": link("ranks", run="run", rank="rank")},
            empty="none",
        ),
    ),
    width=12,
    height=8,
    collapsed=True,
)

DASHBOARD = Dashboard(
    "TrainBeacon / Efficiency",
    "What was paid for and what became of it: GPU-hours and money by kind, project, owner, run and week.",
    (ANSWER, WHOSE, OVER_TIME, DETAIL),
    variables=(
        Variable("cluster", "Cluster", f"label_values({SPENT}, cluster)"),
        Variable("namespace", "Namespace", f'label_values({SPENT}{{cluster=~"$cluster"}}, namespace)'),
        Variable("project", "Project", f"label_values({SPENT}{{<place>}}, project)"),
        Variable("owner", "Owner", f'label_values({SPENT}{{<place>, project=~"$project"}}, owner)'),
        Variable("counted", "Counted by", f"label_values({SPENT}{{<place>}}, counted)"),
        Variable(
            "run", "Run", f'label_values({SPENT}{{<place>, project=~"$project", owner=~"$owner"}}, run)'
        ),
        TextVariable("price", "Price of a GPU-hour", "2"),
    ),
    selectors=SELECTORS | {"spent": OF_SPENT, "owned": OF_RUNS},
    annotations=FLEET_ANNOTATIONS,
    since="now-30d",
)
