"""What is written of the user's own metrics, and what that may cost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from tests.serving import wait_for
from trainbeacon.blackbox import textfile
from trainbeacon.recorder.probes import user_metrics
from trainbeacon.recorder.probes.user_metrics import UserMetrics


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> CollectorRegistry:
    """A default registry of this test's own, with what prometheus-client registers by itself."""
    registry = CollectorRegistry(auto_describe=True)
    registry.register(prometheus_client.PLATFORM_COLLECTOR)
    registry.register(prometheus_client.PROCESS_COLLECTOR)
    monkeypatch.setattr(prometheus_client, "REGISTRY", registry)
    return registry


class Probe:
    """A probe of a box in a folder, with what it reported."""

    def __init__(self, folder: Path) -> None:
        self.errors: list[Exception] = []
        self.dropped = 0
        self.file = folder / "r.0.x.box.prom"
        self.probe = UserMetrics(str(folder / "r.0.x.box"), self.errors.append, self.drop)

    def drop(self, series: int) -> None:
        self.dropped += series

    def written(self) -> set[str]:
        """Names of the series that are in the file after one writing."""
        self.probe.write()
        families = text_string_to_metric_families(self.file.read_text())
        return {sample.name for family in families for sample in family.samples}


@pytest.fixture
def probe(tmp_path: Path) -> Iterator[Probe]:
    made = Probe(tmp_path)
    yield made
    made.probe.stop()


def test_only_what_the_user_made_is_written(registry: CollectorRegistry, probe: Probe) -> None:
    """The default collectors are left out, and so are creation times."""
    Counter("steps_seen", "Steps.", registry=registry).inc()
    assert {"steps_seen_total"} == probe.written()


def test_no_thread_without_metrics_of_the_user(registry: CollectorRegistry, probe: Probe) -> None:
    """Whoever registers nothing pays nothing: no thread, no file."""
    probe.probe.poll()
    assert not probe.file.exists()
    assert "trainbeacon-user-metrics" not in {thread.name for thread in threading.enumerate()}


def test_metrics_made_later_are_found(registry: CollectorRegistry, probe: Probe) -> None:
    """A metric that the script registers after the start is written from then on."""
    probe.probe.poll()
    Gauge("later", "Made later.", registry=registry)
    probe.probe.poll()
    wait_for(probe.file.exists, what="file")
    assert "later 0.0\n" in probe.file.read_text()


def test_series_beyond_the_room_are_dropped_by_whole_families(
    registry: CollectorRegistry, probe: Probe
) -> None:
    """A family that does not fit is left out whole and counted once, and smaller ones after it are kept."""
    many = Gauge("many", "Too many.", ["number"], registry=registry)
    for number in range(textfile.MOST_SERIES + 1):
        many.labels(number)
    Histogram("kept", "Fits.", registry=registry)
    names = probe.written()
    assert {"kept_bucket", "kept_sum", "kept_count"} == names
    assert textfile.MOST_SERIES + 1 == probe.dropped
    assert names == probe.written()
    assert textfile.MOST_SERIES + 1 == probe.dropped


def test_bytes_are_bounded(registry: CollectorRegistry, probe: Probe) -> None:
    """Long texts do not make the file longer than the exporter reads."""
    for number in range(20):
        Gauge(f"wide_{number}", "Wide.", ["text"], registry=registry).labels("x" * 10_000)
    probe.probe.write()
    assert 0 < probe.file.stat().st_size <= textfile.MOST_BYTES
    assert probe.dropped >= 14


class Broken:
    """Registers well; collecting raises from the second time on."""

    def __init__(self) -> None:
        self.calls = 0

    def collect(self) -> list[GaugeMetricFamily]:
        self.calls += 1
        if self.calls > 1:
            raise RuntimeError("broken")
        return [GaugeMetricFamily("broken", "Broken.", 1.0)]


def test_a_raising_collector_takes_no_other_along(registry: CollectorRegistry, probe: Probe) -> None:
    """Its error is reported, and what others collect is written."""
    registry.register(Broken())
    Gauge("sound", "Works.", registry=registry)
    assert {"sound"} == probe.written()
    assert ["broken"] == [str(error) for error in probe.errors]


def test_a_family_that_cannot_be_written_takes_no_other_along(
    registry: CollectorRegistry, probe: Probe
) -> None:
    """A value that is no number is the error of that family."""

    class Odd:
        def collect(self) -> list[GaugeMetricFamily]:
            return [GaugeMetricFamily("odd", "Odd.", value="much")]  # type: ignore[arg-type]

    registry.register(Odd())
    Gauge("sound", "Works.", registry=registry)
    assert {"sound"} == probe.written()
    assert 1 == len(probe.errors)


def test_a_collector_that_blocks_holds_nobody(registry: CollectorRegistry, probe: Probe) -> None:
    """Code of the user's that waits for ever is in a thread of its own: looking and stopping return."""
    released = threading.Event()
    Gauge("slow", "Waits.", registry=registry).set_function(lambda: float(released.wait()))
    probe.probe.poll()
    probe.probe.poll()
    probe.probe.stop()
    released.set()  # here already, while it blocks
    wait_for(
        lambda: "trainbeacon-user-metrics" not in {thread.name for thread in threading.enumerate()},
        what="end of the thread",
    )
    assert not probe.file.exists()


def test_an_expensive_registry_is_written_less_often(
    registry: CollectorRegistry, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a writing of 20 ms of processor time the next comes no sooner than 20 s later: a thousandth."""
    waits: list[float] = []
    Gauge("x", "X.", registry=registry)
    monkeypatch.setattr(UserMetrics, "write", lambda self: 0.02)
    monkeypatch.setattr(
        probe.probe._over, "wait", lambda seconds: (waits.append(seconds), probe.probe._over.set())
    )
    probe.probe._run()
    assert [pytest.approx(20.0)] == waits


def test_a_full_or_missing_folder_is_an_error_and_no_end(registry: CollectorRegistry, tmp_path: Path) -> None:
    """What cannot be written is reported each time, and nothing is left lying about."""
    probe = Probe(tmp_path / "gone")
    Gauge("x", "X.", registry=registry)
    probe.probe.write()
    (tmp_path / "gone").mkdir()
    assert {"x"} == probe.written()
    assert ["FileNotFoundError"] == [type(error).__name__ for error in probe.errors]
    assert ["r.0.x.box.prom"] == [path.name for path in (tmp_path / "gone").iterdir()]


def test_cost_of_an_everyday_registry(registry: CollectorRegistry, probe: Probe) -> None:
    """A hundred series take milliseconds of processor time, so they are renewed every few seconds."""
    gauge = Gauge("g", "G.", ["n"], registry=registry)
    for number in range(100):
        gauge.labels(number).set(number)
    costs = sorted(probe.probe.write() for _ in range(9))
    assert costs[4] / user_metrics.SHARE_OF_TIME < 30.0
