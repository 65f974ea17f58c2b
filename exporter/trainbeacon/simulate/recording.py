"""What a simulated rank writes into its black box: under every metric that a real job would have."""

from __future__ import annotations

import math

from trainbeacon import catalogue
from trainbeacon.blackbox import format as layout
from trainbeacon.simulate.model.gpus import memory_of
from trainbeacon.simulate.model.noise import normal, uniform
from trainbeacon.simulate.model.rank import STEP_ORDER, Rank
from trainbeacon.simulate.model.run import EVIDENCE_AFTER_SECONDS, Run

from .model import course

_PHASE_NUMBER = {name: number for number, name in enumerate(catalogue.PHASES)}
_HISTOGRAM = "training_step_duration_seconds"
#: Collectives of a step: buckets of gradients, or gathers and reductions of sharded layers.
_COLLECTIVES = {"default": 12, "sharded": 96}
_LOADER_WORKERS = 8
#: The file system that all runs save to.
_CHECKPOINT_DISK_BYTES = 180e12


def describe(run: Run, rank: Rank, hostname: str, gpu_uuid: str) -> None:
    """What does not change while the process lives."""
    box = rank.box
    box.set("training_start_timestamp_seconds", run.started)
    box.set("training_attempt", float(run.attempt))
    box.set("training_world_size", float(len(run.ranks)))
    box.info(
        "training_rank_info",
        str(rank.place.gpu),
        hostname,
        str(rank.place.gpu),
        gpu_uuid,
        *run.coordinates(rank),
    )
    if rank.number == 0:
        _describe_run(run, rank)


def _describe_run(run: Run, rank: Rank) -> None:
    box, workload = rank.box, run.workload
    box.info(
        "training_run_info", f"sim-{run.seed}", workload.project, workload.owner, "simulate", "torch 2.8.0"
    )
    box.info("training_run_tag_info", "purpose", "simulation", key="purpose")
    for name, value in workload.hyperparameters.items():
        box.info("training_hyperparameter_info", name, str(value), key=name)
        if isinstance(value, (int, float)):
            box.set("training_hyperparameter", float(value), name)
    box.set("training_threshold", 3600.0, "checkpoint_age_seconds_max")
    box.set("training_threshold", 1.5 * workload.loss_first, "loss_max")
    box.set("training_steps_planned", float(workload.steps_planned))


def record(run: Run, rank: Rank) -> None:
    """Write the present state of a living rank."""
    _progress(run, rank)
    _time(run, rank)
    _collectives(run, rank)
    _life(run, rank)
    _quality(run, rank)
    _gradients(run, rank)
    _checkpoints(run, rank)
    _memory(run, rank)
    if rank.number == 0:
        _run_level(run, rank)
    rank.box.commit()


