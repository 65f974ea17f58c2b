"""The promise of collectors: what is declared is served, by one collector, as recorded, within its budget."""

from __future__ import annotations

import math
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

import trainbeacon
from tests.nvml_stub.build import build
from tests.scripted import serving
from trainbeacon import catalogue
from trainbeacon.blackbox.directory import open_directory
from trainbeacon.blackbox.reader import BoxDirectory
from trainbeacon.exporter.collectors.base import Collector, Families
from trainbeacon.exporter.health import Health
from trainbeacon.exporter.registry import collectors, enforce_budgets, new_registry
from trainbeacon.testing import ScriptedJob, Series, read_exposition, series

#: Metrics that take more than the scripted job has, and the test that sees them served.
SHOWN_ELSEWHERE: dict[str, str] = {
    "trainbeacon_notify_last_success_timestamp_seconds": "tests/unit/notify/test_service.py",
    "trainbeacon_notify_messages_total": "tests/unit/notify/test_service.py",
    "trainbeacon_notify_requests_total": "tests/unit/notify/test_service.py",
    "trainbeacon_notify_waiting": "tests/unit/notify/test_service.py",
    "training_class_ratio": "tests/unit/recorder/probes/test_inputs.py",
    "training_collectives_completed_total": "tests/diagnosis/hangs.py",
    "training_collectives_enqueued_total": "tests/diagnosis/hangs.py",
    "training_device_phase_seconds_total": "tests/unit/recorder/device/test_events.py",
    "training_gradient_squared_norm": "tests/diagnosis/test_nonfinite.py",
    "training_input_drift": "tests/unit/recorder/probes/test_inputs.py",
    "training_input_mean": "tests/unit/recorder/probes/test_inputs.py",
    "training_input_missing_ratio": "tests/unit/recorder/probes/test_inputs.py",
    "training_input_stddev": "tests/unit/recorder/probes/test_inputs.py",
    "training_layer_gradient_mean": "tests/unit/recorder/numerics/test_layers.py",
    "training_layer_gradient_norm": "tests/unit/recorder/numerics/test_layers.py",
    "training_layer_weight_norm": "tests/unit/recorder/numerics/test_layers.py",
    "training_layer_weight_stddev": "tests/unit/recorder/numerics/test_layers.py",
    "training_layer_zero_ratio": "tests/unit/recorder/numerics/test_layers.py",
    "training_loader_shared_memory_bytes": "tests/unit/recorder/probes/test_loader.py",
    "training_loader_workers": "tests/unit/recorder/probes/test_loader.py",
    "training_mfu_ratio": "tests/unit/recorder/goodput/test_mfu.py",
    "training_model_flops_per_step": "tests/unit/recorder/goodput/test_mfu.py",
    "training_parameter_squared_norm": "tests/diagnosis/test_nonfinite.py",
    "training_self_seconds_total": "tests/diagnosis/test_stragglers.py",
}
REPOSITORY = Path(__file__).resolve().parents[2]
#: What only some machines have: a disk, a network beside loopback, /dev/shm.
NOT_EVERYWHERE = {
    "training_host_disk_read_bytes_total",
    "training_host_disk_written_bytes_total",
    "training_host_network_received_bytes_total",
    "training_host_network_transmitted_bytes_total",
    "training_host_network_packets_total",
    "training_host_network_errors_total",
    "training_host_shared_memory_used_bytes",
    "training_host_shared_memory_total_bytes",
}
#: Only where PyTorch has initialised CUDA.
NEEDS_CUDA = {metric.name for metric in catalogue.ALL if metric.group == "torch allocator"}
#: Served by the ranks for themselves, and by the exporter for itself with empty run and rank.
SHARED = {"trainbeacon_errors_total", "trainbeacon_series_dropped_total"}
#: Served by the registry around the collectors.
OF_THE_REGISTRY = {"trainbeacon_collector_success", "trainbeacon_collector_duration_seconds"}


class Exporter:
    """The read side over one directory, without a server."""

    def __init__(self, folder: Path, *more: Collector) -> None:
        self.descriptor = open_directory(str(folder))
        self.health = Health()
        boxes = BoxDirectory(self.descriptor)
        self.collectors = collectors(boxes, self.health, linger_seconds=60, gpu=False, mode="agent")
        self.registry = new_registry((*more, *self.collectors), self.health)

    def scrape(self) -> dict[Series, float]:
        served = read_exposition(generate_latest(self.registry).decode())
        strict = read_exposition(generate_openmetrics(self.registry).decode())
        # The share of processor time needs some to have passed since the start.
        assert set() == {
            key for key in served.keys() ^ strict.keys() if key.name != "training_host_cpu_ratio"
        }
        return served


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "boxes").mkdir()
    return tmp_path / "boxes"


