"""Which rank is on which GPU: by UUID, whatever CUDA calls the device in that process."""

from __future__ import annotations

import pytest

from trainbeacon.exporter.collectors.base import Families
from trainbeacon.exporter.collectors.gpu import GpuLink
from trainbeacon.exporter.health import Health
from trainbeacon.exporter.registry import GuardedCollectors

FULL = "GPU-8f1e6b2c-0000-1111-2222-333344445555"
OTHER = "GPU-8f1e7777-0000-1111-2222-333344445555"
INSTANCE = "MIG-5c89852c-0000-1111-2222-333344445555"


def families(*, gpus: bool = True, **said: str) -> Families:
    """A scrape with two GPUs, the second cut into an instance, and a rank that says this of its GPU."""
    made = Families()
    if gpus:
        made.add_info("training_gpu_info", "3", FULL, "H100", "555")
        made.add_info("training_gpu_info", "5", OTHER, "H100", "555")
        made.add_info("training_gpu_mig_info", "5", INSTANCE, "H100 MIG 1g.10gb")
    coordinates = [""] * 5
    gpu = said.get("gpu", ""), said.get("uuid", "")
    made.add_info("training_rank_info", "r", "0", "0", "host", *gpu, *coordinates)
    return made


def rank_gpu(scrape: Families) -> tuple[str, str]:
    family = scrape.get("training_rank_info")
    assert family is not None
    (sample,) = family.samples
    return sample.labels["gpu"], sample.labels["gpu_uuid"]


def linked(**said: str) -> tuple[str, str]:
    scrape = families(**said)
    GpuLink().apply(scrape)
    return rank_gpu(scrape)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        pytest.param({"gpu": "0", "uuid": FULL}, ("3", FULL), id="CUDA's index is not the node's"),
        pytest.param({"uuid": FULL}, ("3", FULL), id="UUID alone"),
        pytest.param({"uuid": "GPU-8f1e6"}, ("3", FULL), id="abbreviated UUID"),
        pytest.param({"uuid": "GPU-8f1e"}, ("", "GPU-8f1e"), id="abbreviation of two GPUs"),
        pytest.param({"uuid": INSTANCE}, ("5", INSTANCE), id="MIG instance"),
        pytest.param(
            {"uuid": f"MIG-{FULL}/1/0"}, ("3", f"MIG-{FULL}/1/0"), id="MIG as older drivers name it"
        ),
        pytest.param({"gpu": "1", "uuid": "GPU-none"}, ("1", "GPU-none"), id="GPU that NVML does not show"),
        pytest.param({"gpu": "1"}, ("1", ""), id="no UUID"),
        pytest.param({}, ("", ""), id="no GPU"),
    ],
)
def test_rank_has_the_index_of_its_gpu(said: dict[str, str], expected: tuple[str, str]) -> None:
    """A rank's `gpu` is the one of the GPU's own series wherever its UUID tells which that is."""
    assert expected == linked(**said)


def test_label_stays_when_the_gpu_is_lost() -> None:
    """A GPU that no longer answers has no info; its rank keeps the index, so that its series go on."""
    link = GpuLink()
    link.apply(families(gpu="0", uuid=FULL))
    later = families(gpus=False, gpu="0", uuid=FULL)
    link.apply(later)
    assert ("3", FULL) == rank_gpu(later)


def test_every_scrape_is_linked() -> None:
    """What the exporter serves is linked, whichever collector runs first."""

    class Ranks:
        name = "ranks"

        def collect(self, into: Families) -> None:
            into.merge(families(gpus=False, gpu="0", uuid=FULL))

    class Gpus:
        name = "gpu"

        def collect(self, into: Families) -> None:
            into.add_info("training_gpu_info", "3", FULL, "H100", "555")

    served = {family.name: family for family in GuardedCollectors([Ranks(), Gpus()], Health()).collect()}
    (sample,) = served["training_rank_info"].samples
    assert ("3", FULL) == (sample.labels["gpu"], sample.labels["gpu_uuid"])
