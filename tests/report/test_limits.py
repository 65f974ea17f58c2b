"""`trainbeacon thresholds`: limits that a good run would not have crossed; a false alarm widens one."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainbeacon import catalogue
from trainbeacon.cli import main
from trainbeacon.config.settings import Config
from trainbeacon.report.limits import DEFAULTS, RULES
from trainbeacon.report.record import Mark, Point, Record


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """The report of a run that went well, with ranks that often wait for data."""
    record = Record("good", "made", 100.0, begins=0.0, ends=1000.0, outcome="finished", world_size=2)
    record.curves["training loss"] = [Point(at, at, 5.0 - at / 25) for at in range(100)]
    record.curves["gradient norm"] = [Point(at, at, 1.0 + (at == 50) * 100) for at in range(101)]
    record.ranks = [
        {"rank": 0, "data_wait": 0.4, "excess": 0.01},
        {"rank": 1, "data_wait": 0.3, "excess": None},
    ]
    record.seconds = {"productive": 300.0, "init": 700.0}
    record.marks = [Mark(at, "checkpoint", "") for at in (100.0, 400.0, 900.0)]
    file = tmp_path / "good.json"
    file.write_text(record.as_json())
    return file


def test_limits_are_what_the_run_did_with_room(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A single outlier does not make a limit; a wider default stays; a run can start with it."""
    assert 0 == main(["thresholds", "--from", str(good)])
    text = capsys.readouterr().out
    file = tmp_path / "config.yml"
    assert 0 == main(["thresholds", "--from", str(good), str(file)])
    assert file.read_text() == text
    assert {
        "loss_max": 5.5,
        "gradient_norm_max": 2.0,
        "gradient_norm_min": 0.1,
        "data_wait_ratio_max": 0.5,
        "goodput_ratio_min": 0.27,
        "run_seconds_max": 1500.0,
    } == Config.load({}, {"TRAINBEACON_CONFIG": str(file)}).thresholds
    assert "TrainingInputBound would have fired with the default 0.2" in text
    assert "straggler_ratio_max" not in text
    assert 2 == main(["thresholds", "--from", str(good), str(file)])


def test_a_false_alarm_widens_its_limit_and_is_remembered(good: Path, tmp_path: Path) -> None:
    """Twice: both reasons stay, the other limits too, and what fires below its limit is lowered."""
    file = tmp_path / "config.yml"
    assert 0 == main(["thresholds", "--from", str(good), str(file)])
    for reason in ("cold cache\non Mondays", "again"):
        line = ["thresholds", "--false-alarm", "TrainingInputBound", "--reason", reason, str(file)]
        assert 0 == main(line)
    assert 0 == main(["thresholds", "--false-alarm", "TrainingGoodputLow", str(file)])
    assert 0 == main(["thresholds", "--false-alarm", "TrainingStraggler", str(file)])
    found = Config.load({}, {"TRAINBEACON_CONFIG": str(file)}).thresholds
    assert 1.12 == pytest.approx(found["data_wait_ratio_max"], rel=0.02)
    assert 0.18 == found["goodput_ratio_min"]
    assert 0.06 == pytest.approx(found["straggler_ratio_max"])
    assert 5.5 == found["loss_max"]
    text = file.read_text()
    assert "# false alarm of TrainingInputBound: cold cache on Mondays (was 0.5)" in text
    assert "# false alarm of TrainingInputBound: again (was 0.75)" in text


def test_what_is_no_alert_with_a_limit_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the names of those that have one."""
    file = tmp_path / "config.yml"
    assert 2 == main(["thresholds", "--false-alarm", "TrainingRankLost", str(file)])
    assert "TrainingInputBound" in capsys.readouterr().err
    assert not file.exists()


def test_limits_and_alerts_are_those_of_the_rules(repository: Path) -> None:
    """Each name is one that a run may set, and the alert is one that reads it."""
    table = (repository / "prometheus/ALERTS.md").read_text()
    goodput = (repository / "prometheus/rules/alerts/efficiency.yml").read_text()
    assert f"0 * run:training_goodput:ratio_rate1h + {DEFAULTS['goodput_ratio_min']}\n" in goodput
    rules = "".join(path.read_text() for path in sorted(repository.glob("prometheus/rules/alerts/*.yml")))
    assert set(RULES) <= set(catalogue.THRESHOLDS)
    for name, rule in RULES.items():
        assert f"| `{name}` |" in table
        for alert in rule.alerts:
            assert f"- alert: {alert}\n" in rules