@pytest.fixture
def exporter(folder: Path) -> Iterator[Exporter]:
    made = Exporter(folder)
    yield made
    os.close(made.descriptor)


def start(folder: Path, **settings: object) -> trainbeacon.Beacon:
    return trainbeacon.start(**{"run": "r", "serve": "off", "directory": str(folder), **settings})


# What is declared is served


def test_every_metric_of_the_catalogue_is_served(tmp_path: Path) -> None:
    """The scripted job on two ranks, one of which fails, and a GPU: no metric is declared and never seen."""
    if not shutil.which("cc"):
        pytest.skip("no C compiler (cc) to build the stand-in NVML")
    build(tmp_path)
    with serving("agent", tmp_path / "job", tmp_path) as service:
        ranks = service.node.ranks
        ranks[1].end("raise")
        served = {key.name for key in [*read_exposition(service.text), *service.node.scrape()]}
    suffixes = {"histogram": ("_bucket", "_sum", "_count")}
    missing = {
        metric.name
        for metric in catalogue.ALL
        if not {metric.name + suffix for suffix in suffixes.get(metric.type, ("",))} <= served
    }
    assert set() == missing - NOT_EVERYWHERE - NEEDS_CUDA - SHOWN_ELSEWHERE.keys()


@pytest.mark.parametrize(("metric", "file"), SHOWN_ELSEWHERE.items())
def test_what_the_scripted_job_lacks_is_shown_by_another_test(metric: str, file: str) -> None:
    """The metrics of real process groups, models and restarts have tests of their own that read them."""
    assert metric in (REPOSITORY / file).read_text("utf-8")


def test_each_metric_has_one_owner(folder: Path, exporter: Exporter) -> None:
    """What a collector serves is what the catalogue names as its own, so a failure has a known extent."""
    with ScriptedJob().start(serve="off", directory=str(folder)) as beacon:
        ScriptedJob().record(beacon, folder)
        strangers = {}
        for collector in exporter.collectors:
            families = Families()
            collector.collect(families)
            names = {name for name in catalogue.BY_NAME if families.get(name) is not None} - SHARED
            assert names or collector.name == "user_metrics"  # which serves what no catalogue can know
            strangers[collector.name] = {
                name for name in names if catalogue.BY_NAME[name].source != collector.name
            }
    assert {collector.name: set() for collector in exporter.collectors} == strangers


def test_collectors_are_those_of_the_catalogue(exporter: Exporter) -> None:
    """`trainbeacon_collector_success` covers every collector there is; without GPUs wished, not that one."""
    shown = {key.label("collector") for key in exporter.scrape() if key.name in OF_THE_REGISTRY}
    assert set(catalogue.COLLECTORS) - {"gpu"} == shown == {c.name for c in exporter.collectors}


# One that fails


class Failing:
    """A collector that gets half of its work done."""

    name = "gpu"

    def collect(self, families: Families) -> None:
        families.add("training_gpu_up", 1.0, "0")
        raise RuntimeError("the driver is gone")


