"""What is stalled, slow or late."""

from __future__ import annotations

from tests.campaign.kinds.kind import PHASE, STALLED, STRAGGLER, Kind

_LIMITS = {"phase_seconds_max": 60.0, "evaluate_seconds_max": 60.0}

PROGRESS: tuple[Kind, ...] = (
    Kind(
        "skipped_collective",
        "a rank stays in its forward pass; the others wait for it in a collective",
        (STALLED,),
        count=10,
        within=260,
        end="restart",
        closed="The run makes steps again|None of its ranks is running any more",
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
        "stuck_checkpoint",
        "the storage takes a rank's checkpoint and never answers; the run says nothing of what it allows",
        (PHASE, STALLED),
        count=6,
        within=360,
    ),
    Kind(
        "slow_checkpoint",
        "each checkpoint takes about half of the time from one to the next",
        ("TrainingCheckpointSlow",),
        ("TrainingGoodputLow", "TrainingThroughputDrop"),
        names="",
        count=3,
        before=(30, 40),
        within=1140,  # no process is judged by its checkpoints in its first quarter of an hour
        parameters={"seconds": (8, 12)},
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
)
