"""The campaign in small: a few faults in real jobs, and the messages that arrive of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.campaign.campaign import Log, play
from tests.campaign.history import judge_fleet
from tests.campaign.injections import draw
from tests.campaign.judge import Share, summarise
from trainbeacon.simulate.fleet import Size
from trainbeacon.simulate.scenarios import Plan
from trainbeacon.stack import binaries

pytest.importorskip("torch")

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

FEW = {"nan_gradient": 1, "killed_rank": 1, "stopped_rank": 1}


def test_faults_reach_somebody_with_their_culprit(tmp_path: Path) -> None:
    """Each fault sends its alert in time, names the rank, and nothing else is sent about anything."""
    if not binaries.find().complete:
        pytest.skip("Prometheus and Alertmanager are not available here: `make tools`")
    injections = [dataclasses.replace(each, before=10.0) for each in draw(7, FEW)]
    log = Log(tmp_path / "outcomes.jsonl")
    beside = play(injections, log, slots=len(injections), minutes=8)
    assert [] == beside
    summary = summarise(log.outcomes)
    assert Share(3, 3) == summary.recall == summary.precision == summary.culprit, log.outcomes


def test_healthy_hours_fire_nothing(promtool: str) -> None:
    """A healthy fleet and one with a NaN, through all shipped alert rules."""
    healthy = judge_fleet(Size(4, 1, 2), 3, Plan(), hours=0.4)
    assert {"Watchdog"} == {each.alert for each in healthy.fired}
    assert pytest.approx(2 * 0.4 / 24, rel=0.05) == healthy.run_days
    spoilt = judge_fleet(Size(4, 1, 2), 3, Plan(["nan"], 600.0), hours=0.4)
    told = {(each.alert, each.run) for each in spoilt.fired if each.severity == "critical"}
    assert {("TrainingLossNotFinite", str(spoilt.injections[0]["run"]))} == told
