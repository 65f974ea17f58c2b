"""`trainbeacon report`: its verdict on each fault of the simulator, and the page that it writes."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.seen import Seen
from tests.serving import Node
from tests.simulated import READY, simulated
from trainbeacon.cli import main
from trainbeacon.report import page as pages
from trainbeacon.report.record import Record, add_facts, conclude, read
from trainbeacon.simulate.fleet import Size
from trainbeacon.simulate.history import History
from trainbeacon.simulate.scenarios import Plan
from trainbeacon.stack import processes, web
from trainbeacon.stack.ports import free_port
from trainbeacon.verdict.alerts import words_of

AFTER, SOON = READY + 200.0, READY + 40.0
#: Scenario: the alert in whose words the verdict is, and when it is looked at.
FAULTS = {
    "nan": ("TrainingLossNotFinite", AFTER),
    "hang": ("TrainingStalled", AFTER),
    "stuck-loader": ("TrainingStalled", AFTER),
    "straggler-data": ("TrainingStraggler", AFTER),
    "straggler-compute": ("TrainingStraggler", AFTER),
    "straggler-host": ("TrainingStraggler", AFTER),
    "crash": ("TrainingRankLost", SOON),
    "oom": ("TrainingRunFailed", SOON),
    "input-bound": ("TrainingInputBound", AFTER),
    "xid": ("TrainingGpuLost", SOON),
    "throttling": ("TrainingGpuThrottled", AFTER),
}


@pytest.mark.parametrize("scenario", FAULTS)
def test_the_verdict_names_the_fault(scenario: str) -> None:
    """Whoever opens the report knows by its first line what was wrong with which run."""
    alert, after = FAULTS[scenario]
    with simulated(scenario, ranks=8, seed=5) as fleet, closing(Seen(fleet)) as seen:
        sight = seen.at(after)
        record = Record(fleet.truth[0].run, "simulator", fleet.clock.now)
        add_facts(record, sight.facts, sight.findings)
        conclude(record)
    said = {each["alert"] for each in record.findings}
    assert alert in said
    assert record.severity in ("critical", "warning")
    assert any(each["sentence"].startswith(words_of(alert, "").summary) for each in record.findings)
    assert record.verdict == record.findings[0]["sentence"]
    assert record.action


def test_a_healthy_run_is_called_so() -> None:
    """No fault in sight, with how far it is."""
    with simulated(ranks=8, seed=1) as fleet, closing(Seen(fleet)) as seen:
        sight = seen.at(AFTER)
        record = Record(fleet.run.name, "simulator", fleet.clock.now)
        add_facts(record, sight.facts, sight.findings)
        conclude(record)
    assert record.verdict.startswith(f"No fault in sight: run {fleet.run.name} of 8 rank(s), step ")
    assert "running" == record.outcome


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """Two runs that are over: one well, one by an exception."""
    node = Node(
        tmp_path_factory.mktemp("ended") / "boxes",
        {"serve": "off", "hyperparameters": {"lr": 0.1, "batch_size": 1}},
    )
    node.rank(run="good", script=True).end()
    bad = node.rank(run="bad", hyperparameters={"lr": 0.2, "batch_size": 1})
    bad.ask("step 300")
    bad.end("raise")
    yield node
    node.close()


def test_the_page(ended: Node, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One file below half a megabyte that fetches nothing and runs nothing, Markdown and JSON beside it."""
    page = tmp_path / "report.html"
    line = ["report", "bad", f"--directory={ended.folder}", f"--output={page}"]
    assert 0 == main(line)
    said = capsys.readouterr().out.splitlines()
    assert "ConnectionError" in said[0]
    text = page.read_text()
    assert page.stat().st_size < 500_000
    assert [] == re.findall(r"<script|src=|href=|@import|url\(|https?://", text)
    assert "<polyline" in text
    assert "failed: rank 0" in text
    for part in ("The run", "Hyperparameters", "Environment", "Not known", "Ranks, the slowest first"):
        assert f"<h2>{part}</h2>" in text
        assert f"## {part}" in page.with_suffix(".md").read_text()
    kept = read(page.with_suffix(".json"))
    assert ("bad", "0.2", 300.0) == (kept.run, kept.hyperparameters["lr"], kept.step)
    assert json.loads(page.with_suffix(".json").read_text())["verdict"] == said[0]

    # Compared with an earlier one, from its file.
    other = tmp_path / "other.html"
    good = ["report", "good", f"--directory={ended.folder}", f"--output={other}"]
    status = main([*good, "--against", str(page.with_suffix(".json"))])
    assert status in (0, 1, 3)
    text = other.with_suffix(".md").read_text()
    assert "| lr | 0.1 | 0.2 |" in text
    assert text.index("Differences of configuration") < text.index("## The run")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["absent"], "no black box of a run absent here (runs here: bad, good)"),
        (
            ["good", "--fail-if", "samples_per_second < 0.9 * baseline"],
            "baseline is the run of --against RUN",
        ),
        (["good", "--fail-if", "oops"], "is no comparison"),
        (["none.json"], "No such file"),
    ],
)
def test_wrong_use_is_said(
    ended: Node, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is written, and the sentence says what there is."""
    assert 2 == main(["report", *arguments, f"--directory={ended.folder}"])
    assert said in capsys.readouterr().err


def test_a_hostile_name_is_text(tmp_path: Path) -> None:
    """What a run, an exception or a hyperparameter is called is shown and not obeyed."""
    evil = '<script>alert("x")</script>|`'
    record = Record(evil, evil, 0.0, verdict=evil, hyperparameters={evil: evil}, outcome=evil, gaps=[evil])
    assert "<script" not in pages.html(record)
    assert "\\|" in pages.markdown(record)


@pytest.mark.e2e
def test_from_prometheus(
    prometheus: str, promtool: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of the life of a run that Prometheus keeps, and compared with itself it passes."""
    data = tmp_path / "data"
    data.mkdir()
    end = time.time() - 60.0
    past = History(Size(2, 1, 1), Plan([]), seconds=3600.0, end=end, interval=30.0)
    run = past.fleet.runs[0].name
    past.write_blocks(str(data), promtool)
    port = free_port()
    (data / "prometheus.yml").write_text("{}\n")
    options = [f"--config.file={data}/prometheus.yml", f"--storage.tsdb.path={data}"]
    options += [f"--web.listen-address=127.0.0.1:{port}", "--storage.tsdb.retention.time=10y"]
    server = processes.start([prometheus, *options], tmp_path / "log")
    try:
        url = f"http://127.0.0.1:{port}"
        assert processes.wait_until(lambda: web.answers(f"{url}/-/ready"), 120)
        page = tmp_path / "page.html"
        assert 0 == main(["report", run, "--prometheus", url, "--hours", "2", "--output", str(page)])
        said = capsys.readouterr().out
        assert said.startswith("Out of sight: ")
        assert "No fault in sight" in said
        found = read(page.with_suffix(".json"))
        assert {"training loss", "learning rate", "samples a second"} <= set(found.curves)
        assert found.world_size == 2
        assert found.seconds["productive"] > 0
        assert found.hyperparameters
        line = ["report", run, "--prometheus", url, "--hours", "2", "--output", str(page)]
        assert 0 == main([*line, "--against", run])
        assert "passed: samples_per_second" in capsys.readouterr().out
        assert 2 == main(["report", "absent", "--prometheus", url, "--output", str(page)])
    finally:
        processes.stop([server])
