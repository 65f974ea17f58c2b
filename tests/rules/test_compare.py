"""Compare puts runs side by side at the same step, whichever is faster and whichever has ended."""

from __future__ import annotations

import subprocess
from pathlib import Path

import yaml

from tests.screens import asked, every_panel

#: Steps a minute, and minutes for which a run is there.
RUNS = {"slow": (10, 40), "quick": (50, 40), "ended": (20, 15)}


def test_runs_are_compared_at_the_last_step_that_all_have_made(promtool: str, tmp_path: Path) -> None:
    """One that has ended is among them, and its last step bounds that of the others; curves share a grid."""
    panels = {panel["title"]: panel["targets"] for panel in every_panel("trainbeacon-compare")}
    by_name = {target["legendFormat"]: target["expr"] for target in panels["At the same step"]}
    series = []
    for run, (pace, minutes) in RUNS.items():
        of = f'cluster="c",namespace="n",run="{run}"'
        series.append({"series": f"run:training_step:max{{{of}}}", "values": f"0+{pace}x{minutes}"})
        series.append(
            {"series": f'run:training_loss:avg{{{of},split="train"}}', "values": f"1000-{pace}x{minutes}"}
        )
    x = next(target["expr"] for target in panels["Training loss"] if target["legendFormat"] == "step")
    questions = {
        # All have made 300 steps, the ended run its last: the loss is as low as the step is high.
        by_name["at step"]: {"slow": 300, "quick": 300, "ended": 300},
        by_name["training loss"]: {"slow": 700, "quick": 700, "ended": 700},
        by_name["last step"]: {"slow": 400, "quick": 2000, "ended": 300},
        # 2,000 steps make a grid of tens: 400 and 2,000 are on it.
        x: {"slow": 400, "quick": 2000},
    }
    tests = [
        {
            "expr": asked(expr).replace("[30m", "[40m"),
            "eval_time": "40m",
            "exp_samples": [{"labels": f'{{run="{run}"}}', "value": value} for run, value in wanted.items()],
        }
        for expr, wanted in questions.items()
    ]
    file = tmp_path / "compare.test.yml"
    test = {"interval": "1m", "input_series": series, "promql_expr_test": tests}
    file.write_text(yaml.safe_dump({"evaluation_interval": "1m", "tests": [test]}))
    done = subprocess.run(
        [promtool, "test", "rules", str(file)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
