"""The kinds of fault, and for each, written down before the campaign ran, what may be told of it.

`expected` are the alerts of which one must arrive. `consequences` are alerts that are true of the run as well
(a loss that becomes infinite leaps on its way): they count neither for nor against. Whatever else arrives
about the run with severity warning or critical is a false alarm.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

NOT_FINITE, STALLED, LOST = "TrainingLossNotFinite", "TrainingStalled", "TrainingRankLost"
FAILED, STRAGGLER, PHASE = "TrainingRunFailed", "TrainingStraggler", "TrainingPhaseTooLong"
SPIKES, RISING, DIVERGING = "TrainingLossSpikes", "TrainingLossRising", "TrainingLossDiverging"
EXPLOSION, BLIND = "TrainingGradientExplosion", "TrainBeaconExporterBlind"


@dataclass(frozen=True)
class Kind:
    """One kind of fault, or of healthy control.

    Attributes:
        expected: alerts of which one must arrive; none of a control.
        names: what the message must name: `rank` (the victim), `all` (every rank), `target`, or nothing.
        count: injections of the campaign.
        within: seconds from the fault to the message, after which it is missed.
        before: seconds of healthy training before the fault, least and most; 0 has it there from the start.
        after: seconds watched on after the message, and of a control after its pause.
        worlds: sizes of the job.
        thresholds: limits that the run sets itself.
        parameters: by name, what is drawn from.
        nodes: targets that the ranks are dealt to.
        serve: as in `trainbeacon.start`; with `off` an agent is started for each node.
    """

    name: str
    summary: str
    expected: tuple[str, ...]
    consequences: tuple[str, ...] = ()
    names: str = "rank"
    count: int = 8
    within: float = 120.0
    before: tuple[float, float] = (20.0, 40.0)
    after: float = 30.0
    worlds: tuple[int, ...] = (2, 2, 3, 4)
    thresholds: Mapping[str, float] = field(default_factory=dict)
    parameters: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    nodes: int = 1
    serve: str = "process"


_LIMITS = {"phase_seconds_max": 60.0, "evaluate_seconds_max": 60.0}
_RISES = (RISING, DIVERGING)

KINDS: tuple[Kind, ...] = (
    # What is learned
    Kind(
        "nan_loss",
        "the loss of one rank is NaN, once; through the averaged gradients every rank's weights",
        (NOT_FINITE,),
        ("TrainingGradientNotFinite",),
        count=10,
    ),
    Kind(
        "nan_gradient",
        "the gradient of one rank is NaN, once; every weight is after the step",
        (NOT_FINITE,),
        ("TrainingGradientNotFinite",),
        count=10,
    ),
    Kind(
        "nan_gradients_skipped",
        "every other gradient of one rank is NaN, and the script leaves those steps out",
        ("TrainingGradientNotFinite",),
        (NOT_FINITE,),
        names="",
        count=6,
        within=300,
    ),
    Kind(
        "loss_spikes",
        "bad batches: the loss leaps for single steps",
        (SPIKES,),
        names="",
        count=8,
        before=(30, 50),
        parameters={"height": (6, 8, 12), "every": (10, 15, 20)},
    ),
    Kind(
        "loss_rising",
        "the loss grows from step to step",
        _RISES,
        (SPIKES, EXPLOSION),
        names="",
        count=8,
        within=180,
        parameters={"pace": (0.002, 0.004, 0.008)},
    ),
    Kind(
        "loss_to_infinity",
        "the learning rate becomes far too high: the weights grow until the loss is infinite",
        (NOT_FINITE,),
        (SPIKES, EXPLOSION, *_RISES, "TrainingGradientNotFinite"),
        names="",
        count=8,
        parameters={"rate": (30.0, 100.0, 1000.0)},
    ),
    Kind(
        "loss_above_limit",
        "the loss leaps above the limit of the run and stays there",
        ("TrainingLossAboveLimit",),
        (SPIKES, *_RISES, EXPLOSION),
        names="",
        count=4,
        within=480,
        thresholds={"loss_max": 4.0},
        before=(60, 80),
        parameters={"height": (60, 120)},
    ),
    Kind(
        "overfitting",
        "the validation loss rises from one evaluation to the next while the training loss falls",
        ("TrainingOverfitting",),
        (RISING,),
        names="",
        count=5,
        before=(60, 80),
        within=480,  # the mean of five minutes must have forgotten how the run began
    ),
    Kind(
        "learning_rate_zero",
        "a schedule that gives 0 from the start",
        ("TrainingLearningRateZero",),
        names="",
        count=4,
        before=(0, 0),
        within=480,
        parameters={"rate": (0.0,)},
    ),
    Kind(
        "gradient_explosion",
        "the gradients become far larger; clipped, each kicks the weights",
        (EXPLOSION,),
        (RISING, SPIKES),
        names="",
        count=6,
        before=(170, 190),
        within=200,
        parameters={"factor": (50, 100, 300)},
    ),
    Kind(
        "loss_scale_collapse",
        "scaled gradients are infinite unless the scale is a sixteenth: it is halved down to there",
        ("TrainingLossScaleCollapsed",),
        names="",
        count=4,
        within=480,
    ),
    # How it ends
    Kind(
        "exception",
        "a rank raises; its peers lose their connection",
        (FAILED,),
        count=10,
        within=180,
        parameters={"exception": ("IndexError", "OSError", "ValueError")},
    ),
    Kind(
        "cuda_oom",
        "a rank raises torch.OutOfMemoryError",
        (FAILED,),
        count=10,
        within=180,
        parameters={"exception": ("OutOfMemoryError",)},
    ),
    Kind("killed_rank", "SIGKILL; its peers lose their connection", (LOST,), (FAILED,), count=12),
    Kind("stopped_rank", "SIGSTOP; the others wait for it", (LOST,), (STALLED,), count=10),
    Kind(
        "gone_at_once",
        "all ranks and the exporter are killed in the same moment, as with their container",
        (LOST,),
        (FAILED, STALLED, BLIND),
        names="all",
        count=8,
        within=240,
        after=75,  # longer than Alertmanager waits to tell of the ranks that its first message lacks
    ),
    Kind(
        "restart_loop",
        "one rank fails soon after each start, and the launcher starts the job anew",
        ("TrainingRestartLoop",),
        (FAILED, LOST),
        count=8,
        before=(0, 0),
        within=180,
        worlds=(2, 3),
        parameters={"exception": ("IndexError", "OutOfMemoryError"), "after": (30, 40)},
    ),
    # What stands still
    Kind(
        "skipped_collective",
        "a rank stays in its forward pass; the others wait for it in a collective",
        (STALLED,),
        count=10,
        within=260,
    ),
    Kind(
        "mismatched_collective",
        "a rank broadcasts where the others reduce",
        (STALLED,),
        names="",
        count=6,
        within=260,
    ),
    Kind(
        "stuck_loader",
        "the data of a rank do not come; the others wait for it",
        (STALLED,),
        count=10,
        within=260,
    ),
    Kind(
        "blocked_checkpoint",
        "the storage takes a rank's checkpoint and never answers; the run allows a phase 60 s",
        (PHASE, STALLED),
        count=8,
        within=260,
        thresholds=_LIMITS,
    ),
    Kind(
        "hang_in_evaluation",
        "a rank hangs in the evaluation, the others wait for it there; the run allows a phase 60 s",
        (PHASE, STALLED),
        count=8,
        within=260,
        thresholds=_LIMITS,
    ),
    Kind(
        "never_started",
        "the first batch of a rank does not come; the run allows a phase 60 s",
        ("TrainingNeverStarted",),
        (STALLED,),
        names="",
        count=6,
        before=(0, 0),
        within=240,
        thresholds=_LIMITS,
    ),
    # What is slow, or late
    *(
        Kind(
            f"straggler_{place}",
            f"{what} of one rank takes 20 to 50 % of a step longer",
            (STRAGGLER,),
            ("TrainingThroughputDrop",),
            count=6,
            before=(60, 75),
            within=240,
            parameters={"share": (0.2, 0.3, 0.5)},
        )
        for place, what in (
            ("data", "the next batch"),
            ("forward", "the forward pass"),
            ("host", "the script's own code"),
        )
    ),
    Kind(
        "time_limit",
        "the run takes longer than the 60 s that it allows itself",
        ("TrainingTimeLimitExceeded",),
        names="",
        count=4,
        before=(60, 60),
        within=240,
        thresholds={"run_seconds_max": 60.0},
    ),
    Kind(
        "failing_checkpoint",
        "each checkpoint of the rank that saves raises; the script goes on",
        ("TrainingCheckpointFailing",),
        names="",
        count=8,
    ),
    # Who is watched by whom
    Kind(
        "name_collision",
        "a second job with the same run name begins, on the same node or on another",
        ("TrainingRunNameCollision",),
        names="",
        count=8,
        worlds=(2,),
        within=240,
        parameters={"elsewhere": (False, True)},
        nodes=2,
    ),
    Kind(
        "exporter_killed",
        "the agent of one of two nodes is killed; the training goes on",
        (BLIND,),
        names="target",
        count=8,
        worlds=(2, 4),
        within=240,
        nodes=2,
        serve="off",
    ),
    # Controls
    Kind("healthy", "nothing happens; finished in the end", (), names="", count=6, after=200),
    Kind(
        "long_evaluation",
        "control: an evaluation of 90 s",
        (),
        names="",
        count=3,
        after=240,
        parameters={"seconds": (90,)},
    ),
    Kind(
        "long_checkpoint",
        "control: a checkpoint of 90 s, the others wait",
        (),
        names="",
        count=3,
        after=240,
        parameters={"seconds": (90,)},
    ),
    Kind(
        "long_first_step",
        "control: a first step of 90 s, as compilation takes",
        (),
        names="",
        count=3,
        before=(0, 0),
        after=240,
        parameters={"seconds": (90,)},
    ),
    Kind(
        "pause_of_a_rank",
        "control: one rank is busy with something else for 20 s, once",
        (),
        names="",
        count=3,
        before=(60, 75),
        after=200,
        parameters={"seconds": (20,)},
    ),
    Kind(
        "elastic_resume",
        "control: the job ends well and goes on with one rank fewer",
        (),
        names="",
        count=3,
        after=200,
        worlds=(3, 4),
    ),
    Kind(
        "exporter_replaced",
        "control: the exporter is killed, and a rank starts another",
        (),
        names="",
        count=3,
        after=200,
    ),
)
#: What no process here can have: scenarios of `trainbeacon simulate`, served to the same Prometheus.
SIMULATED: tuple[Kind, ...] = (
    Kind(
        "xid",
        "XID 79, a GPU falls off the bus; its rank fails; the run is over",
        ("TrainingGpuXid", "TrainingGpuLost"),
        ("TrainingGpuRecoveryNeeded", FAILED),
        count=10,
    ),
    Kind(
        "ecc",
        "an uncorrected memory error and a row remapping that is pending",
        ("TrainingGpuMemoryErrors",),
        ("TrainingGpuXid", "TrainingGpuRecoveryNeeded"),
        count=10,
    ),
    Kind(
        "throttling",
        "a GPU is held at 60 % of its clock by its temperature; its rank is slower",
        ("TrainingGpuThrottled",),
        (STRAGGLER, "TrainingThroughputDrop", "TrainingGpuClockLow"),
        count=6,
        within=780,
    ),
    Kind(
        "gpu-memory-leak",
        "the GPU memory of a rank grows by about 25 MB a second",
        ("TrainingGpuMemoryNearlyFull",),
        (FAILED,),
        count=4,
        within=900,
    ),
    Kind("simulated_healthy", "nothing happens", (), names="", count=6),
)
BY_NAME: dict[str, Kind] = {kind.name: kind for kind in (*KINDS, *SIMULATED)}


@dataclass(frozen=True)
class Injection:
    """One job and its fault, as it is drawn: the same from the same seed."""

    number: int
    kind: str
    world_size: int
    victim: int
    seed: int
    step_seconds: float
    before: float
    parameters: Mapping[str, Any]

    @property
    def run(self) -> str:
        """The name of the run, by which messages are told apart."""
        return f"c{self.number:03d}-{self.kind.replace('_', '-')}"

    @property
    def lasts(self) -> float:
        """About how many seconds it takes at most."""
        kind = BY_NAME[self.kind]
        return 20 + self.before + kind.within * bool(kind.expected) + kind.after


def draw(seed: int, counts: Mapping[str, int] | None = None) -> list[Injection]:
    """The injections of a campaign, the kinds mixed, in three classes: those that take longest come first.

    Args:
        seed: of everything that is random.
        counts: by kind, in place of the kinds' own numbers; kinds that are left out have none.
    """
    dice = random.Random(seed)
    wanted = {kind.name: kind.count for kind in KINDS} if counts is None else counts
    found = [_draw_one(dice, kind, number) for kind in KINDS for number in range(wanted.get(kind.name, 0))]
    dice.shuffle(found)
    found.sort(key=lambda each: -(each.lasts > 400) - (each.lasts > 200))
    return [replace(each, number=number) for number, each in enumerate(found)]


def _draw_one(dice: random.Random, kind: Kind, number: int) -> Injection:
    world_size = dice.choice(kind.worlds)
    return Injection(
        number,
        kind.name,
        world_size,
        dice.randrange(world_size),
        dice.randrange(10**6),
        dice.choice((0.2, 0.25, 0.3)),
        dice.uniform(*kind.before),
        {name: dice.choice(list(choices)) for name, choices in kind.parameters.items()},
    )
