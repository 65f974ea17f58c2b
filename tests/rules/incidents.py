"""Incidents of somebody who wants to mislead the rules, and what ought to be said of each."""

from __future__ import annotations

from tests.rules.scripted_incident import Incident, Message, Process

#: Why a rank is lost no more, and a run failed, stalled or not finite no more: values of the recorded series.
AT_WORK = ATTEMPT_AT_WORK = STEPS_AGAIN = FINITE = 1
LATER_ATTEMPT = FAILURE_FINISHED = NOBODY_RUNS = NAN_FINISHED = 2
INTERRUPTED = 5
SEEN_AGAIN = 6
LOST_PEER = ("RuntimeError", "peer_lost")
ERROR = ("KeyError", "other")
CTRL_C = ("KeyboardInterrupt", "interrupted")


def pair() -> tuple[Process, Process]:
    """Two ranks on two hosts."""
    return Process(0), Process(1, host="b")


INCIDENTS = (
    Incident("healthy", "nothing happens", pair()),
    Incident("logs-only", "a job that counts no steps logs and works", (Process(0, world=1, steps=False),)),
    Incident(
        "smaller",
        "a host is lost with two of four ranks, the others lose their peers and go on as two",
        (
            *(Process(rank, end=10 + rank / 60, state="failed", cause=LOST_PEER, world=4) for rank in (0, 1)),
            *(Process(rank, end=10, state="vanished", host="b", world=4) for rank in (2, 3)),
            *(Process(rank, start=14, world=2) for rank in (0, 1)),
        ),
        tuple(
            Message("TrainingRankLost", (10.5, 12), (14, 15.5), LATER_ATTEMPT, rank=rank) for rank in (2, 3)
        ),
        gone={"b": 10},
    ),
    Incident(
        "renumbered",
        "the middle of three ranks crashes, and the last becomes the middle of two",
        (
            Process(0, end=10, state="failed", cause=LOST_PEER, world=3),
            Process(1, end=10, state="crashed", host="b", world=3, linger=60),
            Process(2, end=10, state="failed", host="c", cause=LOST_PEER, world=3),
            Process(0, start=12),
            Process(1, start=12, host="c"),
        ),
        (Message("TrainingRankLost", (10, 11), (13, 14.5), AT_WORK, rank=1),),
    ),
    Incident(
        "leader-lost",
        "rank 0 is lost with its host, and what was rank 1 becomes rank 0",
        (
            Process(0, end=10, state="vanished", host="b"),
            Process(1, end=10.1, state="failed", cause=LOST_PEER),
            Process(0, start=14, world=1),
        ),
        (Message("TrainingRankLost", (10.5, 12), (15, 16.5), AT_WORK, rank=0),),
        gone={"b": 10},
    ),
    Incident(
        "named-twice",
        "the run of one cluster crashes",
        (Process(0, end=10, state="crashed", world=1),),
        (Message("TrainingRankLost", (10, 11), rank=0),),
    ),
    Incident(
        "named-twice",
        "one of the same name in another cluster goes on and finishes",
        (Process(0, end=12, world=1),),
        cluster="two",
    ),
    *(
        Incident(
            f"clock-{name}",
            "a rank crashes on a host whose clock is off, and is started again there",
            (
                Process(0, end=10.5, state="failed", cause=LOST_PEER),
                Process(1, end=10, state="crashed", host="b"),
                Process(0, start=13),
                Process(1, start=13, host="b"),
            ),
            (
                Message("TrainBeaconClockOff", (1, 7), host="b"),
                Message("TrainingRankLost", (10, 11), (14, 15.5), AT_WORK, rank=1),
            ),
            behind={"b": seconds},
        )
        for name, seconds in (("behind", 300.0), ("ahead", -600.0))
    ),
    Incident(
        "exporter-restart",
        "while a rank is lost its exporter is away for three minutes, and does not have its box any more",
        (
            Process(0, world=3, idle=(10, 1e6)),
            Process(1, end=10, state="crashed", host="b", world=3, linger=3),
            Process(2, host="b", world=3, idle=(10, 1e6)),
        ),
        (
            Message("TrainingRankLost", (10, 11), rank=1),
            Message("TrainingRankLost", (12.5, 14), (15, 17), SEEN_AGAIN, rank=2),
        ),
        down={"b": (12, 15)},
    ),
    Incident(
        "each-minute",
        "a run crashes every minute and is started again",
        (
            *(
                Process(0, start=10 + n, end=10.5 + n, state="crashed", world=1, first_step=0.1)
                for n in range(12)
            ),
            Process(0, start=22, world=1),
        ),
        (
            Message("TrainingRankLost", (10, 12), (23, 24.5), AT_WORK, rank=0),
            Message("TrainingRestartLoop", (12, 16)),
        ),
    ),
    Incident(
        "back-again",
        "the network of a host is cut for five minutes, the others wait, all go on",
        (Process(0, idle=(10, 15.5)), Process(1, host="b", idle=(10, 15.5))),
        (Message("TrainingRankLost", (10.5, 12.5), (15, 17.5), AT_WORK, rank=1),),
        down={"b": (10, 15)},
    ),
    Incident(
        "finished-unseen",
        "a run finishes while one of its ranks is out of sight",
        (Process(0, end=20), Process(1, host="b", end=20)),
        (Message("TrainBeaconExporterBlind", (11.5, 13), (20, 21.5), host="b"),),
        down={"b": (10, 1e6)},
    ),
    Incident(
        "killed-peers",
        "one rank runs out of memory, the launcher kills the other, and both are started again later",
        (
            Process(0, end=10.2, state="crashed"),
            Process(1, end=10, state="failed", cause=("OutOfMemoryError", "cuda_oom"), host="b"),
            Process(0, start=20),
            Process(1, start=20, host="b"),
        ),
        (
            Message("TrainingRankLost", (10, 12), (20.5, 22.5), AT_WORK, rank=0),
            Message("TrainingRunFailed", (11, 13), (20.5, 22.5), ATTEMPT_AT_WORK, rank=1),
        ),
    ),
    Incident(
        "slow-start",
        "a run fails, then before its first step, and the next time takes five minutes to that",
        (
            Process(0, end=10, state="failed", cause=ERROR, world=1),
            Process(0, start=14, end=18, state="failed", cause=ERROR, world=1, first_step=5),
            Process(0, start=21, world=1, first_step=5),
        ),
        (Message("TrainingRunFailed", (11, 12.5), (26, 28), ATTEMPT_AT_WORK, rank=0),),
    ),
    Incident(
        "failed-logs-only",
        "a job that counts no steps fails, and its next attempt logs",
        (
            Process(0, end=10, state="failed", cause=ERROR, world=1, steps=False),
            Process(0, start=14, world=1, steps=False),
        ),
        (Message("TrainingRunFailed", (11, 12.5), (15, 17), ATTEMPT_AT_WORK, rank=0),),
    ),
    Incident(
        "failed-then-finished",
        "a run fails; its next attempt comes to the end at once, without a step",
        (
            Process(0, end=10, state="failed", cause=ERROR, world=1),
            Process(0, start=14, end=15, world=1, first_step=9),
        ),
        (Message("TrainingRunFailed", (11, 12.5), (15, 17), FAILURE_FINISHED, rank=0),),
    ),
    Incident(
        "fast-failure",
        "a run raises before it was seen at work, and is started again",
        (
            Process(0, start=10, end=10.1, state="failed", cause=ERROR, world=1),
            Process(0, start=15, world=1),
        ),
        (Message("TrainingRunFailed", (11, 12.5), (15.5, 17), ATTEMPT_AT_WORK, rank=0),),
    ),
    Incident(
        "stall-ends",
        "nobody does anything for three minutes, then they go on",
        (Process(0, idle=(10, 13)), Process(1, host="b", idle=(10, 13))),
        (Message("TrainingStalled", (10, 11.5), (13, 14), STEPS_AGAIN),),
    ),
    Incident(
        "stall-interrupted",
        "a stalled run is interrupted by hand",
        (
            Process(0, idle=(10, 99), end=15, state="failed", cause=CTRL_C),
            Process(1, idle=(10, 99), end=15.01, state="failed", cause=CTRL_C, host="b"),
        ),
        (Message("TrainingStalled", (10, 11.5), (15, 16), NOBODY_RUNS),),
    ),
    Incident(
        "stall-started-again",
        "a stalled run is killed and started again between two scrapes",
        (
            Process(0, idle=(10, 99), end=15, state="vanished", world=1),
            Process(0, start=15.2, world=1),
        ),
        (Message("TrainingStalled", (10, 11.5), (15, 17), STEPS_AGAIN),),
    ),
    Incident(
        "nan-then-crash",
        "the loss is NaN, the run crashes of it and goes on from a checkpoint",
        (Process(0, end=12, state="crashed", world=1, not_finite=(10, 99)), Process(0, start=15, world=1)),
        (
            Message("TrainingLossNotFinite", (10, 10.5), (16, 20), FINITE),
            Message("TrainingRankLost", (12, 13), (16, 17.5), AT_WORK, rank=0),
        ),
    ),
    Incident(
        "nan-to-the-end",
        "the loss is NaN until the run finishes",
        (Process(0, end=15, world=1, not_finite=(10, 99)),),
        (Message("TrainingLossNotFinite", (10, 10.5), (15, 16.5), NAN_FINISHED),),
    ),
    Incident(
        "nan-interrupted",
        "somebody interrupts a run whose loss is NaN, and leaves it so",
        (
            Process(0, end=13, state="failed", cause=CTRL_C, not_finite=(10, 99)),
            Process(1, end=13.01, state="failed", cause=CTRL_C, host="b", not_finite=(10, 99)),
        ),
        (Message("TrainingLossNotFinite", (10, 10.5), (18, 21.5), INTERRUPTED),),
    ),
    Incident(
        "nan-started-again",
        "a run whose loss is NaN is interrupted, and goes on from a good checkpoint two minutes later",
        (
            Process(0, end=13, state="failed", cause=CTRL_C, world=1, not_finite=(10, 99)),
            Process(0, start=15, world=1),
        ),
        (Message("TrainingLossNotFinite", (10, 10.5), (16, 20), FINITE),),
    ),
    Incident(
        "failed-then-interrupted",
        "a run fails; its next attempt is interrupted by hand before its first step",
        (
            Process(0, end=10, state="failed", cause=ERROR, world=1),
            Process(0, start=14, end=14.7, state="failed", cause=CTRL_C, world=1, first_step=9),
        ),
        (Message("TrainingRunFailed", (11, 12.5), (14.5, 17), INTERRUPTED, rank=0),),
    ),
    Incident(
        "larger",
        "one of two ranks crashes, and four go on, on other hosts",
        (
            Process(0, end=10.1, state="failed", cause=LOST_PEER),
            Process(1, end=10, state="crashed", host="b"),
            *(Process(rank, start=14, host=f"n{rank}", world=4) for rank in range(4)),
        ),
        (Message("TrainingRankLost", (10, 11), (15, 16.5), AT_WORK, rank=1),),
    ),
    Incident(
        "two-monitors",
        "two monitors scrape a run of which a rank crashes",
        (Process(0, end=10, state="failed", cause=LOST_PEER), Process(1, end=10, state="crashed", host="b")),
        (Message("TrainingRankLost", (10, 11), rank=1),),
        monitors=("j", "k"),
    ),
    Incident(
        "late-crash",
        "a rank crashes on its way out, after rank 0 has finished the run",
        (Process(0, end=10, linger=5), Process(1, end=10.4, state="crashed", host="b")),
    ),
    Incident(
        "deleted",
        "all pods of a run are deleted at once, and a larger one of its name comes twenty minutes later",
        (
            Process(0, end=10, state="vanished"),
            Process(1, end=10, state="vanished", host="b"),
            *(Process(rank, start=30, host=f"{rank}", world=3) for rank in range(3)),
        ),
        tuple(Message("TrainingRankLost", (10.5, 12.5), (31, 32.5), AT_WORK, rank=rank) for rank in (0, 1)),
        gone={"a": 10, "b": 10},
    ),
    Incident(
        "rolled",
        "the pods of a run move to other hosts one after another, each within a minute, and training goes on",
        (
            Process(0, end=10, state="vanished"),
            Process(0, start=10.6, host="c"),
            Process(1, end=14, state="vanished", host="b"),
            Process(1, start=14.6, host="d"),
        ),
        gone={"a": 10, "b": 14},
    ),
    Incident(
        "again-and-again",
        "a rank crashes, is at work again, and crashes again ten minutes later",
        (
            Process(0, end=10, state="crashed", world=1),
            Process(0, start=12, end=22, state="crashed", world=1),
            Process(0, start=24, world=1),
        ),
        (Message("TrainingRankLost", (10, 11), (25, 26.5), AT_WORK, rank=0, times=2),),
    ),
)
