"""One run: is it healthy, does it learn, and if not, which rank is it and since when."""

from __future__ import annotations

from grafana.common import (
    ANNOTATIONS,
    KINDS,
    LIMITS,
    PHASES,
    RUN_VARIABLES,
    SELECTORS,
    STATES,
)
from grafana.dashboard import Dashboard, Row
from grafana.panels import Band, BarGauge, Query, Stat, TimeSeries
from grafana.plots import Heatmap
from grafana.rows.suspects import COUNTS, PHASES_BY_RANK, WHO, WHY
from grafana.rows.verdict import verdict

STEP_RATE = "sum by (le) (run_le:training_step_duration_seconds_bucket:rate2m{<run>})"
EVENTS = "sum(increase({}{{<run>}}[$__rate_interval]))"
PHASE = "run_phase:training_phase_seconds:avg2m{<run>}"
WHOLE = "sum(training_run_seconds{<run>})"
# What is left of the time when one kind after the other is taken off.
LEFT = (
    ("whole time", ""),
    ("less idle between attempts", "idle"),
    ("less start-up", "idle|init"),
    ("less lost work", "idle|init|lost"),
    ("less standstill", "idle|init|lost|stalled"),
    ("less checkpoints", "idle|init|lost|stalled|checkpoint"),
    ("less evaluation", "idle|init|lost|stalled|checkpoint|evaluate"),
    ("less waiting for data", "idle|init|lost|stalled|checkpoint|evaluate|data_wait"),
    ("productive", "idle|init|lost|stalled|checkpoint|evaluate|data_wait|other"),
)
OF_GPUS = " and on (cluster, namespace, instance, pod, gpu) instance_gpu:training_rank:info{<run>}"
OF_HOSTS = " and on (cluster, namespace, instance) instance_run:training_rank:info{<run>}"

TIME_LEFT = (
    "(max(training_steps_planned{<run>}) - max(run:training_step:max{<run>}))"
    " / max(run:training_steps:rate2m{<run>} > 0)"
)

GLANCE = Row(
    "At a glance",
    (
        verdict(),
        COUNTS,
        Stat(
            "Last step",
            "Time since the run's last step, also of a run that is gone.",
            "time() - max(last_over_time(run:training_last_progress_timestamp_seconds:max{<run>}[1d]))",
            width=3,
            decimals=0,
            empty="no step in a day",
        ),
        WHY,
        Stat(
            "Step",
            "Last completed step, and that of the last good checkpoint: saved, and before any NaN.",
            (
                Query("max(run:training_step:known{<run>})", "step"),
                Query("max(run:training_checkpoint_step:good{<run>})", "checkpoint"),
            ),
            width=4,
            unit="none",
            empty="not known",
        ),
        Stat(
            "Progress",
            "Steps completed of those planned, and what is left at the present pace.",
            (
                Query("max(run:training_step:known{<run>}) / max(training_steps_planned{<run>})", "done"),
                Query(TIME_LEFT, "left", unit="s"),
            ),
            width=4,
            unit="percentunit",
            decimals=0,
            empty="no plan, or not served",
        ),
        Stat(
            "Loss",
            "Training loss, mean over the ranks; of a run that is gone the last one.",
            'avg(run:training_loss:avg{<run>, split="train"}) or max(run:training_loss:known{<run>})',
            width=2,
            empty="not logged",
        ),
        Stat(
            "Throughput",
            "All ranks together.",
            (
                Query("sum(run:training_samples_per_second:sum{<run>})", "samples/s"),
                Query("sum(run:training_tokens_per_second:sum{<run>}) > 0", "tokens/s"),
            ),
            width=3,
            decimals=0,
            empty="not served",
        ),
        WHO,
        TimeSeries(
            "Loss now",
            "Mean over the ranks. A gap in the line is a loss that is not finite.",
            Query("avg by (split) (run:training_loss:avg{<run>})", "{{split}}"),
            width=5,
            height=8,
            minimum=None,
        ),
        TimeSeries(
            "Pace",
            "Steps a second, over two minutes.",
            "max(run:training_steps:rate2m{<run>})",
            width=5,
            height=8,
            unit="cps",
        ),
    ),
    height=3,
)

