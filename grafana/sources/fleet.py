"""All runs: which one needs a person, and how much of the GPU time becomes progress."""

from __future__ import annotations

from grafana.common import (
    ALERT_COLORS,
    ALERTS,
    CONDITIONS,
    FLEET_ANNOTATIONS,
    KINDS,
    PLACES,
    RUNS,
    SELECTORS,
    SEVERITIES,
    STALLED,
    above,
    link,
    since,
    urgency,
)
from grafana.dashboard import Dashboard, Row
from grafana.panels import Query, Stat, StateTimeline, TimeSeries
from grafana.tables import Table

KEY = "by (cluster, namespace, run)"
# A run that has ended is kept for a quarter of an hour.
CONDITION = f"max {KEY} (last_over_time(run:training_condition:worst{{<runs>}}[15m]))"
OURS = f'<place>, alertname=~"{ALERTS}"'
OF_RUNS = f'{OURS}, run=~"$run|"'
GOODPUT = (
    f'sum {KEY} (training_run_seconds{{<runs>, kind="productive"}})'
    f" / sum {KEY} (training_run_seconds{{<runs>}})"
)
RANKS = " * on (cluster, namespace, run) group_left () run:training_world_size:max{<runs>}"
DONE = f"max {KEY} (run:training_step:max{{<runs>}}) / max {KEY} (training_steps_planned{{<runs>}})"
LEFT = (
    f"(max {KEY} (training_steps_planned{{<runs>}}) - max {KEY} (run:training_step:max{{<runs>}}))"
    f" / (max {KEY} (run:training_steps:rate2m{{<runs>}}) > 0)"
)
# The runs in the worst condition over the time shown; `@ end()` keeps the same ones in the whole picture.
WORST = (
    " and on (cluster, namespace, run)"
    " topk(24, max_over_time(run:training_condition:worst{<runs>}[$__range] @ end()))"
)

NOW = Row(
    "Now",
    (
        Stat(
            "Runs",
            "By condition. One that has ended is counted for a quarter of an hour.",
            tuple(
                Query(f"count(({CONDITION}) == {number})", text)
                for number, (text, _) in sorted(CONDITIONS.items(), reverse=True)
            ),
            width=8,
            colors=dict(CONDITIONS.values()),
            empty="no run",
        ),
        Stat(
            "Firing alerts",
            "By severity.",
            tuple(
                Query(f'count(ALERTS{{{OF_RUNS}, alertstate="firing", severity="{name}"}})', name)
                for name, _ in SEVERITIES.values()
            ),
            width=5,
            colors=ALERT_COLORS,
        ),
        Stat(
            "GPUs",
            "In use: owned by a running rank. Idle: nobody of ours runs there. Lost: gone to the driver.",
            (
                Query("sum(run:training_gpus:count{<runs>})", "in use"),
                Query(
                    "count(training_gpu_up{<place>} == 1) - count(instance_gpu:training_rank:info{<place>})"
                    " > 0",
                    "idle",
                ),
                Query("count(training_gpu_up{<place>} == 0)", "lost"),
            ),
            width=5,
            colors={"in use": "green", "idle": "orange", "lost": "red"},
            empty="no GPU",
        ),
        Stat(
            "Goodput",
            "Share of the runs' whole time that was progress, weighted by their ranks.",
            f'sum(training_run_seconds{{<runs>, kind="productive"}}{RANKS})'
            f" / sum(training_run_seconds{{<runs>}}{RANKS})",
            width=3,
            unit="percentunit",
            thresholds=((None, "red"), (0.5, "orange"), (0.8, "green")),
            empty="unknown",
        ),
        Stat(
            "MFU",
            "Model FLOPs that the GPUs delivered over their peak, mean over the ranks.",
            "avg(training_mfu_ratio{<runs>})",
            width=3,
            empty="unknown",
        ),
        Table(
            "Runs",
            "One line a run, the worst condition first. A click on its name leads to the run.",
            (
                Query("max by (cluster, namespace, run, project, owner) (training_run_info{<runs>})"),
                Query(CONDITION, "condition", mappings=CONDITIONS, width=110),
                Query(
                    f'count {KEY} (ALERTS{{<runs>, alertstate="firing", severity=~"critical|warning"}})'
                    f" or 0 * {CONDITION}",
                    "alerts",
                    thresholds=above(1, "orange"),
                    width=60,
                ),
                Query(f"max {KEY} (run:training_ranks_running:count{{<runs>}})", "running", width=70),
                Query(f"max {KEY} (run:training_world_size:max{{<runs>}})", "ranks", width=60),
                Query(
                    f"time() - max {KEY} (run:training_last_progress_timestamp_seconds:max{{<runs>}})",
                    "last step",
                    decimals=0,
                    thresholds=STALLED,
                    width=80,
                ),
                Query(f"max {KEY} (run:training_step:max{{<runs>}})", "step", unit="none", width=80),
                Query(DONE, "done", unit="percentunit", decimals=0, width=60),
                Query(LEFT, "time left", unit="s", decimals=1, width=90),
                Query(
                    f'max {KEY} (run:training_loss:avg{{<runs>, split="train"}})',
                    "loss",
                    decimals=3,
                    width=70,
                ),
                Query(
                    f"max {KEY} (run:training_samples_per_second:sum{{<runs>}})",
                    "samples/s",
                    decimals=1,
                    width=90,
                ),
                Query(GOODPUT, "goodput", unit="percentunit", decimals=0, width=80),
                Query(f"avg {KEY} (training_mfu_ratio{{<runs>}})", "MFU", decimals=0, width=60),
                Query(f"max {KEY} (run:training_gpus:count{{<runs>}})", "GPUs", width=60),
                Query(
                    f"max {KEY} (run:training_gpu_utilization_ratio:avg{{<runs>}})",
                    "GPU use",
                    decimals=0,
                    width=80,
                ),
            ),
            width=24,
            height=11,
            labels={"run": 0, "cluster": 80, "namespace": 80, "project": 80, "owner": 80},
            sort=("condition", "alerts"),
            links={"run": link("run", run="run")},
            empty="-",
        ),
    ),
    height=4,
)

