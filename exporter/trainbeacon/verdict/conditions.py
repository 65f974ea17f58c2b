"""The conditions that one moment shows by itself, each named after the alert that says the same.

They wait for nothing, as an alert does: what they say is so now. Where a rule needs a past that is not at
hand, nothing is said.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from trainbeacon.verdict import limits
from trainbeacon.verdict.durations import duration, moment, percent
from trainbeacon.verdict.facts import SLOW_PHASES, Facts, Gpu, Node, Rank, Run
from trainbeacon.verdict.judge import Finding, finding, of_alert
from trainbeacon.verdict.limits import limit
from trainbeacon.verdict.peers import SECONDS_TO_COMPARE

#: Ranks that are named one by one; of more the run is the news.
MOST_NAMED = 8
#: How long the driver's last error is news.
SECONDS_OF_AN_XID = 600.0
#: Alerts that say how the watching itself is: they are shown, but say nothing of a run.
WATCHDOG = "Watchdog"


def judge(facts: Facts) -> list[Finding]:
    """Everything that is wrong or worth saying, the worst first.

    Firing alerts where Prometheus was asked; beside them what the numbers show and no alert says yet.
    """
    fired = [of_alert(alert) for alert in facts.alerts or () if alert.name != WATCHDOG]
    known = {(each.alert, each.run) for each in fired}
    shown = [*_of_sources(facts), *_of_runs(facts), *_of_hardware(facts)]
    fresh = [each for each in shown if (each.alert, each.run) not in known]
    return sorted([*fired, *fresh], key=lambda each: (each.order, not each.fires))


def _of_sources(facts: Facts) -> Iterator[Finding]:
    """Sources that do not answer: what they showed last is shown with its age, and nobody is called dead."""
    for source in facts.sources:
        if source.error:
            old = source.taken_at
            last = "It never did." if old is None else f"What it showed is {duration(facts.now - old)} old."
            detail = f"{source.name}: {source.error}. {last}"
            yield Finding("", "warning", "A source does not answer.", detail, "See whether it still runs.")


def _of_runs(facts: Facts) -> Iterator[Finding]:
    for run in facts.runs:
        ended = list(_how_it_ended(run))
        yield from ended
        if not ended:
            for condition in _RUN_CONDITIONS:
                yield from condition(run, facts.now)


def _of_hardware(facts: Facts) -> Iterator[Finding]:
    for gpu in facts.gpus:
        yield from _gpu(gpu, facts.now)
    working = {rank.source for run in facts.runs for rank in run.ranks if rank.running}
    for node in facts.nodes:
        if node.source in working:
            yield from _node(node)


# How a run ends


def _how_it_ended(run: Run) -> Iterator[Finding]:
    """What ended the run, if none of the ranks in sight is running any more."""
    if not run.ranks or any(rank.running for rank in run.ranks):
        return
    crashed = [rank for rank in run.ranks if rank.state == "crashed"]
    own = [r for r in run.ranks if r.state == "failed" and r.failure_kind not in ("peer_lost", "interrupted")]
    stopped = [rank for rank in run.ranks if rank.state == "failed" and rank.failure_kind == "interrupted"]
    victims = [rank for rank in run.ranks if rank.state == "failed"]
    if own or (victims and not crashed and not stopped):
        first = min(own or victims, key=lambda rank: rank.failure_at or math.inf)
        yield _run_finding("TrainingRunFailed", run, f"{_who(first)} ended first{_cause_of(first)}.", first)
    elif crashed:
        yield from _lost(run, crashed, "crashed: its process is gone without an end that it reported")
    elif stopped:
        first = min(stopped, key=lambda rank: rank.failure_at or math.inf)
        yield _run_finding(
            "TrainingRunFailed", run, f"{_who(first)} ended first{_cause_of(first)}.", first, "interrupted"
        )
    elif any(rank.state == "finished" for rank in run.ranks):
        step = max((rank.step for rank in run.ranks if rank.step is not None), default=None)
        yield _run_finding("TrainingRunFinished", run, f"After step {step:.0f}." if step is not None else "")


def _cause_of(rank: Rank) -> str:
    return f", by {rank.failure}" if rank.failure else ""


# Ranks that are gone


def _lost_ranks(run: Run, now: float) -> Iterator[Finding]:
    crashed = [rank for rank in run.ranks if rank.state == "crashed"]
    if crashed:
        yield from _lost(run, crashed, "crashed: its process is gone without an end that it reported")
        return
    patience = limit(run.thresholds, "rank_silent_seconds")
    silent = [rank for rank in run.ranks if _is_silent(rank, now, patience)]
    if silent:
        longest = max(now - (rank.heartbeat or now) for rank in silent)
        yield from _lost(
            run, silent, f"is silent for {duration(longest)}: its process exists, but is stopped"
        )


def _is_silent(rank: Rank, now: float, patience: float) -> bool:
    if not rank.running or rank.heartbeat is None:
        return False
    patience *= 10 if rank.phase in SLOW_PHASES else 1
    stepped = rank.last_step_at or 0.0
    return now - rank.heartbeat > patience and now - stepped > patience


def _lost(run: Run, ranks: list[Rank], how: str) -> Iterator[Finding]:
    if len(ranks) > MOST_NAMED:
        yield _run_finding("TrainingRanksLost", run, f"{len(ranks)} ranks, among them {_who(ranks[0])}.")
        return
    for rank in ranks:
        yield _run_finding("TrainingRankLost", run, f"{_who(rank)} {how}.", rank)


def _failed_ranks(run: Run, now: float) -> Iterator[Finding]:
    """Ranks that failed while others still run: no alert yet, they are given the time to follow."""
    failed = [rank for rank in run.ranks if rank.state == "failed"]
    if failed:
        first = min(failed, key=lambda rank: rank.failure_at or math.inf)
        others = sum(rank.running for rank in run.ranks)
        yield Finding(
            alert="",
            severity="warning",
            summary="A rank has failed while others run.",
            detail=f"Run {run.name}: {_who(first)} ended{_cause_of(first)}; {others} rank(s) are running.",
            action="Read the end of that rank's log.",
            run=run.name,
            rank=first.number,
        )


# Progress and numbers


def _nonfinite(run: Run, now: float) -> Iterator[Finding]:
    bad = [rank for rank in run.ranks if rank.running and _is_nonfinite(rank)]
    if not bad:
        return
    first = min(bad, key=lambda rank: (rank.nonfinite_step or math.inf, rank.number))
    since = f" since step {first.nonfinite_step:.0f}" if first.nonfinite_step is not None else ""
    where = f", first seen in {first.nonfinite_at}" if first.nonfinite_at else ""
    detail = f"On {len(bad)} rank(s){since}; look first at {_who(first)}{where}."
    yield _run_finding("TrainingLossNotFinite", run, detail, first)


def _is_nonfinite(rank: Rank) -> bool:
    return any(loss is not None and not math.isfinite(loss) for loss in (rank.loss, rank.validation_loss))


def _stalled(run: Run, now: float) -> Iterator[Finding]:
    running = [rank for rank in run.ranks if rank.running]
    progress = max((rank.last_step_at or rank.started or 0.0 for rank in run.ranks), default=0.0)
    if not running or not progress:
        return
    age = now - progress
    if any(rank.phase in SLOW_PHASES for rank in running) and age < limit(
        run.thresholds, "phase_seconds_max"
    ):
        return
    steps = [rank.step_seconds for rank in running if rank.step_seconds]
    mean = max(steps, default=0.0)
    patience = max(limit(run.thresholds, "stall_seconds"), 10 * mean)
    idle = min((rank.inactive if rank.inactive is not None else 0.0 for rank in running), default=0.0)
    allowed = run.thresholds.get("inactive_seconds", run.thresholds.get("stall_seconds"))
    idle_limit = max(limits.DEFAULTS["inactive_seconds"] if allowed is None else allowed, 3 * mean)
    everybody_idle = age > 20 and idle > idle_limit
    if age <= patience and not everybody_idle:
        return
    suspect = _suspect(running)
    detail = f"No step for {duration(age)}{', and no rank does anything' if everybody_idle else ''}."
    if suspect is not None:
        detail += f" Suspect: {_who(suspect[0])}, {suspect[1]}."
    yield _run_finding("TrainingStalled", run, detail, suspect[0] if suspect else None)


def _suspect(running: list[Rank]) -> tuple[Rank, str] | None:
    """The rank that the others wait for, with the evidence; None where nothing tells."""
    if len(running) < 2:
        return None
    behind = [rank for rank in running if rank.lag and not rank.waits]
    if behind:
        last = max(behind, key=lambda rank: rank.lag or 0)
        return last, "which has not joined a collective that others wait in"
    phases: dict[str, int] = {}
    for rank in running:
        phases[rank.phase] = phases.get(rank.phase, 0) + 1
    most = max(phases.values())
    apart = [rank for rank in running if phases[rank.phase] < most and not rank.waits]
    if apart and len(apart) * 2 < len(running):
        return apart[0], f"which is in {apart[0].phase}, another phase than most"
    return None


def _never_started(run: Run, now: float) -> Iterator[Finding]:
    running = [rank for rank in run.ranks if rank.running]
    if not running or any(rank.steps_made for rank in running):
        return
    age = now - min((rank.started or now for rank in running), default=now)
    if age > limit(run.thresholds, "phase_seconds_max"):
        detail = f"It was started {duration(age)} ago and has not made a single step."
        yield _run_finding("TrainingNeverStarted", run, detail, None, "no_step")


def _long_phase(run: Run, now: float) -> Iterator[Finding]:
    inside = [r for r in run.ranks if r.running and r.phase in SLOW_PHASES and r.phase_since and r.steps_made]
    if not inside:
        return
    first = min(inside, key=lambda rank: rank.phase_since or now)
    age = now - (first.phase_since or now)
    name = "evaluate_seconds_max" if first.phase == "evaluate" else "phase_seconds_max"
    if age > limit(run.thresholds, name):
        detail = f"In {first.phase} for {duration(age)}, the longest {_who(first)}."
        yield _run_finding("TrainingPhaseTooLong", run, detail, first)


# Pace and learning


def _stragglers(run: Run, now: float) -> Iterator[Finding]:
    most = limit(run.thresholds, "straggler_ratio_max")
    slow = [rank for rank in run.ranks if (rank.lasting_excess or 0.0) > most]
    slow.sort(key=lambda rank: -(rank.lasting_excess or 0.0))
    for rank in slow if len(slow) <= MOST_NAMED else slow[:1]:
        cause = f"; it takes longer than they do at: {rank.cause}" if rank.cause else ""
        detail = f"The others wait for {_who(rank)} in {percent(rank.lasting_excess)} of the time{cause}."
        yield _run_finding("TrainingStraggler", run, detail, rank)


def _input_bound(run: Run, now: float) -> Iterator[Finding]:
    most = limit(run.thresholds, "data_wait_ratio_max")
    alive = [rank for rank in run.ranks if rank.running]
    long = [rank.data_wait if rank.window >= SECONDS_TO_COMPARE else rank.life_data_wait for rank in alive]
    known = [share for share in long if share is not None]
    steps = max((rank.steps_made or 0.0 for rank in alive), default=0.0)
    if known and steps >= limits.STEPS_TO_JUDGE and sum(known) / len(known) > most:
        share = percent(sum(known) / len(known))
        yield _run_finding(
            "TrainingInputBound", run, f"Its ranks spend {share} of their time waiting for data."
        )


def _learning(run: Run, now: float) -> Iterator[Finding]:
    running = [rank for rank in run.ranks if rank.running]
    scale = min((rank.loss_scale for rank in running if rank.loss_scale is not None), default=None)
    if scale is not None and scale < 1:
        yield _run_finding("TrainingLossScaleCollapsed", run, f"It is {scale:.4g}.")
    rates = [rank.learning_rate for rank in running if rank.learning_rate is not None]
    steps = max((rank.steps_made or 0.0 for rank in running), default=0.0)
    done = (
        (max((rank.step or 0.0 for rank in running), default=0.0) / run.steps_planned)
        if run.steps_planned
        else 0
    )
    if rates and max(rates) == 0 and steps >= limits.STEPS_TO_JUDGE and done <= 0.95:
        yield _run_finding("TrainingLearningRateZero", run, "It is 0 in every parameter group.", None, "zero")
    evaluations = run.overfitting_evaluations
    if evaluations is not None and evaluations >= limit(run.thresholds, "evaluations_patience"):
        detail = f"In the last {evaluations:.0f} evaluations the validation loss was above its best."
        yield _run_finding("TrainingOverfitting", run, detail)


def _checkpoints(run: Run, now: float) -> Iterator[Finding]:
    failing = [rank for rank in run.ranks if rank.checkpoint_failures]
    if failing:
        detail = f"{_who(failing[0])}: {failing[0].checkpoint_failures:.0f} failed."
        yield _run_finding("TrainingCheckpointFailing", run, detail, failing[0])
    at, most = run.checkpoint_at, limit(run.thresholds, "checkpoint_age_seconds_max")
    if at is not None and now - at > most and any(rank.running for rank in run.ranks):
        yield _run_finding("TrainingCheckpointStale", run, f"It is {duration(now - at)} old.")


def _collision(run: Run, now: float) -> Iterator[Finding]:
    if run.collisions:
        detail = f"{run.collisions:.0f} process(es) too many have a rank of it on one node."
        yield _run_finding("TrainingRunNameCollision", run, detail)


def _gpu_memory(run: Run, now: float) -> Iterator[Finding]:
    for rank in run.ranks:
        if rank.running and rank.allocator_retries and rank.window:
            detail = f"{_who(rank)}: PyTorch had to give cached memory back in order to go on."
            yield _run_finding("TrainingGpuMemoryNearlyFull", run, detail, rank, "retries")


_RUN_CONDITIONS: tuple[Callable[[Run, float], Iterator[Finding]], ...] = (
    _lost_ranks,
    _failed_ranks,
    _nonfinite,
    _stalled,
    _never_started,
    _long_phase,
    _stragglers,
    _input_bound,
    _learning,
    _checkpoints,
    _collision,
    _gpu_memory,
)


# Hardware


def _gpu(gpu: Gpu, now: float) -> Iterator[Finding]:
    if not gpu.up:
        yield _gpu_finding("TrainingGpuLost", gpu, " does not answer.")
    if gpu.recovery_action:
        yield _gpu_finding("TrainingGpuRecoveryNeeded", gpu, ".")
    if gpu.xid and gpu.xid_at is not None and now - gpu.xid_at < SECONDS_OF_AN_XID:
        yield _gpu_finding("TrainingGpuXid", gpu, f": XID {gpu.xid:.0f} at {moment(gpu.xid_at, now)}.")
    held = [reason for reason in gpu.throttled if reason not in ("power_cap", "sync_boost")]
    if held:
        yield _gpu_finding("TrainingGpuThrottled", gpu, f": {', '.join(held)}.")


def _gpu_finding(alert: str, gpu: Gpu, what: str) -> Finding:
    whose = f" (run {gpu.run}, rank {gpu.rank})" if gpu.rank is not None else ""
    detail = f"GPU {gpu.index} of {gpu.host or gpu.source}{whose}{what}"
    return finding(alert, detail, run=gpu.run, rank=gpu.rank, gpu=gpu.index)


def _node(node: Node) -> Iterator[Finding]:
    where = node.host or node.source
    if (
        node.memory_used
        and node.memory_total
        and node.memory_used / node.memory_total > limits.HOST_MEMORY_RATIO
    ):
        share = percent(node.memory_used / node.memory_total)
        yield finding("TrainingHostMemoryNearlyFull", f"{where}: {share} is in use.", reason="memory")
    if (
        node.shared_used
        and node.shared_total
        and node.shared_used / node.shared_total > limits.SHARED_MEMORY_RATIO
    ):
        share = percent(node.shared_used / node.shared_total)
        detail = f"{where}: {share} of its shared memory is in use."
        yield finding("TrainingHostMemoryNearlyFull", detail, reason="shared_memory")


def _who(rank: Rank) -> str:
    if not rank.host:
        return f"rank {rank.number}"
    return f"rank {rank.number} (host {rank.host}, GPU {rank.gpu or 'none'})"


def _run_finding(alert: str, run: Run, detail: str, rank: Rank | None = None, reason: str = "") -> Finding:
    number = None if rank is None else rank.number
    text = f"Run {run.name}: {detail}" if detail else f"Run {run.name}."
    return finding(alert, text, reason=reason, run=run.name, rank=number)
