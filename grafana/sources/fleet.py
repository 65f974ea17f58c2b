"""All runs: which one needs a person, and how much of the GPU time becomes progress."""

from __future__ import annotations

from grafana.common import (
    ANY,
    CONDITIONS,
    FLEET_ANNOTATIONS,
    KINDS,
    LEVELS,
    PLACED,
    PLACES,
    RUNS,
    SELECTORS,
    link,
    placed,
)
from grafana.dashboard import Dashboard, Row
from grafana.panels import Query, Stat, StateTimeline, TimeSeries
from grafana.rows.verdict import BY, alerts_of, named, quiet, sentences, since, spoken
from grafana.tables import Table

INFO = "by (cluster, namespace, run, project, owner)"
SAID = "by (cluster, namespace, run, alertname, verdict, rank, hostname)"
SEEN = "last_over_time(trainbeacon_build_info{<place>}[1d])"
KEY = "by (cluster, namespace, run)"
# A run that has ended well is kept for a quarter of an hour, one that has not for as long as its alert fires.
CONDITION = f"max {KEY} (last_over_time(run:training_condition:worst{{<runs>}}[15m]))"
SEVERITY = f"max {KEY} (run:training_severity:worst{{<runs>}}) or 0 * {CONDITION}"
VERDICT = f"topk by (cluster, namespace, run) (1, {named('<runs>')})"
LAST_STEP = f"max {KEY} (last_over_time(run:training_last_progress_timestamp_seconds:max{{<runs>}}[1d]))"
STEP = f"max {KEY} (run:training_step:known{{<runs>}})"
GOODPUT = (
    f'sum {KEY} (training_run_seconds{{<runs>, kind="productive"}})'
    f" / sum {KEY} (training_run_seconds{{<runs>}})"
)
RANKS = " * on (cluster, namespace, run) group_left () run:training_world_size:max{<runs>}"
DONE = f"{STEP} / max {KEY} (training_steps_planned{{<runs>}})"
LEFT = (
    f"(max {KEY} (training_steps_planned{{<runs>}}) - {STEP})"
    f" / (max {KEY} (run:training_steps:rate2m{{<runs>}}) > 0)"
)
# The runs that were worst over the time shown; `@ end()` keeps the same ones in the whole picture.
WORST = (
    " and on (cluster, namespace, run)"
    " topk(24, max_over_time(run:training_severity:worst{<runs>}[$__range] @ end()))"
)
OF_GPU = "on (cluster, namespace, instance, pod, gpu) instance_gpu:training_rank:info{<place>}"
GPUS = (
    Query(f"count(training_gpu_up{{<place>}} == 1 and {OF_GPU})", "in use"),
    Query(f"count(training_gpu_up{{<place>}} == 1 unless {OF_GPU})", "idle"),
    Query("count(training_gpu_up{<place>} == 0)", "lost", thresholds=ANY),
)

