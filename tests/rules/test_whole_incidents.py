"""Whole incidents: what is said from the first message to the one that closes it, and nothing besides."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.rules.incidents import INCIDENTS
from tests.rules.scripted_incident import SCRAPE_SECONDS, Incident, Message

MINUTES = 34
#: Nothing that these incidents are about reads them, and they take most of the time.
LEFT_OUT = {"anomaly.yml", "dashboards.yml", "gpuhours.yml", "memory.yml", "stragglers.yml"}
BY = "cluster, alertname, run, rank, instance"
WINDOW = f"[{MINUTES}m:{SCRAPE_SECONDS}s]"
#: The recorded series whose value says why an alert is over.
CLOSINGS = {
    "TrainingRankLost": "run_rank:training_lost:closing",
    "TrainingStalled": "run:training_stalled:closing",
    "TrainingRunFailed": "run:training_run_failure:closing_seen",
    "TrainingLossNotFinite": "run:training_nonfinite:closing",
}


def labels(incident: Incident, message: Message) -> str:
    found = f'alertname="{message.alert}", cluster="{incident.cluster}"'
    found += f', run="{incident.run}"' if message.alert != "TrainBeaconClockOff" else ""
    found += f', rank="{message.rank}"' if message.rank is not None else ""
    return found + (f', instance="{incident.run}-{message.host}:1"' if message.host else "")


def within(expression: str, span: tuple[float, float]) -> str:
    """A query that is 1 where a time lies between two minutes."""
    return f"0 * ({expression} >= {60 * span[0]:g} <= {60 * span[1]:g}) + 1"


def firing(matchers: str = "", ago: str = "") -> str:
    """The alerts of which people hear, as 1: a stall is muted where a rank is lost or the run has failed."""
    alerts = f'ALERTS{{alertstate="firing",severity=~"critical|warning"{matchers}}}{ago}'
    cause = f'ALERTS{{alertstate="firing",alertname=~"TrainingRanks?Lost|TrainingRunFailed"}}{ago}'
    stalled = alerts.replace("ALERTS{", 'ALERTS{alertname="TrainingStalled",')
    return f"(0 * ({alerts} unless ({stalled} and on (cluster, run) {cause})) + 1)"


def expectations(incidents: tuple[Incident, ...]) -> list[dict[str, Any]]:
    """What promtool asks at the end: each alert has fired in one stretch, begun and ended in its time."""
    last = {"eval_time": f"{MINUTES}m"}
    begins = f"({firing()} unless {firing(ago=f' offset {SCRAPE_SECONDS}s')})"
    said = [(incident, message) for incident in incidents for message in incident.messages]
    found: list[dict[str, Any]] = [
        {
            **last,
            "expr": f"sum by ({BY}) (sum_over_time({begins}{WINDOW}))",
            "exp_samples": [{"labels": f"{{{labels(*each)}}}", "value": each[1].times} for each in said],
        }
    ]
    for incident, message in said:
        name = labels(incident, message)
        times = f"(time() * {firing(f', {name}')}){WINDOW}"
        one = [{"labels": f"{{{name}}}", "value": 1}]
        begun = within(f"min by ({BY}) (min_over_time({times}))", message.begin)
        ended = within(f"max by ({BY}) (max_over_time({times}))", message.end or (MINUTES, MINUTES))
        found += [{**last, "expr": expression, "exp_samples": one} for expression in (begun, ended)]
        if message.alert in CLOSINGS:
            rank = f',rank="{message.rank}"' if message.alert == "TrainingRankLost" else ""
            series = f'{CLOSINGS[message.alert]}{{cluster="{incident.cluster}",run="{incident.run}"{rank}}}'
            reason = [] if message.closed is None else [{"labels": "{}", "value": message.closed}]
            asked = f"max(max_over_time({series}[{MINUTES}m]))"
            found.append({**last, "expr": asked, "exp_samples": reason})
    return found


@pytest.mark.versions_apart
def test_each_incident_has_one_message_and_one_end_by_evidence(
    every_promtool: str, stack_suite: str, repository: Path, tmp_path: Path
) -> None:
    """No alert comes late, twice, without a reason or unasked, in whatever order groups are evaluated."""
    rules = [
        path for path in sorted(repository.glob("prometheus/rules/*/*.yml")) if path.name not in LEFT_OUT
    ]
    groups = [group["name"] for path in rules for group in yaml.safe_load(path.read_text())["groups"]]
    script = {
        "rule_files": [str(path) for path in rules],
        "evaluation_interval": f"{SCRAPE_SECONDS}s",
        # As in no other scenario; on later versions as in those.
        "group_eval_order": groups[::-1] if stack_suite == "default" else groups,
        "tests": [
            {
                "interval": f"{SCRAPE_SECONDS}s",
                "input_series": [
                    {"series": name, "values": values}
                    for incident in INCIDENTS
                    for name, values in incident.series(MINUTES).items()
                ],
                "promql_expr_test": expectations(INCIDENTS),
            }
        ],
    }
    path = tmp_path / "incidents.test.yml"
    path.write_text(yaml.safe_dump(script))
    done = subprocess.run(
        [every_promtool, "test", "rules", str(path)],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