LEARNING = Row(
    "Learning",
    (
        TimeSeries(
            "Loss",
            "Mean over the ranks. A gap in the line is a loss that is not finite.",
            Query("avg by (split) (run:training_loss:avg{<run>})", "{{split}}"),
            minimum=None,
        ),
        TimeSeries(
            "Accuracy",
            "Mean over the ranks.",
            Query("avg by (split) (run:training_accuracy_ratio:avg{<run>})", "{{split}}"),
            minimum=None,
            empty="not logged",
        ),
        TimeSeries(
            "Learning rate",
            "Of each parameter group of the optimizer.",
            Query("max by (group) (training_learning_rate{<run>})", "group {{group}}"),
            width=6,
            empty="no optimizer watched",
        ),
        Band(
            "Gradient norm",
            "Before clipping. The ranks of a data-parallel run agree: the band is a line.",
            "training_gradient_norm{<run>}",
            width=12,
            minimum=None,
            log=True,
        ),
        TimeSeries(
            "Spikes and values that are not finite",
            "Events of all ranks. Every loss and gradient norm is judged, not only those scraped.",
            (
                Query(EVENTS.format("training_loss_spikes_total"), "loss spikes"),
                Query(EVENTS.format("training_loss_nonfinite_total"), "losses not finite"),
                Query(EVENTS.format("training_gradient_nonfinite_total"), "gradients not finite"),
                Query(EVENTS.format("training_optimizer_steps_skipped_total"), "steps skipped"),
            ),
            width=12,
            bars=True,
            colors={"losses not finite": "red", "gradients not finite": "orange"},
        ),
    ),
    width=9,
    collapsed=True,
)

THROUGHPUT = Row(
    "Throughput",
    (
        TimeSeries(
            "Samples per second", "All ranks together.", "sum(run:training_samples_per_second:sum{<run>})"
        ),
        TimeSeries(
            "Tokens per second",
            "All ranks together.",
            "sum(run:training_tokens_per_second:sum{<run>})",
            empty="no tokens counted",
        ),
        TimeSeries(
            "Step duration",
            "Quantiles over the steps of all ranks, as exact as the histogram's buckets.",
            (
                Query(f"histogram_quantile(0.99, {STEP_RATE})", "p99"),
                Query(f"histogram_quantile(0.9, {STEP_RATE})", "p90"),
                Query(f"histogram_quantile(0.5, {STEP_RATE})", "median"),
            ),
        ),
        Heatmap(
            "Steps by duration",
            "Share of the steps in each bucket.",
            Query(f"{STEP_RATE} / scalar(max({STEP_RATE}) > 0)", "{{le}}"),
            unit="percentunit",
            low=0,
            high=1,
        ),
    ),
    collapsed=True,
)

TIME = Row(
    "Where the time goes",
    (
        TimeSeries(
            "Phases",
            "Share of the ranks' wall time by what the host did. Waiting for other ranks shows as backward.",
            Query(f"avg by (phase) ({PHASE}) > 0", "{{phase}}"),
            unit="percentunit",
            stacked=True,
            maximum=1,
            colors=PHASES,
        ),
        TimeSeries(
            "Difference between ranks",
            "Share of time in a phase, highest rank less lowest. A slow rank stands out where it is slow.",
            Query("max by (phase) (run_phase:training_phase_seconds:range2m{<run>}) > 0", "{{phase}}"),
            unit="percentunit",
            colors=PHASES,
        ),
        PHASES_BY_RANK,
    ),
    width=12,
    height=8,
    collapsed=True,
)

GOODPUT = Row(
    "Goodput and restarts",
    (
        BarGauge(
            "Where the whole time went",
            "From the run's first start, over all attempts: what is left of the time when one cost after the"
            " other is taken off. The longest fall between two bars is what costs most.",
            tuple(
                Query(f'sum(training_run_seconds{{<run>, kind!~"{cost}"}}) / {WHOLE}', name)
                for name, cost in LEFT
            ),
            width=8,
            height=9,
            maximum=1,
            unit="percentunit",
            thresholds=((None, "red"), (0.5, "orange"), (0.8, "green")),
        ),
        TimeSeries(
            "Goodput",
            "Share of this process's time of late, by what it went into.",
            Query(
                "sum by (kind) (rate(training_goodput_seconds_total{<run>}[$__rate_interval])) > 0",
                "{{kind}}",
            ),
            width=8,
            height=9,
            unit="percentunit",
            stacked=True,
            maximum=1,
            colors=KINDS,
        ),
        TimeSeries(
            "Restarts and steps made twice",
            "Processes of rank 0 that began in the time shown before, and steps that an earlier attempt had"
            " made already.",
            (
                Query(
                    'changes(max(training_start_timestamp_seconds{<run>, rank="0"})[$__range:])',
                    "restarts",
                ),
                Query("sum(max_over_time(training_lost_steps_total{<run>}[$__range]))", "steps made twice"),
            ),
            width=8,
            height=9,
            unit="short",
            soft_maximum=1,
        ),
    ),
    collapsed=True,
)