NOW = Row(
    "Now",
    (
        Stat(
            "Runs",
            "By the worst that fires of them. One that has ended is counted for a quarter of an hour.",
            tuple(
                Query(
                    f"count(({SEVERITY}) == {number}) or vector(0)",
                    name,
                    thresholds=((None, "transparent"), (1, color)),
                )
                for number, (name, color) in LEVELS.items()
            ),
            width=9,
            unit="short",
            spark=True,
        ),
        Stat(
            "GPUs",
            "In use: owned by a running rank. Idle: nobody of ours runs there. Lost: gone to the driver.",
            GPUS,
            width=5,
            unit="short",
            colors={"in use": "green"},
            link=link("hardware"),
            empty="no GPU",
        ),
        Stat(
            "Exporters",
            "One a node: what they do not serve is not on this page.",
            (
                Query("count(up{<place>} == 1 and on (job, instance) trainbeacon_build_info{<place>})", "up"),
                Query(f"count(up{{<place>}} == 0 and on (job, instance) {SEEN})", "down", thresholds=ANY),
            ),
            width=4,
            unit="short",
            link="/d/trainbeacon-exporter?${datasource:queryparam}&${__url_time_range}",
        ),
        Stat(
            "Goodput",
            "Share of the runs' whole time that was progress, weighted by their ranks.",
            f'sum(training_run_seconds{{<runs>, kind="productive"}}{RANKS})'
            f" / sum(training_run_seconds{{<runs>}}{RANKS})",
            width=3,
            unit="percentunit",
            decimals=0,
            empty="no run",
            spark=True,
        ),
        Stat(
            "MFU",
            "Model FLOPs that the GPUs delivered over their peak, mean over the ranks.",
            "avg(training_mfu_ratio{<runs>})",
            width=3,
            decimals=0,
            empty="not reported",
            spark=True,
        ),
        Table(
            "Runs",
            "One line a run, what needs a person first, in the words of the alert that fires. A dead run, or"
            " one out of sight, stays with what was last known. A click leads to the run, rank or host.",
            (
                Query(placed(f"max {INFO} (run:training_run:known{{<runs>}})")),
                Query(SEVERITY, "severity", unit="short", mappings=LEVELS, width=70),
                Query(f"max {SAID} ({spoken(VERDICT)} or {quiet('<runs>')})"),
                Query(f"max {KEY} ({since(VERDICT, BY, '<runs>')})", "since", unit="s", decimals=0, width=66),
                Query(CONDITION, "condition", unit="short", width=108, mappings=CONDITIONS, plain=True),
                Query(f"time() - {LAST_STEP}", "last step", decimals=0, width=74),
                Query(STEP, "step", unit="none", width=64),
                Query(DONE, "done", unit="percentunit", decimals=0, width=50),
                Query(LEFT, "left", unit="s", decimals=0, width=70),
                Query(f"max {KEY} (run:training_loss:known{{<runs>}})", "loss", decimals=3, width=58),
                Query(GOODPUT, "goodput", unit="percentunit", decimals=0, width=70),
                Query(f"avg {KEY} (training_mfu_ratio{{<runs>}})", "MFU", decimals=0, width=48),
                Query(f"max {KEY} (run:training_world_size:max{{<runs>}})", "ranks", width=52),
            ),
            width=24,
            height=10,
            labels={
                "run": 0,
                "verdict": 250,
                "rank": 42,
                "hostname": 112,
                "owner": 85,
                "project": 85,
                "cluster": 80,
                "namespace": 80,
            },
            first=(
                *("severity", "run", "verdict", "rank", "hostname", "since", "condition", "last step"),
                *("step", "done", "left", "loss", "goodput", "MFU", "ranks"),
            ),
            kept=("alertname", *PLACED.values()),
            texts={"verdict": sentences()},
            least=165,
            sort=("severity", "since"),
            links={
                "run": link("run", run="run", **PLACED),
                "verdict": link("run", run="run", **PLACED),
                "rank": link("ranks", run="run", rank="rank", **PLACED),
                "hostname": link("hardware", run="run", **PLACED),
            },
            empty="-",
        ),
        alerts_of(
            "What fires beside the runs",
            "Of nodes and exporters on which no run of ours is known, and of the watchers themselves.",
            '<place>, run=""',
            wide=True,
            width=24,
            height=4,
        ),
    ),
    height=3,
)

WHAT = Row(
    "Since when",
    (
        alerts_of(
            "Firing alerts",
            "All of them, the most urgent first. A click on the sentence leads to the runbook.",
            "<runs>",
        ),
        StateTimeline(
            "Severity of the runs",
            "The 24 runs that were worst in the time shown. A lane that ends: the run is gone.",
            Query(f"max by (run) (run:training_severity:worst{{<runs>}}{WORST})", "{{run}}"),
            unit="short",
            mappings=LEVELS,
        ),
    ),
    width=12,
    height=9,
    collapsed=True,
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
    collapsed=True,
)

WORTH = Row(
    "What the time went into",
    (
        TimeSeries(
            "Time of all runs",
            "By what it went into, of late, weighted by ranks.",
            Query(
                "sum by (kind) (rate(training_goodput_seconds_total{<runs>}[$__rate_interval])"
                f"{RANKS}) / scalar(sum(run:training_world_size:max{{<runs>}})) > 0",
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
            (*GPUS[:2],),
            stacked=True,
            colors={"in use": "green", "idle": "blue"},
        ),
    ),
    collapsed=True,
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
