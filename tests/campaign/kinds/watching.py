"""Faults of those who watch, and of names."""

from __future__ import annotations

from tests.campaign.kinds.kind import BLIND, Kind

WATCHING: tuple[Kind, ...] = (
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
        end="agent",
        closed="The ranks are seen again",
        end_within=400,  # a warning's next message waits for five minutes
    ),
)