RANKS = Row(
    "Ranks",
    (
        TimeSeries(
            "States",
            "Ranks by the state of their process, and the number of ranks that the launcher started.",
            (
                Query("count by (state) (run_rank:training_state:newest_start{<run>})", "{{state}}"),
                Query("max(run:training_world_size:max{<run>})", "world size"),
            ),
            colors=STATES,
            dashed=("world size",),
        ),
        TimeSeries(
            "Phases of the ranks",
            "Ranks by the phase that they are in at the moment of the scrape.",
            Query("sum by (phase) (run_phase:training_ranks:count{<run>}) > 0", "{{phase}}"),
            stacked=True,
            colors=PHASES,
        ),
        Band(
            "Silence",
            "Time since a rank's last sign of life. One comes each second; the scrape interval adds to it.",
            "time() - training_heartbeat_timestamp_seconds{<run>}",
        ),
        BarGauge(
            "Who holds the others up",
            "Share of the run's time that is lost to waiting for a rank: the eight that cost most.",
            Query("topk(8, max by (rank) (run_rank:training_self_excess_ratio:45s{<run>}))", "rank {{rank}}"),
            thresholds=((None, "blue"), (LIMITS["straggler_ratio_max"], "red")),
            maximum=5 * LIMITS["straggler_ratio_max"],
            empty="no collectives",
        ),
    ),
    collapsed=True,
)

HARDWARE = Row(
    "Hardware",
    (
        Band(
            "GPU utilisation",
            "Share of time in which a kernel ran, over the GPUs of this run.",
            "training_gpu_utilization_ratio" + OF_GPUS,
            maximum=1,
        ),
        Band(
            "GPU memory",
            "Share in use by all processes, over the GPUs of this run.",
            "training_gpu_memory_used_bytes / training_gpu_memory_total_bytes" + OF_GPUS,
            unit="percentunit",
            maximum=1,
        ),
        Band(
            "GPU temperature",
            "Over the GPUs of this run.",
            "training_gpu_temperature_celsius" + OF_GPUS,
            minimum=None,
        ),
        Band("GPU power", "Over the GPUs of this run.", "training_gpu_power_watts" + OF_GPUS),
        Band(
            "Host CPU",
            "Share of processor time in use, over the nodes of this run.",
            "training_host_cpu_ratio" + OF_HOSTS,
            maximum=1,
        ),
        TimeSeries(
            "Host memory",
            "Share in use on the fullest node of this run.",
            (
                Query(
                    f"max(training_host_memory_used_bytes / training_host_memory_total_bytes{OF_HOSTS})",
                    "memory",
                ),
                Query(
                    "max(training_host_shared_memory_used_bytes / training_host_shared_memory_total_bytes"
                    f"{OF_HOSTS})",
                    "shared memory",
                ),
            ),
            unit="percentunit",
            maximum=1,
        ),
        Band("Process memory", "Resident memory of a rank.", "training_process_resident_memory_bytes{<run>}"),
        Band(
            "Process CPU",
            "Processor time of a rank; 100 % is one core.",
            "rate(training_process_cpu_seconds_total{<run>}[$__rate_interval])",
            unit="percentunit",
        ),
    ),
    collapsed=True,
)

CHECKPOINTS = Row(
    "Checkpoints",
    (
        TimeSeries(
            "Age of the last good checkpoint",
            "What a crash now would cost in time.",
            "time() - max(training_checkpoint_last_success_timestamp_seconds{<run>})",
            empty="no checkpoint yet",
        ),
        TimeSeries(
            "Steps since the last good checkpoint",
            "What a crash now would cost in steps.",
            "max(run:training_step:max{<run>}) - max(training_checkpoint_step{<run>})",
            empty="no checkpoint yet",
        ),
        TimeSeries(
            "Time spent on checkpoints",
            "Share of the time of the rank that spends most: standing still for them, and until they are on"
            " storage.",
            (
                Query("max(rate(training_checkpoint_seconds_total{<run>}[$__rate_interval]))", "blocked"),
                Query(
                    "max(rate(training_checkpoint_write_seconds_total{<run>}[$__rate_interval]))", "writing"
                ),
            ),
            unit="percentunit",
            soft_maximum=0.01,
        ),
        TimeSeries(
            "Checkpoints begun and failed",
            "All ranks together.",
            (
                Query(EVENTS.format("training_checkpoints_total"), "begun"),
                Query(EVENTS.format("training_checkpoint_failures_total"), "failed"),
            ),
            bars=True,
            colors={"begun": "blue", "failed": "red"},
        ),
        TimeSeries(
            "Size of the last checkpoint",
            "Of the rank that writes most.",
            "max(training_checkpoint_bytes{<run>})",
            empty="no checkpoint yet",
        ),
        TimeSeries(
            "Disk of the checkpoints",
            "Free, and in all, as rank 0 sees it; quotas are not in it.",
            (
                Query("min(run:training_checkpoint_disk_free_bytes:min{<run>})", "free"),
                Query("max(training_checkpoint_disk_total_bytes{<run>})", "size"),
            ),
            empty="not known",
        ),
    ),
    collapsed=True,
)

DASHBOARD = Dashboard(
    "TrainBeacon / Run",
    "One run: is it healthy, does it learn, and if not, which rank is it and since when.",
    (GLANCE, LEARNING, TIME, THROUGHPUT, GOODPUT, RANKS, HARDWARE, CHECKPOINTS),
    variables=RUN_VARIABLES,
    selectors=SELECTORS | {"ranks": SELECTORS["run"]},
    annotations=ANNOTATIONS,
)
