"""One run: is it healthy, does it learn, and if not, which rank is it and since when."""

from __future__ import annotations

from grafana.common import ALERT_COLORS, ANNOTATIONS, PHASES, SELECTORS, STATES, VARIABLES
from grafana.dashboard import Dashboard, Row
from grafana.panels import Band, BarGauge, Heatmap, Query, Stat, StateTimeline, Table, TimeSeries

# As in the rules: a rank counts as silent from 10 s, as lost from 30 s; a run as stalled from 120 s.
SILENT = ((None, "transparent"), (10, "orange"), (30, "red"))
SLOW = ((None, "transparent"), (120, "orange"))
STALLED = ((None, "transparent"), (120, "red"))
ANY = ((None, "transparent"), (1, "red"))
SUSPICIONS = {
    5: ("crashed", "red"),
    4: ("missing", "red"),
    3: ("silent", "red"),
    2: ("ended", "orange"),
    1: ("in another phase", "orange"),
}

# Why a rank is under suspicion, the strongest reason as the highest number.
SUSPICION = (
    "6 - max by (rank) (run_rank:training_suspect:reason{<ranks>} or run_rank:training_lost:reason{<ranks>})"
)
SILENCE = "time() - max by (rank) (last_over_time(training_heartbeat_timestamp_seconds{<ranks>}[15m]))"
# Steps since the loss was last finite: most on the rank that was first, as the alert judges it.
NONFINITE = (
    "scalar(max(training_step{<run>})) - max by (rank) (run_rank:training_last_finite_step:estimate{<ranks>})"
)
# The ranks worth a look, however many there are. What vanished is kept for 15 minutes.
WORST = f" and on (rank) topk(8, 1000 * ({SUSPICION}) or on (rank) ({NONFINITE}) or on (rank) {SILENCE})"
STATE = (
    "max by (rank, state) (run_rank:training_state:newest_start{<ranks>})"
    " or on (rank) max by (rank, state) (last_over_time(training_state{<ranks>}[15m]) == 1)"
)
PLACE = (
    "max by (rank, hostname, gpu) (run_rank:training_rank:info{<ranks>})"
    " or on (rank) max by (rank, hostname, gpu) (last_over_time(run_rank:training_rank:info{<ranks>}[15m]))"
)
BEHIND = "scalar(max(training_step{<run>})) - max by (rank) (last_over_time(training_step{<ranks>}[15m]))"

# One number for each phase makes a rank one lane, and a greater one marks its silence; `@ end()` keeps
# the same ranks over the time shown.
LANE_COLORS = dict(enumerate([*PHASES.items(), ("silent", "red")], 1))
LANE = " or ".join(
    f'{i} * run_rank:training_phase:current{{<ranks>, phase="{phase}"}}' for i, phase in enumerate(PHASES, 1)
)
MUTE = f"{len(LANE_COLORS)} * (run_rank:training_silence_seconds:age{{<ranks>}} > bool 0)"
HEARD = "max by (rank) (last_over_time(training_heartbeat_timestamp_seconds{<ranks>}[15m] @ end()))"
LANES = f"max by (rank) ({LANE} or {MUTE}) and on (rank) bottomk(24, {HEARD})"

PHASE_RATE = "rate(training_phase_seconds_total{<ranks>}[$__rate_interval])"
OWN = 'training_phase_seconds_total{<ranks>, phase=~"data_wait|h2d|forward|optimizer|other"}'
STEP_RATE = "sum by (le) (rate(training_step_duration_seconds_bucket{<ranks>}[$__rate_interval]))"
EVENTS = "sum(increase({}{{<ranks>}}[$__rate_interval]))"
OF_GPUS = " and on (cluster, namespace, instance, gpu) instance_gpu:training_rank:info{<ranks>}"
OF_HOSTS = " and on (cluster, namespace, instance) training_rank_info{<ranks>}"

