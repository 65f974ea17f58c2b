"""The GPU collector, through the real pynvml, over a stand-in libnvidia-ml.so.1 (tests/nvml_stub)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.nvml_stub.node import GPU0, GPU1, GPU1_LOST, TWO_GPUS, Node, has_nvml, nvml, without


def test_two_healthy_gpus(node: Node) -> None:
    """Two healthy GPUs are served with every field, in base units, and used memory as nvidia-smi has it."""
    assert node.scrape() == {**GPU0, **GPU1, **nvml("ok")}


def test_values_are_read_at_every_scrape(node: Node) -> None:
    """A value that changes between two scrapes is the new one in the second."""
    node.scrape()
    node.show(TWO_GPUS, {"gpu0.temperature": 83})
    assert node.scrape()['training_gpu_temperature_celsius{gpu="0"}'] == 83.0


def test_unsupported_field_is_absent(node: Node) -> None:
    """A board that cannot measure its power has no power series, and all of its others."""
    node.show(TWO_GPUS, {"gpu1.power": None})
    assert node.scrape() == {**GPU0, **without(GPU1, "power_watts"), **nvml("ok")}


def test_forbidden_field_is_absent(node: Node) -> None:
    """A field that this user may not read is left out, without an error."""
    node.show(TWO_GPUS, {"gpu0.power": "no_permission"})
    assert node.scrape() == {**without(GPU0, "power_watts"), **GPU1, **nvml("ok")}


def test_older_driver_without_memory_v2(node: Node) -> None:
    """On a driver that lacks the second memory call the first is used: its reserve counts as used."""
    node.show(TWO_GPUS, {"memory_v2": "function_not_found"})
    used = {'training_gpu_memory_used_bytes{gpu="0"}': 8589934592.0 + 536870912.0}
    used['training_gpu_memory_used_bytes{gpu="1"}'] = 536870912.0
    assert node.scrape() == {**GPU0, **GPU1, **used, **nvml("ok")}


@pytest.mark.parametrize("fault", ["lost", "reset_required"])
def test_lost_gpu_and_its_return(node: Node, fault: str) -> None:
    """A lost GPU keeps only up 0, its neighbour is not touched; it is found again after a minute."""
    node.scrape()
    node.show(TWO_GPUS, {"gpu1.fault": fault})
    assert node.scrape() == {**GPU0, **GPU1_LOST, **nvml("ok")}
    node.tell("advance 61")
    assert node.scrape() == {**GPU0, **GPU1_LOST, **nvml("ok")}
    node.show(TWO_GPUS)
    node.tell("advance 61")
    assert node.scrape() == {**GPU0, **GPU1, **nvml("ok")}


def test_gpu_that_recovers_by_itself(node: Node) -> None:
    """A GPU that answers again is up in the very next scrape, without NVML being opened anew."""
    node.scrape()
    node.show(TWO_GPUS, {"gpu1.fault": "reset_required"})
    assert node.scrape() == {**GPU0, **GPU1_LOST, **nvml("ok")}
    node.show(TWO_GPUS, {"init": "unknown"})
    assert node.scrape() == {**GPU0, **GPU1, **nvml("ok")}
    node.tell("advance 61")
    assert node.scrape() == {**GPU0, **GPU1, **nvml("ok")}


@pytest.mark.parametrize("fault", ["lost", "insufficient_power"])
def test_gpu_lost_before_the_exporter_started(node: Node, fault: str) -> None:
    """A GPU that NVML counts but cannot open is served as lost, also by an exporter that never saw it."""
    node.show(TWO_GPUS, {"gpu1.fault": fault})
    assert node.scrape() == {**GPU0, **GPU1_LOST, **nvml("ok")}


def test_gpu_that_nvml_no_longer_counts(node: Node) -> None:
    """A GPU that is gone from NVML's list after the driver was reloaded stays visible as lost."""
    node.scrape()
    node.tell("advance 61")
    node.show(TWO_GPUS, {"count": 1, "epoch": 2})
    assert node.scrape() == {**GPU0, **GPU1_LOST, **nvml("ok")}