def test_failing_collector_takes_no_other_along(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its success is 0, the error is counted at each scrape and logged once; all others are served."""
    with start(folder) as beacon:
        beacon.log(loss=2.0)
        exporter = Exporter(folder, Failing())
        first, second = exporter.scrape(), exporter.scrape()
        os.close(exporter.descriptor)
    success = {
        key.label("collector"): value
        for key, value in second.items()
        if key.name == "trainbeacon_collector_success"
    }
    assert {"gpu": 0.0, "ranks": 1.0, "host": 1.0, "health": 1.0, "user_metrics": 1.0} == success
    assert 2.0 == second[series("training_loss", run="r", rank=0, split="train")]
    assert 1.0 == second[series("training_gpu_up", gpu=0)]
    errors = series("trainbeacon_errors_total", run="", rank="", where="collector")
    assert 2.0 == second[errors] - first[errors]  # each look is a scrape in either format
    assert 1 == len([record for record in caplog.records if "collector gpu failed" in record.message])


# Values


def test_what_was_never_recorded_is_not_served(folder: Path, exporter: Exporter) -> None:
    """A gauge without a value is absent, while a counter begins at 0: its first event is an increase."""
    with start(folder):
        served = {key.name: value for key, value in exporter.scrape().items() if key.label("rank") == "0"}
    absent = {"training_loss", "training_accuracy_ratio", "training_gradient_norm", "training_epoch"}
    assert set() == absent & served.keys()
    assert "training_samples_total" not in served
    assert 0.0 == served["training_loss_nonfinite_total"] == served["training_steps_total"]


def test_nan_and_infinity_are_served_as_such(folder: Path, exporter: Exporter) -> None:
    """A NaN loss is shown as NaN, which is not the same as none."""
    with start(folder) as beacon:
        beacon.log(loss=float("nan"), gradient_norm=float("inf"), odd=float("-inf"))
        served = exporter.scrape()
    assert math.isnan(served[series("training_loss", run="r", rank=0, split="train")])
    assert math.inf == served[series("training_gradient_norm", run="r", rank=0)]
    assert -math.inf == served[series("training_metric", run="r", name="odd", split="train")]


@pytest.mark.parametrize("text", ['say "hi"', "back\\slash\\n", "Grüße 火 🚀", "a=b,c{d}"])
def test_texts_of_the_user_arrive_unchanged(text: str, folder: Path, exporter: Exporter) -> None:
    """Quotes, backslashes, braces and any script, in every place that takes a text, survive both formats."""
    hyperparameters = {"note": text, text: 1.0}
    with start(folder, run=text, owner=text, tags={text: text}, hyperparameters=hyperparameters) as beacon:
        beacon.log(**{text: 3.0})
        served = exporter.scrape()
    assert [text] == [key.label("owner") for key in served if key.name == "training_run_info"]
    run = text
    assert 3.0 == served[series("training_metric", run=run, name=text, split="train")]
    assert 1.0 == served[series("training_hyperparameter_info", run=run, name="note", value=text)]
    assert 1.0 == served[series("training_hyperparameter", run=run, name=text)]
    assert 1.0 == served[series("training_run_tag_info", run=run, name=text, value=text)]


def test_line_breaks_in_a_label_do_not_break_the_exposition(folder: Path) -> None:
    """A label of several lines, as the name of a GPU may be that we do not choose, reads back as it is."""
    text = 'one\ntwo\r\n"three"\\n'

    class Odd:
        name = "gpu"

        def collect(self, families: Families) -> None:
            families.add_info("training_gpu_info", "0", "id", text, "1")

    exporter = Exporter(folder, Odd())
    served = exporter.scrape()
    os.close(exporter.descriptor)
    assert 1.0 == served[series("training_gpu_info", gpu=0, uuid="id", name=text, driver="1")]


# Budgets


def test_500_names_of_the_user_stay_within_the_budget(folder: Path, exporter: Exporter) -> None:
    """A loop that invents names gets its first 40 served; the rest is counted, and training goes on."""
    with start(folder) as beacon:
        with beacon.step(samples=1):
            pass
        for number in range(500):
            beacon.log(**{f"metric_{number}": float(number)})
        beacon.log(loss=2.0)
        served = exporter.scrape()
    names = {key.label("name") for key in served if key.name == "training_metric"}
    assert {f"metric_{number}" for number in range(40)} == names
    assert 460.0 == served[series("trainbeacon_series_dropped_total", run="r", rank=0)]
    assert 2.0 == served[series("training_loss", run="r", rank=0, split="train")]


def test_budget_takes_user_metrics_before_thresholds() -> None:
    """Over the budget of a run, what the rules need is kept, what the user invented goes; each is counted."""
    families = Families()
    families.add_info("training_run_info", "r", "id", "", "", "env", "")
    for number in range(290):
        families.add("training_metric", 1.0, "r", f"m{number}", "train")
    for number in range(20):
        families.add("training_threshold", 1.0, "r", f"metric:m{number}_max")
    assert 11 == enforce_budgets(families)
    kept = Counter({family.name: len(family.samples) for family in families})
    assert {"training_run_info": 1, "training_threshold": 20, "training_metric": 279} == kept


def test_budget_is_each_runs_own() -> None:
    """A greedy run does not take the room of another one on the same node."""
    families = Families()
    for number in range(350):
        families.add("training_metric", 1.0, "greedy", f"m{number}", "train")
    families.add("training_metric", 1.0, "modest", "m", "train")
    assert 50 == enforce_budgets(families)
    family = families.get("training_metric")
    assert family is not None
    assert {"greedy": 300, "modest": 1} == Counter(sample.labels["run"] for sample in family.samples)


def test_dropped_series_are_counted_by_the_exporter(folder: Path) -> None:
    """Series that the exporter leaves out show in its own counter."""

    class Flood:
        name = "gpu"

        def collect(self, families: Families) -> None:
            for number in range(350):
                families.add("training_metric", 1.0, "flood", f"m{number}", "train")

    exporter = Exporter(folder, Flood())
    dropped = series("trainbeacon_series_dropped_total", run="", rank="")
    first, second = exporter.scrape(), exporter.scrape()
    assert 100.0 == second[dropped] - first[dropped]  # each look is a scrape in either format
    os.close(exporter.descriptor)