GLANCE = Row(
    "At a glance",
    (
        Stat(
            "Ranks",
            "By the state of their process. Silent: no sign of life for 10 s; missing: not served at all.",
            (
                Query("count by (state) (run_rank:training_state:newest_start{<ranks>})", "{{state}}"),
                Query("count(run_rank:training_silence_seconds:age{<ranks>})", "silent"),
                Query(
                    "max(run:training_world_size:max{<run>})"
                    " - count(run_rank:training_state:newest_start{<run>}) > 0",
                    "missing",
                ),
            ),
            width=5,
            colors=STATES,
            empty="not served",
        ),
        Stat(
            "Last step",
            "Time since the run's last step; and the same, start-up, evaluation and checkpoints excused, as"
            " TrainingStalled judges it.",
            (
                Query(
                    "time() - max(run:training_last_progress_timestamp_seconds:max{<run>})",
                    "ago",
                    thresholds=SLOW,
                ),
                Query(
                    "max(run:training_standstill_seconds:age{<run>})", "standing still", thresholds=STALLED
                ),
            ),
            width=4,
            decimals=0,
            empty="not served",
        ),
        Stat("Step", "Last completed step.", "max(training_step{<ranks>})"),
        Stat(
            "Done",
            "Steps completed of those planned.",
            "max(training_step{<run>}) / max(training_steps_planned{<run>})",
            unit="percentunit",
            empty="no plan",
        ),
        Stat(
            "Time left",
            "For the steps planned, at the present pace.",
            "(max(training_steps_planned{<run>}) - max(training_step{<run>}))"
            " / max(rate(training_steps_total{<run>}[$__rate_interval]) > 0)",
            unit="s",
            decimals=0,
            empty="unknown",
        ),
        Stat("Loss", "Training loss, mean over the ranks.", 'avg(training_loss{<ranks>, split="train"})'),
        Stat(
            "Accuracy",
            "Validation accuracy, mean over the ranks.",
            'avg(training_accuracy_ratio{<ranks>, split="validation"})',
            width=3,
        ),
        Stat(
            "Throughput",
            "All ranks together, over about ten seconds.",
            (
                Query("sum(training_samples_per_second{<ranks>})", "samples/s"),
                Query("sum(training_tokens_per_second{<ranks>})", "tokens/s"),
            ),
            width=4,
        ),
        Table(
            "Firing alerts",
            "Alerts of this run. The oldest stands first: that is where to begin.",
            Query(
                "max by (alertname, severity, rank) (time() - ALERTS_FOR_STATE{<run>}"
                ' and ignoring (alertstate) ALERTS{<run>, alertstate="firing"})',
                "since",
                unit="s",
            ),
            width=8,
            height=10,
            labels={"severity": 90, "alertname": 0, "rank": 60},
            colored=("severity",),
            colors=ALERT_COLORS,
            sort=("since",),
            empty="none",
        ),
        Table(
            "Ranks to look at",
            "At most eight: under suspicion, with a loss not finite for most steps (a NaN reaches all ranks"
            " soon after the first), or silent longest.",
            (
                Query(f"({STATE})" + WORST),
                Query("max by (rank, phase) (run_rank:training_phase:current{<ranks>})" + WORST),
                Query(f"({PLACE})" + WORST),
                Query(f"({SUSPICION})" + WORST, "suspicion", mappings=SUSPICIONS),
                Query(f"({SILENCE})" + WORST, "silent", thresholds=SILENT),
                Query(
                    "time() - max by (rank) (training_phase_start_timestamp_seconds{<ranks>})" + WORST,
                    "in phase",
                ),
                Query(f"({BEHIND})" + WORST, "steps behind"),
                Query(f"({NONFINITE})" + WORST, "not finite", thresholds=ANY),
            ),
            width=16,
            height=10,
            labels={"rank": 60, "hostname": 0, "gpu": 60, "state": 90, "phase": 110},
            colored=("state",),
            colors=STATES,
            sort=("suspicion", "not finite", "silent"),
        ),
    ),
    width=2,
    height=4,
)