def test_forbidden_gpu(node: Node) -> None:
    """A GPU that this user may not open is not called lost: the state of NVML says why it is missing."""
    node.show(TWO_GPUS, {"gpu1.fault": "no_permission"})
    assert node.scrape() == {**GPU0, **nvml("no_permission")}


def test_no_permission_at_all(node: Node) -> None:
    """Where NVML may not be opened at all, only its state is served."""
    node.show({"init": "no_permission"})
    assert node.scrape() == nvml("no_permission")


def test_driver_and_library_do_not_match(node: Node) -> None:
    """A driver updated under its library, which opens no more, is the state failed, not an error."""
    node.show({"init": "lib_rm_version_mismatch"})
    assert node.scrape() == nvml("failed")


def test_no_library(tmp_path: Path) -> None:
    """On a node without NVIDIA's library the scrape works and says so."""
    if has_nvml():
        pytest.skip("this machine has NVIDIA's own library")
    node = Node(tmp_path, library=None)
    try:
        assert node.scrape() == nvml("no_library")
    finally:
        node.close()


def test_library_installed_later(library: Path, tmp_path: Path) -> None:
    """A library that appears while the exporter runs (a driver container) is found without a restart."""
    if has_nvml():
        pytest.skip("this machine has NVIDIA's own library")
    node = Node(tmp_path, library=None)
    try:
        assert node.scrape() == nvml("no_library")
        shutil.copy(library, tmp_path / library.name)
        node.tell("advance 61")
        assert node.scrape() == {**GPU0, **GPU1, **nvml("ok")}
    finally:
        node.close()


def test_driver_loaded_later(node: Node) -> None:
    """A driver loaded after the exporter started is found, and looked for no more than once a minute."""
    node.show({"init": "driver_not_loaded"})
    assert node.scrape() == nvml("no_driver")
    node.show(TWO_GPUS)
    node.tell("advance 59")
    assert node.scrape() == nvml("no_driver")
    node.tell("advance 2")
    assert node.scrape() == {**GPU0, **GPU1, **nvml("ok")}


def test_driver_reloaded(node: Node) -> None:
    """A driver reloaded between two scrapes costs no sample: the same scrape opens the library anew."""
    node.scrape()
    node.tell("advance 61")
    node.show(TWO_GPUS, {"epoch": 2, "gpu0.temperature": 44})
    assert node.scrape() == {**GPU0, **GPU1, 'training_gpu_temperature_celsius{gpu="0"}': 44.0, **nvml("ok")}


def test_driver_unloaded(node: Node) -> None:
    """When the driver goes away, every GPU seen before is lost, and the state says why."""
    node.scrape()
    node.tell("advance 61")
    node.show({"epoch": 2, "init": "driver_not_loaded"})
    assert node.scrape() == {'training_gpu_up{gpu="0"}': 0.0, **GPU1_LOST, **nvml("no_driver")}


def test_unexpected_error_is_raised(node: Node) -> None:
    """An error that is no known state is raised, but hides neither the other fields nor the other GPUs."""
    node.show(TWO_GPUS, {"gpu0.temperature": "unknown"})
    assert node.scrape(raises="NVMLError_Unknown: Unknown Error") == {
        **without(GPU0, "temperature"),
        **GPU1,
        **nvml("ok"),
    }


def test_hanging_driver_holds_one_scrape_only(node: Node) -> None:
    """While a driver call hangs, further scrapes give up after a bounded wait instead of piling up."""
    node.tell("patience 0.1")
    node.show(TWO_GPUS, {"hang": 1})
    node.tell("start")
    error = "TimeoutError: NVML has not answered another scrape for 0.1 s"
    assert node.scrape(raises=error) == {}
    node.show(TWO_GPUS)
    node.tell("patience 20")
    assert node.scrape() == {**GPU0, **GPU1, **nvml("ok")}


def test_pynvml_is_not_imported_at_start(node: Node) -> None:
    """Making the collector imports no pynvml: on a node without GPUs it would only cost start-up time."""
    assert node.tell("imported") == ["False"]
