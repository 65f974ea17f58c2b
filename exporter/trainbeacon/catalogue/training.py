"""Metrics of the training itself: quality, gradients and weights, progress, time, life, checkpoints."""

from __future__ import annotations

from .model import Label, Metric, facts

SPLITS = ("train", "validation", "test")
PHASES = (
    "init",
    "resume",
    "compile",
    "warmup",
    "data_wait",
    "h2d",
    "forward",
    "backward",
    "optimizer",
    "communication",
    "evaluate",
    "checkpoint",
    "other",
)
STATES = ("running", "finished", "failed", "exited", "crashed")
STEP_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0)

_SPLIT = Label("split", "the data the value was computed on", SPLITS)
_PHASE = Label("phase", "what the host was doing", PHASES)
_STATE = Label("state", "life of the training process", STATES)
_GROUP = Label("group", "index of the optimizer's parameter group", ("0", "1", "2", "3"))

_QUALITY = (
    Metric("quality", "training_loss", "gauge", "", "Loss as last logged.", (_SPLIT,)),
    Metric(
        "quality", "training_accuracy_ratio", "gauge", "ratio", "Accuracy as last logged, 0 to 1.", (_SPLIT,)
    ),
    Metric(
        "quality",
        "training_metric",
        "gauge",
        "",
        "Any scalar that the script logs under a name of its own (precision, perplexity, ...).",
        (Label("name", "the name given to log()", limit=40), _SPLIT),
        level="run",
    ),
    Metric(
        "quality",
        "training_evaluations_since_best",
        "gauge",
        "",
        "Evaluations since the lowest loss of that split; 0 when the last evaluation was the best.",
        (_SPLIT,),
    ),
    Metric(
        "quality",
        "training_loss_spikes_total",
        "counter",
        "",
        "Training losses that stood far above their own recent course; every logged one is judged.",
    ),
    Metric(
        "quality",
        "training_loss_nonfinite_total",
        "counter",
        "",
        "Training losses that were NaN or infinite; every logged one is judged.",
    ),
    Metric(
        "quality",
        "training_learning_rate",
        "gauge",
        "",
        "Learning rate of the optimizer's parameter group.",
        (_GROUP,),
    ),
)

_GRADIENTS = (
    Metric(
        "gradients and weights",
        "training_gradient_norm",
        "gauge",
        "",
        "Norm of all gradients before clipping.",
    ),
    Metric(
        "gradients and weights",
        "training_gradient_clipped_total",
        "counter",
        "",
        "Steps whose gradients were scaled down by clip_grad_norm_.",
    ),
    Metric(
        "gradients and weights",
        "training_gradient_nonfinite_total",
        "counter",
        "",
        "Steps whose gradient norm was NaN or infinite.",
    ),
    Metric(
        "gradients and weights",
        "training_parameter_norm",
        "gauge",
        "",
        "L2 norm of the trained parameters, sampled.",
    ),
    Metric(
        "gradients and weights",
        "training_update_ratio",
        "gauge",
        "ratio",
        "Norm of an optimizer step over the norm of the parameters, sampled over part of the weights.",
    ),
    Metric(
        "gradients and weights",
        "training_loss_scale",
        "gauge",
        "",
        "Loss scale of the AMP gradient scaler.",
    ),
    Metric(
        "gradients and weights",
        "training_optimizer_steps_skipped_total",
        "counter",
        "",
        "Optimizer steps that the AMP gradient scaler left out for non-finite gradients.",
    ),
)

_PROGRESS = (
    Metric("progress", "training_step", "gauge", "", "Number of the last completed step of the run."),
    Metric("progress", "training_steps_total", "counter", "", "Steps completed by this process."),
    Metric(
        "progress", "training_steps_planned", "gauge", "", "Steps that the run means to make.", level="run"
    ),
    Metric("progress", "training_epoch", "gauge", "", "Number of the present epoch."),
    Metric(
        "progress", "training_epochs_total", "counter", "", "Passes over the data completed by this process."
    ),
    Metric("progress", "training_samples_total", "counter", "", "Samples trained on by this process."),
    Metric("progress", "training_tokens_total", "counter", "", "Tokens trained on by this process."),
    Metric(
        "progress",
        "training_samples_per_second",
        "gauge",
        "",
        "Samples a second over about the last ten seconds.",
        survives=False,
    ),
    Metric(
        "progress",
        "training_tokens_per_second",
        "gauge",
        "",
        "Tokens a second over about the last ten seconds.",
        survives=False,
    ),
    Metric(
        "progress",
        "training_step_duration_seconds",
        "histogram",
        "seconds",
        "Wall time from one step's end to the next, without evaluation and checkpoints.",
        buckets=STEP_BUCKETS,
    ),
    Metric(
        "progress",
        "training_last_step_timestamp_seconds",
        "gauge",
        "seconds",
        "Unix time at which the last step ended.",
    ),
)

_TIME = (
    Metric(
        "time",
        "training_phase_seconds_total",
        "counter",
        "seconds",
        "Wall time of the training process by what its host was doing; the phases add up to its life.",
        (_PHASE,),
    ),
    Metric(
        "time",
        "training_phase",
        "gauge",
        "",
        "1 for the phase that the host is in, 0 for the others.",
        (_PHASE,),
        survives=False,
    ),
    Metric(
        "time",
        "training_phase_start_timestamp_seconds",
        "gauge",
        "seconds",
        "Unix time at which the present phase began.",
        survives=False,
    ),
)

_LIFE = (
    Metric(
        "life", "training_state", "gauge", "", "1 for the state of the process, 0 for the others.", (_STATE,)
    ),
    Metric(
        "life",
        "training_start_timestamp_seconds",
        "gauge",
        "seconds",
        "Unix time at which this process began to record.",
    ),
    Metric(
        "life",
        "training_attempt",
        "gauge",
        "",
        "Restart count of the launcher; the Unix time of the start where the launcher counts none.",
    ),
    Metric(
        "life",
        "training_failure_info",
        "info",
        "",
        "The exception that ended the run on this rank.",
        facts(exception="class of the exception"),
    ),
    Metric(
        "life",
        "training_failure_timestamp_seconds",
        "gauge",
        "seconds",
        "Unix time of the exception that ended the run on this rank.",
    ),
    Metric("life", "training_world_size", "gauge", "", "Ranks that the launcher started."),
    Metric(
        "life",
        "training_heartbeat_timestamp_seconds",
        "gauge",
        "seconds",
        "Unix time of the last sign of life of the process, about once a second, from a thread of its own.",
    ),
)

_CHECKPOINTS = (
    Metric(
        "checkpoints",
        "training_checkpoint_seconds_total",
        "counter",
        "seconds",
        "Time that training stood still for checkpoints.",
    ),
    Metric("checkpoints", "training_checkpoints_total", "counter", "", "Checkpoints begun."),
    Metric("checkpoints", "training_checkpoint_failures_total", "counter", "", "Checkpoints that raised."),
    Metric("checkpoints", "training_checkpoint_bytes", "gauge", "bytes", "Size of the last checkpoint."),
    Metric(
        "checkpoints",
        "training_checkpoint_last_success_timestamp_seconds",
        "gauge",
        "seconds",
        "Unix time at which the last good checkpoint ended.",
    ),
    Metric("checkpoints", "training_checkpoint_step", "gauge", "", "Step of the last good checkpoint."),
)

TRAINING = (*_QUALITY, *_GRADIENTS, *_PROGRESS, *_TIME, *_LIFE, *_CHECKPOINTS)
