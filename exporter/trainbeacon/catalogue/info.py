"""Metrics that say who a run and a rank are, and what the run asks of the rules."""

from __future__ import annotations

from .metric import Label, Metric, facts

#: Limits that a run may set for the rules. Beside these, `metric:<name>_min` and `_max` are taken.
THRESHOLDS = (
    "accuracy_min",
    "anomaly_own_margin_ratio",
    "anomaly_peer_margin_ratio",
    "anomaly_spreads_max",
    "anomaly_warmup_steps",
    "checkpoint_age_seconds_max",
    "checkpoint_ratio_max",
    "checkpoints_that_fit_min",
    "data_wait_ratio_max",
    "evaluate_ratio_max",
    "evaluate_seconds_max",
    "evaluations_patience",
    "goodput_ratio_min",
    "gpu_utilization_ratio_min",
    "gradient_norm_max",
    "gradient_norm_min",
    "inactive_seconds",
    "loss_max",
    "loss_rise_ratio_max",
    "loss_rises_max",
    "loss_spikes_max",
    "phase_seconds_max",
    "rank_silent_seconds",
    "restarts_max",
    "run_seconds_max",
    "slowdown_ratio_max",
    "stall_seconds",
    "straggler_ratio_max",
)

WHO = (
    Metric(
        "who",
        "training_run_info",
        "info",
        "",
        "The run; two run_id under one run mean that two jobs share a name.",
        facts(
            run_id="identity of the job, equal over restarts",
            project="project of the run",
            owner="whom to notify",
            launcher="what started the ranks",
            framework="training framework and version",
        ),
        level="run",
    ),
    Metric(
        "who",
        "training_run_tag_info",
        "info",
        "",
        "Tags of the run.",
        (Label("name", "name of the tag", limit=10), Label("value", "its text", limit=1)),
        level="run",
    ),
    Metric(
        "who",
        "training_rank_info",
        "info",
        "",
        "Where the rank runs; join it only through the recorded info rules.",
        facts(
            local_rank="rank within the node",
            hostname="host name",
            gpu="index of the rank's GPU on its node, empty without one",
            gpu_uuid="UUID of the rank's GPU, empty without one",
        ),
    ),
    Metric(
        "who",
        "training_hyperparameter",
        "gauge",
        "",
        "Numeric hyperparameters of the run.",
        (Label("name", "name of the hyperparameter", limit=20),),
        level="run",
    ),
    Metric(
        "who",
        "training_hyperparameter_info",
        "info",
        "",
        "All hyperparameters of the run as text.",
        (
            Label("name", "name of the hyperparameter", limit=20),
            Label("value", "at most 64 characters", limit=1),
        ),
        level="run",
    ),
    Metric(
        "who",
        "training_threshold",
        "gauge",
        "",
        "Limits that this run sets for the alert rules.",
        (Label("name", "name of the limit", limit=30),),
        level="run",
    ),
)
