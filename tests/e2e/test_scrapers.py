"""Programs that scrape and are no Prometheus read all that a job records."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.nvml_stub.build import build
from tests.scripted import Service, serving
from tests.serving import request, wait_for
from trainbeacon.stack import processes, web
from trainbeacon.stack.ports import free_port
from trainbeacon.testing import ScriptedJob, Series, read_exposition, series

pytestmark = pytest.mark.e2e

JOB = ScriptedJob()
EXPECTED: Mapping[Series, float] = {**JOB.expected(0), **JOB.expected(1)}
#: What the scraper adds.
_ADDED = ("__name__", "instance", "job")

Start = Callable[..., str]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Two real ranks that have recorded a scripted job, GPUs of a stand-in NVML among it, and their agent."""
    if not shutil.which("cc"):
        pytest.skip("no C compiler (cc) to build the stand-in NVML")
    nvml = build(tmp_path_factory.mktemp("nvml")).parent
    with serving("agent", tmp_path_factory.mktemp("node") / "job", nvml) as made:
        yield made


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a server on a port of its own, and returns its address."""
    started = []

    def begin(program: str, *options: str) -> str:
        port = free_port()
        command = [program, *(each.format(port=port) for each in options)]
        started.append(processes.start(command, tmp_path / "log"))
        wait_for(lambda: web.answers(f"http://127.0.0.1:{port}/metrics"), what=program)
        return f"http://127.0.0.1:{port}"

    yield begin
    processes.stop(started)


def test_victoria_metrics_scrapes_what_was_recorded(
    service: Service, victoria_metrics: str, start: Start, tmp_path: Path
) -> None:
    """Every series of the page is in it, with labels and value; only NaN, which it does not keep, is not."""
    config = tmp_path / "scrape.yml"
    target = service.url.split("/")[2]
    job = {"job_name": "trainbeacon", "scrape_interval": "1s", "static_configs": [{"targets": [target]}]}
    config.write_text(json.dumps({"scrape_configs": [job]}))
    address = start(
        victoria_metrics, f"-promscrape.config={config}", f"-storageDataPath={tmp_path / 'data'}",
        "-httpListenAddr=127.0.0.1:{port}", "-search.latencyOffset=0s", "-memory.allowedBytes=64MB",
    )  # fmt: skip

    def scraped() -> dict[Series, float]:
        web.get(f"{address}/internal/force_flush")  # what is new can be asked for at once
        found = web.get_json(f"{address}/api/v1/query", query='{job="trainbeacon"}')["data"]["result"]
        samples = [(each["metric"], float(each["value"][1])) for each in found]
        return {_series(labels["__name__"], labels): value for labels, value in samples}

    page, expected = _without_empty(read_exposition(service.text)), _without_empty(EXPECTED)
    numbers = {key: value for key, value in expected.items() if not math.isnan(value)}
    absent = expected.keys() - numbers
    assert absent
    got = wait_for(scraped, what="series")
    assert absent == page.keys() - got.keys()
    assert numbers == {key: got[key] for key in numbers}


def _series(name: str, labels: Mapping[str, str]) -> Series:
    """For every scraper an empty label is one that is not there."""
    return series(name, **{key: value for key, value in labels.items() if value and key not in _ADDED})


def _without_empty(found: Mapping[Series, float]) -> dict[Series, float]:
    return {_series(key.name, dict(key.labels)): value for key, value in found.items()}


def test_library_of_go_reads_the_page(
    service: Service, exporter_exporter: str, start: Start, tmp_path: Path
) -> None:
    """Prometheus' Go library for text, by which many scrapers read, takes the whole page without a fault."""
    config = tmp_path / "modules.yml"
    port = int(service.url.split("/")[2].rpartition(":")[2])
    module = {"method": "http", "http": {"port": port, "verify": True}}
    config.write_text(json.dumps({"modules": {"trainbeacon": module}}))
    address = start(exporter_exporter, f"-config.file={config}", "-web.listen-address=127.0.0.1:{port}")
    answer = request(f"{address}/proxy?module=trainbeacon")
    assert (200, "text/plain") == (answer.status, answer.headers["content-type"].partition(";")[0])
    assert read_exposition(service.text).keys() == read_exposition(answer.text).keys()
