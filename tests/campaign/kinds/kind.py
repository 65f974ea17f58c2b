"""What a kind of fault is, and the names of the alerts that many kinds share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
        end: how the incident is brought to its end once it was reported and watched for `after`: `restart`
            (what is left is killed and the job launched anew), `restart_smaller` (with a rank fewer), `go_on`
            (SIGCONT), `agent` (it is started anew), `leave` (nothing is done: it is never over). Until then
            it must not be reported as over. Empty: that is not judged.
        closed: what the closing message must say, as a regular expression.
        end_within: seconds from the end to its message, of all alerts that are expected.
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
    end: str = ""
    closed: str = ""
    end_within: float = 150.0
