"""The promise to a script with metrics of its own: they are served with the rank's, whoever serves.

A real script (tests/user_metrics_rank.py) over the three ways, with two ranks.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scripted import WAYS
from tests.serving import (
    OPENMETRICS,
    PATIENCE,
    REPOSITORY,
    Node,
    environment,
    node,
    request,
    scrape,
    wait_for,
)
from trainbeacon.testing import Series, read_exposition, series

SCRIPT = REPOSITORY / "tests/user_metrics_rank.py"


@pytest.fixture(scope="module", params=WAYS)
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """Two ranks of the script; the first one has a collector that raises, too."""
    serve = "off" if request.param == "agent" else request.param
    with node(tmp_path_factory.mktemp("node") / "boxes", serve=serve) as made:
        if request.param == "agent":
            made.agent()
        ranks = [start(made, rank) for rank in range(2)]
        yield made
        for rank in ranks:
            rank.communicate(timeout=PATIENCE)


def start(made: Node, rank: int) -> subprocess.Popen[str]:
    settings = {**made.settings, "broken": rank == 0}
    with (made.folder / f"stderr-{rank}").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), json.dumps(settings)],
            env={**environment(rank, 2), **made.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert process.stdout
    assert "ready\n" == process.stdout.readline()
    return process


def whole(made: Node) -> dict[Series, float]:
    """The first scrape in which both ranks have arrived."""
    url = made.url()
    late = [series("not_a_number", run="r", rank=rank) for rank in range(2)]
    return wait_for(
        lambda: served if all(key in (served := scrape(url)) for key in late) else None,
        what="metrics of the user's own",
    )


def expected(rank: int) -> dict[Series, float]:
    def of(name: str, **labels: object) -> Series:
        return series(name, run="r", rank=rank, **labels)

    return {
        of("episodes_total", env='cart\n"pole"'): 3.0,
        of("buffer_fill_ratio"): 0.25,
        of("reward_bucket", exported_rank="first", le="1.0"): 1.0,
        of("reward_bucket", exported_rank="first", le="10.0"): 2.0,
        of("reward_bucket", exported_rank="first", le="+Inf"): 3.0,
        of("reward_sum", exported_rank="first"): 55.5,
        of("reward_count", exported_rank="first"): 3.0,
        of("rollout_seconds_sum"): 2.0,
        of("rollout_seconds_count"): 1.0,
        of("policy_info", kind="ppo"): 1.0,
        of("stage", stage="easy"): 0.0,
        of("stage", stage="hard"): 1.0,
    }


def test_every_kind_of_metric_arrives_with_run_and_rank(service: Node) -> None:
    """Counters, gauges, histograms, summaries, infos and enums of both ranks, with odd label texts; a label
    of the user's called rank becomes exported_rank. That one collector raises takes none of them along."""
    served = whole(service)
    wanted = {**expected(0), **expected(1)}
    assert wanted == {key: served.get(key) for key in wanted}
    assert math.isnan(served[series("not_a_number", run="r", rank=0)])


def test_types_and_help_arrive(service: Node) -> None:
    """Prometheus learns what each metric is, in both formats, and takes it for one family of two ranks."""
    whole(service)
    text = request(service.url()).text
    assert 1 == text.count("# TYPE episodes_total counter\n")
    assert "# HELP buffer_fill_ratio Share of the replay buffer in use.\n" in text
    assert "# TYPE reward histogram\n" in text
    openmetrics = request(service.url(), accept=OPENMETRICS).text
    assert "# TYPE episodes counter\n" in openmetrics
    assert read_exposition(text).keys() == read_exposition(openmetrics).keys()


def test_nothing_is_there_that_the_user_did_not_make(service: Node) -> None:
    """prometheus-client's default collectors are not served a second time, nor creation times."""
    names = {key.name for key in whole(service)}
    strange = {
        name for name in names if name.startswith(("python_", "process_")) or name.endswith("_created")
    }
    assert set() == strange


def test_a_name_of_ours_is_refused_and_counted(service: Node) -> None:
    """The user's `training_loss` does not get in the way of the beacon's; the exporter counts it."""
    served = whole(service)
    losses = {key: value for key, value in served.items() if key.name == "training_loss"}
    mine = {series("training_loss", run="r", rank=rank, split="train"): 1.0 for rank in range(2)}
    assert mine == losses
    assert served[series("trainbeacon_series_dropped_total", run="", rank="")] >= 2.0


def test_a_collector_that_raises_is_counted_for_its_rank(service: Node) -> None:
    """The rank with the broken collector says so; the other one has no error."""
    errors = [series("trainbeacon_errors_total", run="r", rank=rank, where="helper") for rank in range(2)]
    served = whole(service)
    assert served[errors[0]] >= 1.0
    assert 0.0 == served[errors[1]]
    assert "the user's collector is broken" in (service.folder / "stderr-0").read_text()


def test_scrape_is_clean_for_promtool(service: Node, promtool: str) -> None:
    """Prometheus' own linter parses the whole scrape; what it has to say is about names of the user's."""
    whole(service)
    text = request(service.url()).text
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True)
    about = {line.split(" ")[0] for line in (done.stdout + done.stderr).splitlines()}
    assert about <= {"stage", "reward", "episodes_total", "policy_info"}


def test_files_are_closed_to_others_and_go_with_the_run(tmp_path: Path) -> None:
    """What the rank writes is for its owner and group, and is gone after the end."""
    with node(tmp_path / "boxes", serve="off") as made:
        rank = start(made, 0)
        (file,) = wait_for(lambda: list(made.folder.glob("*.box.prom")), what="file")
        assert 0o640 == file.stat().st_mode & 0o777
        assert Path(str(file).removesuffix(".prom")).exists()
        rank.communicate(timeout=PATIENCE)
        assert 0 == rank.returncode
        assert [] == list(made.folder.glob("*.prom"))


def test_it_can_be_switched_off(tmp_path: Path) -> None:
    """With user_metrics=False nothing is written."""
    with node(tmp_path / "boxes", serve="off", user_metrics=False) as made:
        rank = start(made, 1)
        made.agent()
        begun = wait_for(lambda: made.value("training_heartbeat_timestamp_seconds", rank=1), what="rank")
        wait_for(
            lambda: made.value("training_heartbeat_timestamp_seconds", rank=1) > begun + 1.5,
            what="two turns of the helper",
        )
        assert [] == list(made.folder.glob("*.prom"))
        assert set() == {key for key in made.scrape() if key.name == "buffer_fill_ratio"}
        rank.communicate(timeout=PATIENCE)
