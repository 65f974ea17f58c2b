"""The promise of serving: whoever serves the black boxes, the answers are the same.

Each test runs over the three ways (a process, a thread, `trainbeacon agent`), with two real ranks.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.golden.normalise import normalised
from tests.nvml_stub.build import build
from tests.scripted import GOLDEN, WAYS, Service, serving
from tests.serving import OPENMETRICS, node, request, scrape, wait_for
from trainbeacon.testing import ScriptedJob, read_exposition, series

JOB = ScriptedJob()


@pytest.fixture(scope="module")
def nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("cc"):
        pytest.skip("no C compiler (cc) to build the stand-in NVML")
    return build(tmp_path_factory.mktemp("nvml")).parent


@pytest.fixture(scope="module", params=WAYS)
def service(
    request: pytest.FixtureRequest, nvml: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    with serving(request.param, tmp_path_factory.mktemp("node") / "job", nvml) as made:
        yield made


def test_whole_scrape_is_the_golden_one(service: Service) -> None:
    """Every line of a scrape (names, types, help, labels, order, values) is the one in the tree.

    After a change that is meant: `python -m tests.golden.rewrite`, and read the difference.
    """
    assert GOLDEN.read_text() == normalised(service.text)


def test_numbers_recorded_are_the_numbers_served(service: Service) -> None:
    """Every value that the script fixes is served for both ranks, NaN as NaN."""
    served = read_exposition(service.text)
    expected = {**JOB.expected(0), **JOB.expected(1)}
    assert expected.keys() == {key for key in expected if key in served}
    wrong = {key for key, value in expected.items() if not _same(value, served[key])}
    assert set() == wrong


def _same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


def test_exporter_says_in_which_way_it_serves(service: Service) -> None:
    """`trainbeacon_build_info` names the way of serving."""
    modes = [
        key.label("mode") for key in read_exposition(service.text) if key.name == "trainbeacon_build_info"
    ]
    assert [service.way] == modes


def test_scrape_is_clean_for_promtool(service: Service, promtool: str) -> None:
    """Prometheus' own linter has nothing to say against the scrape."""
    done = subprocess.run([promtool, "check", "metrics"], input=service.text, capture_output=True, text=True)
    assert (0, "") == (done.returncode, done.stdout + done.stderr)


def test_text_format_is_the_default(service: Service) -> None:
    """A scraper that asks for nothing gets the classic text and its content type."""
    answer = request(service.url)
    assert (200, "text/plain; version=0.0.4; charset=utf-8") == (
        answer.status,
        answer.headers["content-type"],
    )
    assert "# TYPE training_loss gauge\n" in answer.text


def test_openmetrics_is_served_to_who_asks(service: Service) -> None:
    """OpenMetrics is valid for a strict parser and shows the same series."""
    answer = request(service.url, accept=OPENMETRICS)
    assert 200 == answer.status
    assert answer.headers["content-type"].startswith(f"{OPENMETRICS}; charset=utf-8")
    assert answer.text.endswith("# EOF\n")
    assert read_exposition(service.text).keys() == read_exposition(answer.text).keys()


@pytest.mark.parametrize(
    ("scraper", "accept", "answered"),
    [
        (
            "Prometheus 2.42",
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75"
            ",text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            OPENMETRICS,
        ),
        (
            "Prometheus 3, native histograms",
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6"
            ",application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5"
            ",text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,*/*;q=0.1",
            OPENMETRICS,
        ),
        ("VictoriaMetrics", "text/plain;version=0.0.4;q=1,*/*;q=0.1", "text/plain"),
        (
            "protobuf or text",
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.7"
            ",text/plain;version=0.0.4;q=0.3,*/*;q=0.1",
            "text/plain",
        ),
        ("protobuf alone", "application/vnd.google.protobuf", "text/plain"),
        ("anything", "*/*", "text/plain"),
        ("what nobody speaks", "application/json;q=1, ;;,q=x", "text/plain"),
    ],
)
def test_each_scraper_gets_a_format_that_it_reads(
    service: Service, scraper: str, accept: str, answered: str
) -> None:
    """Whoever prefers protobuf gets the next that it takes, and the content type says which: nobody fails."""
    answer = request(service.url, accept=accept)
    assert 200 == answer.status, scraper
    assert answer.headers["content-type"].startswith(answered)
    assert (answered == OPENMETRICS) == answer.text.endswith("# EOF\n")
    assert read_exposition(service.text).keys() == read_exposition(answer.text).keys()


def test_gzip_is_served_to_who_asks(service: Service) -> None:
    """A scraper that takes gzip gets a quarter of the bytes at most and the same series."""
    answer = request(service.url, accept_encoding="gzip")
    assert "gzip" == answer.headers["content-encoding"]
    assert len(answer.body) < len(answer.text) / 4
    assert read_exposition(service.text).keys() == read_exposition(answer.text).keys()


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/"])
def test_head_is_get_without_a_body(service: Service, path: str) -> None:
    """A probe with HEAD learns status and type, and gets no body."""
    url = service.url.replace("/metrics", path)
    got, head = request(url), request(url, "HEAD")
    assert (200, b"") == (head.status, head.body)
    assert got.headers["content-type"] == head.headers["content-type"]


