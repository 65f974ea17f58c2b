"""Metrics of the course of a training: progress, time, collectives, life, checkpoints."""

from __future__ import annotations

from .metric import Label, Metric, facts

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
#: Phases that device events are taken for.
DEVICE_PHASES = ("forward", "backward", "optimizer")
#: What a rank's own time of a step goes into; `backward` without what may hide collectives.
SELF_CAUSES = ("data_wait", "forward", "backward", "optimizer", "host")
#: Where the time of a run goes; `idle` lies between the attempts, and only the whole run knows it.
GOODPUT_KINDS = ("productive", "evaluate", "checkpoint", "data_wait", "init", "stalled", "lost", "other")
RUN_KINDS = (*GOODPUT_KINDS, "idle")
#: What an exception that ends a rank is of; `peer_lost` is collateral of another rank's end.
FAILURE_KINDS = ("cuda_oom", "host_oom", "timeout", "peer_lost", "interrupted", "data", "storage", "other")
#: Process groups of a rank whose collectives are counted.
MOST_GROUPS = 16
STEP_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0)

_PHASE = Label("phase", "what the host was doing", PHASES)
_STATE = Label("state", "life of the training process", STATES)
_KIND = "what the time went into"
_COLLECTIVE_GROUP = Label(
    "group", "the process group: its name and its ranks, equal on all its ranks", limit=MOST_GROUPS
)
_PROGRESS = (
    Metric("progress", "training_step", "gauge", "", "Number of the last completed step of the run."),
    Metric("progress", "training_steps_total", "counter", "", "Steps completed by this process."),
    Metric(
        "progress",
        "training_steps_planned",
        "gauge",
        "",
        "Steps that the run is planned to make.",
        level="run",
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
    Metric(
        "progress",
        "training_elapsed_seconds",
        "gauge",
        "seconds",
        "Time since the first start of the run, over all attempts and the pauses between them.",
        level="run",
    ),
    Metric(
        "progress",
        "training_model_flops_per_step",
        "gauge",
        "",
        "Floating-point operations of one step on this rank, forward and backward, as counted or given.",
    ),
    Metric(
        "progress",
        "training_mfu_ratio",
        "gauge",
        "ratio",
        "Recent model FLOPs a second over the peak rate of the rank's GPU.",
        survives=False,
    ),
)

_TIME = (
    Metric(
        "time",
        "training_phase_seconds_total",
        "counter",
        "seconds",
        "Wall time of the training process by phase; the phases add up to the lifetime of the process.",
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
        "Unix time at which the present phase started.",
        survives=False,
    ),
    Metric(
        "time",
        "training_device_phase_seconds_total",
        "counter",
        "seconds",
        "Time between device events around a phase, scaled up from sampled steps; phases need not add up.",
        (Label("phase", "what the device was given", DEVICE_PHASES),),
        stability="experimental",
    ),
    Metric(
        "time",
        "training_self_seconds_total",
        "counter",
        "seconds",
        "Time of the steps in which the rank waited for no other, by activity; where collectives are seen.",
        (Label("cause", "what the rank was at", SELF_CAUSES),),
    ),
    Metric(
        "time",
        "training_goodput_seconds_total",
        "counter",
        "seconds",
        "Time of this process by what it was spent on; the kinds add up to the lifetime of the process.",
        (Label("kind", _KIND, GOODPUT_KINDS),),
        level="run",
    ),
    Metric(
        "time",
        "training_run_seconds",
        "gauge",
        "seconds",
        "Time of the whole run, over all attempts, by what it was spent on.",
        (Label("kind", _KIND, RUN_KINDS),),
        level="run",
    ),
    Metric(
        "time",
        "training_lost_steps_total",
        "counter",
        "",
        "Steps that this process had to repeat because an earlier attempt had made them already.",
        level="run",
    ),
)

_COLLECTIVES = (
    Metric(
        "collectives",
        "training_collectives_enqueued_total",
        "counter",
        "",
        "Collectives that this rank has started in the process group.",
        (_COLLECTIVE_GROUP,),
    ),
    Metric(
        "collectives",
        "training_collectives_completed_total",
        "counter",
        "",
        "Collectives of the process group that have completed on this rank.",
        (_COLLECTIVE_GROUP,),
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
        "Unix time at which this process started to record.",
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
        facts(exception="class of the exception", kind=f"one of {', '.join(FAILURE_KINDS)}"),
    ),
    Metric(
        "life",
        "training_failure_timestamp_seconds",
        "gauge",
        "seconds",
        "Unix time of the exception that ended the run on this rank.",
    ),
    Metric(
        "life",
        "training_end_timestamp_seconds",
        "gauge",
        "seconds",
        "Unix time at which the process ended, as it reported itself or as the exporter observed it.",
    ),
    Metric(
        "life",
        "training_hang_evidence_total",
        "counter",
        "",
        "Files of evidence that this rank wrote when it made no progress.",
    ),
    Metric(
        "life",
        "training_loader_workers",
        "gauge",
        "",
        "Worker processes of data loaders.",
        (Label("state", "whether the process exists", ("alive", "dead")),),
        survives=False,
    ),
    Metric(
        "life",
        "training_loader_shared_memory_bytes",
        "gauge",
        "bytes",
        "Shared memory held by the process and its loader workers.",
        survives=False,
    ),
    Metric("life", "training_world_size", "gauge", "", "Ranks that the launcher started."),
    Metric(
        "life",
        "training_heartbeat_timestamp_seconds",
        "gauge",
        "seconds",
        "Unix time of the last sign of life of the process, about once a second, from a thread of its own.",
    ),
    Metric(
        "life",
        "training_inactive_seconds",
        "gauge",
        "seconds",
        "Time for which the rank has shown no sign of work: no step, phase, collective or processor time.",
        survives=False,
    ),
)

_CHECKPOINTS = (
    Metric(
        "checkpoints",
        "training_checkpoint_seconds_total",
        "counter",
        "seconds",
        "Time for which checkpoints stopped training.",
    ),
    Metric("checkpoints", "training_checkpoints_total", "counter", "", "Checkpoints started."),
    Metric(
        "checkpoints",
        "training_checkpoint_failures_total",
        "counter",
        "",
        "Checkpoints that ended with an exception.",
    ),
    Metric("checkpoints", "training_checkpoint_bytes", "gauge", "bytes", "Size of the last checkpoint."),
    Metric(
        "checkpoints",
        "training_checkpoint_last_success_timestamp_seconds",
        "gauge",
        "seconds",
        "Unix time at which the last good checkpoint ended.",
    ),
    Metric("checkpoints", "training_checkpoint_step", "gauge", "", "Step of the last good checkpoint."),
    Metric(
        "checkpoints",
        "training_checkpoint_write_seconds_total",
        "counter",
        "seconds",
        "Time from the start of checkpoints to their end on storage, including what overlaps training.",
    ),
    Metric(
        "checkpoints",
        "training_checkpoints_pending",
        "gauge",
        "",
        "Checkpoints that are still being written.",
        survives=False,
    ),
    Metric(
        "checkpoints",
        "training_checkpoint_disk_free_bytes",
        "gauge",
        "bytes",
        "Space that is free where the last checkpoint was written to, as rank 0 sees it, up to 15 s old.",
        level="run",
        survives=False,
    ),
    Metric(
        "checkpoints",
        "training_checkpoint_disk_total_bytes",
        "gauge",
        "bytes",
        "Size of the file system that the last checkpoint was written to, as rank 0 sees it.",
        level="run",
        survives=False,
    ),
)

TRAINING = (*_PROGRESS, *_TIME, *_COLLECTIVES, *_LIFE, *_CHECKPOINTS)
