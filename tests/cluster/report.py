"""The figures of a cluster's incidents: raw results to benchmarks/results, tables into docs/campaign.md."""

from __future__ import annotations

import json
import os
import statistics
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

from tests.campaign import report
from tests.campaign.campaign import read_outcomes
from tests.campaign.judge import Outcome, summarise
from tests.cluster.kinds import BY_NAME

BEGIN, END = "<!-- begin: python -m tests.cluster --report -->", "<!-- end: cluster -->"


def write(path: Path) -> None:
    """Keep the outcomes of a file and bring the page up to date."""
    outcomes = sorted(read_outcomes(path), key=lambda each: each.number)
    machine = {"date": datetime.now(timezone.utc).date().isoformat(), "cores": os.cpu_count()}
    kept = {"machine": machine, "commit": report.present_commit(), "outcomes": [asdict(o) for o in outcomes]}
    (report.RESULTS / "cluster.json").write_text(json.dumps(kept, indent=1) + "\n")
    head, _, rest = report.PAGE.read_text().partition(BEGIN)
    _, _, tail = rest.partition(END)
    report.PAGE.write_text(f"{head}{BEGIN}\n{page(outcomes)}\n{END}{tail}")


def page(outcomes: list[Outcome]) -> str:
    """All tables."""
    kinds = {name: each.kind for name, each in BY_NAME.items()}
    loads = [each.load for each in outcomes]
    faults = [each for each in outcomes if kinds[each.kind].expected]
    return "\n".join(
        [
            f"{len(faults)} incidents and {len(outcomes) - len(faults)} controls. Load average at their ends:"
            f" {min(loads):.0f} to {max(loads):.0f}, median {statistics.median(loads):.0f}, on"
            f" {os.cpu_count()} cores. Commit {report.present_commit()}.",
            "",
            *report.overall(summarise(outcomes, kinds=kinds)),
            "",
            *report.table("Incidents and controls", list(kinds.values()), outcomes),
            "",
            *report.false_alarms(outcomes, kinds),
        ]
    )