def test_unknown_path_is_404_and_counted(service: Service) -> None:
    """A wrong path is told where the metrics are, and shows in the exporter's own metrics."""
    refused = series("trainbeacon_requests_refused_total", reason="not_found")
    before = scrape(service.url)[refused]
    answer = request(service.url + "/x")
    assert (404, True) == (answer.status, "/metrics" in answer.text)
    assert before + 1 == scrape(service.url)[refused]


@pytest.mark.parametrize("method", ["POST", "DELETE", "OPTIONS"])
def test_other_methods_are_405_and_counted(service: Service, method: str) -> None:
    """Nothing can be done to the exporter over HTTP but read."""
    refused = series("trainbeacon_requests_refused_total", reason="method")
    before = scrape(service.url)[refused]
    answer = request(service.url, method)
    assert (405, "GET, HEAD") == (answer.status, answer.headers["allow"])
    assert before + 1 == scrape(service.url)[refused]


def test_healthz_is_short(service: Service) -> None:
    """A liveness probe gets an answer without a scrape."""
    answer = request(service.url.replace("/metrics", "/healthz"))
    assert (200, "ok\n") == (answer.status, answer.text)


def test_landing_page_names_run_and_ranks(service: Service) -> None:
    """Who follows the address in a browser sees each rank with state and step, and a link to the metrics."""
    page = request(service.url.replace("/metrics", "/")).text
    rows = re.findall(r"<tr><td>(\w+)<td>(\d+)<td>(\w+)<td>(\d+)", page)
    assert [("scripted", "0", "running", "30"), ("scripted", "1", "running", "30")] == rows
    assert 'href="/metrics"' in page


def test_name_filter_serves_only_those_families(service: Service) -> None:
    """`?name[]=` leaves out all but the named series, for a person with curl."""
    served = scrape(f"{service.url}?name[]=training_loss&name[]=training_step")
    assert {"training_loss", "training_step"} == {key.name for key in served}


def test_all_ranks_are_on_one_port(service: Service) -> None:
    """One target a node: the one address that discovery has serves both ranks, on the wanted port."""
    port = service.node.settings["port"]
    assert f"http://127.0.0.1:{port}/metrics" == service.url
    ranks = {key.label("rank") for key in read_exposition(service.text) if key.name == "training_step"}
    assert {"0", "1"} == ranks


def test_discovery_files_hold_the_address(service: Service) -> None:
    """`sd_file` and `sd_dir` hold what Prometheus' file_sd_configs reads."""
    address = service.url.split("/")[2]
    expected = [{"targets": [address], "labels": {}}]
    assert expected == json.loads(Path(service.node.settings["sd_file"]).read_text())
    (only,) = Path(service.node.settings["sd_dir"]).iterdir()
    assert f"trainbeacon-127.0.0.1-{address.split(':')[1]}.json" == only.name
    assert expected == json.loads(only.read_text())


def test_ranks_say_nothing_on_standard_output(service: Service) -> None:
    """The job's output is the job's: nothing of ours is printed among it."""
    for rank in service.node.ranks:
        assert "31" == rank.ask("step 1")  # the next line after `ready` is this answer


@pytest.fixture(params=WAYS)
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Starts one rank that is served in this way, and returns the address and the log."""
    with node(tmp_path / "boxes", serve="off" if request.param == "agent" else request.param) as made:

        def begin(**settings: object) -> str:
            made.settings.update(settings)
            flags = [
                f"--{name.replace('_', '-')}={value}" for name, value in settings.items() if name != "port"
            ]
            if request.param == "agent":
                made.agent("--linger=2", *flags)
            made.rank(linger_seconds=2.0)
            return made.url()

        begin.node = made  # type: ignore[attr-defined]
        begin.way = request.param  # type: ignore[attr-defined]
        yield begin


def test_port_of_a_stranger_is_left_to_it(start: Callable[..., str], tmp_path: Path) -> None:
    """A port held by another program moves us to the next free one; discovery file and log say so."""
    sd_file = tmp_path / "sd.json"
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        taken = stranger.getsockname()[1]
        url = start(port=taken, sd_file=sd_file)
        port = int(url.split("/")[2].split(":")[1])
        assert taken < port < taken + 16
        assert 1.0 in scrape(url).values()
        assert f"127.0.0.1:{port}" in sd_file.read_text()
    if start.way == "process":  # type: ignore[attr-defined]
        log = start.node.log()  # type: ignore[attr-defined]
        assert f"port {taken} is taken by another program; serving http://127.0.0.1:{port}/metrics" in log


def test_discovery_files_go_with_the_exporter(start: Callable[..., str], tmp_path: Path) -> None:
    """After the end there is no target: both files are gone, and nobody serves."""
    sd_file, sd_dir = tmp_path / "one.json", tmp_path / "all"
    start(sd_file=sd_file, sd_dir=sd_dir)
    assert sd_file.exists()
    assert 1 == len(list(sd_dir.iterdir()))
    made = start.node  # type: ignore[attr-defined]
    assert 0 == made.ranks[0].end()
    if start.way == "agent":  # type: ignore[attr-defined]
        made.agents[0].send_signal(2)
    wait_for(lambda: not made.is_served, what="end of serving")
    wait_for(lambda: not sd_file.exists(), what="removal of the file")
    assert [] == list(sd_dir.iterdir())