WHAT = Row(
    "What is wrong",
    (
        Table(
            "Firing alerts",
            "The most urgent first, and of those the oldest. Those without a run are of the exporter.",
            (
                Query(urgency(OF_RUNS), "severity", mappings=SEVERITIES, width=80),
                Query(since(OF_RUNS), "since", unit="s", decimals=0, width=90),
            ),
            labels={"alertname": 230, "run": 0, "rank": 50, "instance": 120},
            sort=("severity", "since"),
            links={"run": link("run", run="run"), "rank": link("ranks", run="run", rank="rank")},
            empty="none",
        ),
        StateTimeline(
            "Condition of the runs",
            "The 24 runs whose condition was worst in the time shown. A lane that ends: the run is gone.",
            Query(
                f"max by (run) (run:training_condition:worst{{<runs>}}{WORST})",
                "{{run}}",
            ),
            mappings=CONDITIONS,
        ),
    ),
    width=12,
    height=8,
)

PROGRESS = Row(
    "Progress",
    (
        TimeSeries(
            "Pace",
            "Steps a second, as a share of the run's own best in the time shown. The ten lowest.",
            Query(
                "bottomk(10, max by (run) (run:training_steps:rate2m{<runs>}"
                " / max_over_time(run:training_steps:rate2m{<runs>}[$__range] @ end())))",
                "{{run}}",
            ),
            unit="percentunit",
        ),
        TimeSeries(
            "Samples per second",
            "The ten runs with most.",
            Query("topk(10, max by (run) (run:training_samples_per_second:sum{<runs>}))", "{{run}}"),
        ),
        TimeSeries(
            "Tokens per second",
            "The ten runs with most.",
            Query("topk(10, max by (run) (run:training_tokens_per_second:sum{<runs>}))", "{{run}}"),
        ),
        TimeSeries(
            "Training loss",
            "Mean over the ranks, of at most ten runs. A gap is a loss that is not finite.",
            Query('topk(10, max by (run) (run:training_loss:avg{<runs>, split="train"}))', "{{run}}"),
            minimum=None,
        ),
    ),
)

WORTH = Row(
    "What the time went into",
    (
        TimeSeries(
            "Time of all runs",
            "By what it went into, of late, weighted by ranks.",
            Query(
                "sum by (kind) (rate(training_goodput_seconds_total{<runs>}[$__rate_interval])"
                f"{RANKS}) / scalar(sum(run:training_world_size:max{{<runs>}}))",
                "{{kind}}",
            ),
            unit="percentunit",
            stacked=True,
            maximum=1,
            colors=KINDS,
        ),
        TimeSeries(
            "Goodput of the runs",
            "Share of a run's whole time that was progress. The ten lowest.",
            Query(f"bottomk(10, max by (run) ({GOODPUT}))", "{{run}}"),
            unit="percentunit",
            maximum=1,
        ),
        TimeSeries(
            "GPU utilisation of the runs",
            "Share of time in which a kernel ran, mean over a run's GPUs. The ten lowest.",
            Query("bottomk(10, max by (run) (run:training_gpu_utilization_ratio:avg{<runs>}))", "{{run}}"),
            maximum=1,
        ),
        TimeSeries(
            "GPUs",
            "By whether a rank of ours runs there.",
            (
                Query("sum(run:training_gpus:count{<runs>})", "in use"),
                Query(
                    "count(training_gpu_up{<place>} == 1) - count(instance_gpu:training_rank:info{<place>})",
                    "idle",
                ),
            ),
            stacked=True,
            colors={"in use": "green", "idle": "orange"},
        ),
    ),
)

DASHBOARD = Dashboard(
    "TrainBeacon / Fleet",
    "All runs: which one needs a person, and how much of the GPU time becomes progress.",
    (NOW, WHAT, PROGRESS, WORTH),
    variables=(*PLACES, RUNS),
    selectors=SELECTORS,
    annotations=FLEET_ANNOTATIONS,
    since="now-1h",
)