LEARNING = Row(
    "Learning",
    (
        TimeSeries(
            "Loss",
            "Mean over the ranks. A gap in the line is a loss that is not finite.",
            Query("avg by (split) (training_loss{<ranks>})", "{{split}}"),
            minimum=None,
        ),
        TimeSeries(
            "Accuracy",
            "Mean over the ranks.",
            Query("avg by (split) (training_accuracy_ratio{<ranks>})", "{{split}}"),
            minimum=None,
        ),
        TimeSeries(
            "Learning rate",
            "Of each parameter group of the optimizer.",
            Query("max by (group) (training_learning_rate{<ranks>})", "group {{group}}"),
            width=6,
        ),
        Band(
            "Gradient norm",
            "Before clipping. The ranks of a data-parallel run agree: the band is a line.",
            "training_gradient_norm{<ranks>}",
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
)

THROUGHPUT = Row(
    "Throughput",
    (
        TimeSeries("Samples per second", "All ranks together.", "sum(training_samples_per_second{<ranks>})"),
        TimeSeries("Tokens per second", "All ranks together.", "sum(training_tokens_per_second{<ranks>})"),
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
            "Steps by duration", "Steps a second in each bucket.", Query(STEP_RATE, "{{le}}"), unit="cps"
        ),
    ),
)

TIME = Row(
    "Where the time goes",
    (
        TimeSeries(
            "Phases",
            "Share of the ranks' wall time by what the host did. Waiting for other ranks shows as backward.",
            Query(f"sum by (phase) ({PHASE_RATE}) / scalar(sum({PHASE_RATE}))", "{{phase}}"),
            unit="percentunit",
            stacked=True,
            maximum=1,
            colors=PHASES,
        ),
        TimeSeries(
            "Difference between ranks",
            "Share of time in a phase, highest rank less lowest. A slow rank stands out where it is slow.",
            Query(f"max by (phase) ({PHASE_RATE}) - min by (phase) ({PHASE_RATE})", "{{phase}}"),
            unit="percentunit",
            colors=PHASES,
        ),
        StateTimeline(
            "Present phase by rank",
            "The 24 ranks that were heard of longest ago. A lane that ends is a rank that died; a lane that"
            " differs from all others is the rank that the others wait for.",
            Query(LANES, "rank {{rank}}"),
            width=24,
            height=9,
            mappings=LANE_COLORS,
        ),
    ),
    width=12,
    height=8,
)

RANKS = Row(
    "Ranks",
    (
        TimeSeries(
            "States",
            "Ranks by the state of their process, and the number of ranks that the launcher started.",
            (
                Query("count by (state) (run_rank:training_state:newest_start{<ranks>})", "{{state}}"),
                Query("max(run:training_world_size:max{<run>})", "world size"),
            ),
            colors=STATES,
            dashed=("world size",),
        ),
        Band(
            "Silence",
            "Time since a rank's last sign of life. One comes each second; the scrape interval adds to it.",
            "time() - training_heartbeat_timestamp_seconds{<ranks>}",
        ),
        Band(
            "Steps behind",
            "Behind the rank that is furthest.",
            "scalar(max(training_step{<run>})) - training_step{<ranks>}",
        ),
        BarGauge(
            "Most work of their own",
            "Time outside backward and communication. Whoever stands clear of the rest makes them wait.",
            Query(f"topk(8, sum by (rank) (rate({OWN}[$__rate_interval])))", "rank {{rank}}"),
            unit="percentunit",
            maximum=1,
        ),
    ),
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
        Band(
            "Process memory", "Resident memory of a rank.", "training_process_resident_memory_bytes{<ranks>}"
        ),
        Band(
            "Process CPU",
            "Processor time of a rank; 100 % is one core.",
            "rate(training_process_cpu_seconds_total{<ranks>}[$__rate_interval])",
            unit="percentunit",
        ),
    ),
)

CHECKPOINTS = Row(
    "Checkpoints",
    (
        TimeSeries(
            "Age of the last good checkpoint",
            "What a crash now would cost in time.",
            "time() - max(training_checkpoint_last_success_timestamp_seconds{<ranks>})",
        ),
        TimeSeries(
            "Steps since the last good checkpoint",
            "What a crash now would cost in steps.",
            "max(training_step{<ranks>}) - max(training_checkpoint_step{<ranks>})",
        ),
        TimeSeries(
            "Time spent on checkpoints",
            "Share of the time of the rank that spends most.",
            "max(rate(training_checkpoint_seconds_total{<ranks>}[$__rate_interval]))",
            unit="percentunit",
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
    ),
)

DASHBOARD = Dashboard(
    "TrainBeacon / Run",
    "One run: is it healthy, does it learn, and if not, which rank is it and since when.",
    (GLANCE, LEARNING, THROUGHPUT, TIME, RANKS, HARDWARE, CHECKPOINTS),
    variables=VARIABLES,
    selectors=SELECTORS,
    annotations=ANNOTATIONS,
)