def _progress(run: Run, rank: Rank) -> None:
    box, workload, steps = rank.box, run.workload, run.steps_made
    box.set("training_step", float(run.step))
    box.set("training_steps_total", float(steps))
    box.set("training_epoch", float(run.step // workload.steps_an_epoch))
    epochs = run.step // workload.steps_an_epoch - run.first_step // workload.steps_an_epoch
    box.set("training_epochs_total", float(epochs))
    box.set("training_samples_total", float(steps * workload.samples))
    box.set("training_samples_per_second", run.steps_a_second * workload.samples)
    if workload.tokens:
        box.set("training_tokens_total", float(steps * workload.tokens))
        box.set("training_tokens_per_second", run.steps_a_second * workload.tokens)
    for number, count in enumerate(run.buckets):
        box.set(_HISTOGRAM, float(count), str(number))
    box.set(_HISTOGRAM, run.step_seconds, layout.HISTOGRAM_SUM)
    if run.last_step_at is not None:
        box.set("training_last_step_timestamp_seconds", run.last_step_at)
        box.set("training_model_flops_per_step", workload.flops)
        box.set("training_mfu_ratio", run.steps_a_second * workload.flops / workload.peak_flops)


def _time(run: Run, rank: Rank) -> None:
    box, totals = rank.box, run.totals
    for phase in catalogue.PHASES:
        box.set("training_phase_seconds_total", rank.seconds(phase, totals), phase)
    phase, since = present_phase(run, rank)
    box.set(layout.PHASE_INDEX, float(_PHASE_NUMBER[phase]))
    box.set("training_phase_start_timestamp_seconds", since)
    # The totals above hold the open phase already: for the reader it begins with this heartbeat.
    box.set(layout.PHASE_START, run.now)
    box.set(layout.HEARTBEAT, run.now)
    box.set("training_heartbeat_timestamp_seconds", run.now)
    box.set("training_inactive_seconds", run.now - run.stage_start if run.stage == "hang" else 0.0)
    # A rank's own time is added at the end of a step, together with the count of steps.
    own = run.trouble.extra.get(rank.number, {})
    begun, under_way = rank.self_seconds(totals, rank.extra), rank.self_seconds(run.parts(), own)
    part = run.position - math.floor(run.position)
    for cause, seconds in begun.items():
        box.set("training_self_seconds_total", max(0.0, seconds - part * under_way[cause]), cause)
    for phase in catalogue.DEVICE_PHASES:
        box.set("training_device_phase_seconds_total", 0.97 * rank.seconds(phase, totals), phase)


def present_phase(run: Run, rank: Rank) -> tuple[str, float]:
    """The phase that a rank is in, and when it began."""
    if run.stage == "hang":
        return rank.stuck_in or "communication", run.stage_start
    if run.stage != "train":
        return (run.stage if run.stage in _PHASE_NUMBER else "other"), run.stage_start
    parts = run.parts()
    own = run.trouble.extra.get(rank.number, {})
    duration = sum(parts.values())
    left = into = (run.position - math.floor(run.position)) * duration
    for phase in STEP_ORDER:
        part = parts[phase] + own.get(phase, 0.0) - (sum(own.values()) if phase == "communication" else 0.0)
        if left < part:
            return phase, max(run.stage_start, run.now - left)
        left -= part
    return "other", run.now - min(into, duration)


def _collectives(run: Run, rank: Rank) -> None:
    made = run.position - run.first_step
    for group, share in _groups(run).items():
        begun = math.floor(made * share)
        waits = run.stage == "hang" and not rank.stuck_in
        flying = waits or (
            present_phase(run, rank)[0] in ("backward", "communication") and run.stage == "train"
        )
        rank.box.set("training_collectives_enqueued_total", float(begun + flying), group)
        rank.box.set("training_collectives_completed_total", float(begun), group)


def _groups(run: Run) -> dict[str, int]:
    last = len(run.ranks) - 1
    label = f"default:0-{last}"
    return {label: _COLLECTIVES["sharded" if run.workload.sharded else "default"]}


def _life(run: Run, rank: Rank) -> None:
    box = rank.box
    stood = run.now - run.stage_start if run.stage == "hang" else 0.0
    if stood > EVIDENCE_AFTER_SECONDS and not rank.evidence:
        rank.evidence = 1
    box.set("training_hang_evidence_total", float(rank.evidence))
    box.set("training_loader_workers", float(_LOADER_WORKERS), "alive")
    box.set("training_loader_workers", 0.0, "dead")
    box.set(
        "training_loader_shared_memory_bytes", 1.1e9 + 2e7 * uniform(run.seed, rank.number, run.step // 50)
    )


def _quality(run: Run, rank: Rank) -> None:
    box, workload, step = rank.box, run.workload, run.step
    if run.last_step_at is not None:
        loss = run.learning.loss("train", step, rank.number)
        box.set("training_loss", loss, "train")
        if workload.has_accuracy:
            box.set(
                "training_accuracy_ratio",
                0.0 if math.isnan(loss) else course.accuracy(workload, loss),
                "train",
            )
        box.set("training_learning_rate", course.learning_rate(workload, step), "0")
    for split, (loss, accuracy) in run.learning.losses.items():
        box.set("training_loss", loss, split)
        if workload.has_accuracy:
            box.set("training_accuracy_ratio", accuracy, split)
        box.set("training_evaluations_since_best", float(run.learning.since_best), split)
    spikes = sum(count(step) for count in run.trouble.spikes)
    box.set("training_loss_spikes_total", float(spikes))
    first = run.trouble.first_nonfinite(rank.number)
    bad = 0 if first is None else max(0, step - first + 1)
    box.set("training_loss_nonfinite_total", float(bad))
    box.set("training_gradient_nonfinite_total", float(bad))
    if bad and first is not None:
        box.set("training_nonfinite_first_step", float(first))
        if rank.number in run.trouble.nonfinite_from:
            box.info("training_nonfinite_info", workload.layers[2], "gradient")
        else:
            box.info("training_nonfinite_info", workload.layers[0], "weight")


def _gradients(run: Run, rank: Rank) -> None:
    box, workload, step = rank.box, run.workload, run.step
    box.set("training_gradient_clipped_total", float(run.clipped))
    box.set("training_optimizer_steps_skipped_total", float(run.skipped))
    if run.last_step_at is None:
        return
    norm, weights = run.learning.gradient_norm(step), course.parameter_norm(workload, step)
    rate = course.learning_rate(workload, step) / workload.learning_rate
    box.set("training_gradient_norm", norm)
    if rank.number == 0:
        box.set("training_gradient_norm_step", float(step))
    box.set("training_parameter_norm", weights)
    box.set("training_update_ratio", 0.0012 * rate * math.exp(0.1 * normal(run.seed, 9, step)))
    if workload.loss_scaling:
        box.set("training_loss_scale", 65536.0)
    if workload.sharded:
        share = (1.0 + 0.03 * normal(run.seed, 8, rank.number)) / len(run.ranks)
        box.set("training_gradient_squared_norm", norm * norm * share)
        box.set("training_parameter_squared_norm", weights * weights * share)


def _checkpoints(run: Run, rank: Rank) -> None:
    box = rank.box
    if rank.number and not run.workload.sharded:
        return  # one rank saves what all have; shards are saved by everyone
    box.set("training_checkpoint_seconds_total", run.checkpoint_seconds)
    box.set("training_checkpoint_write_seconds_total", run.checkpoint_write_seconds)
    box.set("training_checkpoints_total", float(run.checkpoints))
    box.set("training_checkpoint_failures_total", float(run.checkpoint_failures))
    box.set("training_checkpoints_pending", float(run.stage == "checkpoint" or run.now < run.write_ends))
    if run.checkpoint_success is not None:
        shares = len(run.ranks) if run.workload.sharded else 1
        box.set("training_checkpoint_bytes", run.workload.checkpoint_bytes / shares)
        box.set("training_checkpoint_last_success_timestamp_seconds", run.checkpoint_success)
        box.set("training_checkpoint_step", float(run.checkpoint_step))
    if rank.number == 0:
        used = 0.61 + 0.01 * normal(run.seed, 10, int(run.now // 600))
        box.set("training_checkpoint_disk_free_bytes", (1.0 - used) * _CHECKPOINT_DISK_BYTES)
        box.set("training_checkpoint_disk_total_bytes", _CHECKPOINT_DISK_BYTES)


def _memory(run: Run, rank: Rank) -> None:
    box, full = rank.box, memory_of(run, rank.number)
    kept = full * (0.93 + 0.004 * normal(run.seed, 3, rank.number))
    box.set("training_allocator_bytes", kept * (0.5 + 0.3 * (run.position % 1.0)), "allocated")
    box.set("training_allocator_bytes", kept * 0.94, "peak")
    box.set("training_allocator_bytes", kept, "reserved")
    box.set("training_allocator_bytes", kept * 0.03, "inactive_split")
    box.set("training_allocator_retries_total", 0.0)
    box.set("training_allocator_oom_total", 0.0)


def _run_level(run: Run, rank: Rank) -> None:
    box, workload = rank.box, run.workload
    box.set("training_elapsed_seconds", run.now - run.born)
    for kind in catalogue.GOODPUT_KINDS:
        box.set("training_goodput_seconds_total", run.goodput[kind], kind)
    for kind in catalogue.RUN_KINDS:
        box.set("training_run_seconds", run.run_seconds[kind], kind)
    box.set("training_lost_steps_total", float(run.lost_steps))
    for split, best in run.learning.best.items():
        box.set("training_best_loss", best, split)
    for split, rises in run.learning.rises.items():
        box.set("training_loss_rises", float(rises), split)
    if "validation" in run.learning.best:
        box.set("training_overfitting_evaluations", float(run.learning.overfitting.evaluations))
    if run.last_step_at is None:
        return
    sampled = run.step // 20 * 20
    for number, name in enumerate(workload.layers):
        for metric, value in course.layer(workload, run.seed, sampled, number).items():
            box.set(metric, value, name)
    if not workload.has_accuracy:
        box.set(
            "training_metric",
            math.exp(min(20.0, run.learning.loss("train", run.step))),
            "perplexity",
            "train",
        )
        if "validation" in run.learning.losses:
            box.set(
                "training_metric",
                math.exp(min(20.0, run.learning.losses["validation"][0])),
                "perplexity",
                "validation",
            )
    _input_data(run, rank, sampled)


def _input_data(run: Run, rank: Rank, sampled: int) -> None:
    box, seed = rank.box, run.seed
    for number, feature in enumerate(run.workload.features):
        wiggle = 0.01 * normal(seed, 20, sampled, number)
        for stage, mean, deviation in (("raw", 118.0 + 4 * number, 57.0), ("prepared", 0.0, 1.0)):
            box.set("training_input_mean", mean + wiggle * deviation, feature, stage)
            box.set("training_input_stddev", deviation * (1.0 + wiggle), feature, stage)
            box.set("training_input_missing_ratio", 0.0, feature, stage)
        box.set("training_input_drift", abs(wiggle), feature)
    weights = [1.0 / (1 + number) for number, _ in enumerate(run.workload.classes)]
    for number, name in enumerate(run.workload.classes):
        share = weights[number] / sum(weights)
        box.set("training_class_ratio", share * (1.0 + 0.02 * normal(seed, 21, sampled, number)), name)
