"""What a rank says of its GPU, from CUDA_VISIBLE_DEVICES and from torch."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from trainbeacon.identity.devices import visible_gpu
from trainbeacon.recorder.hooks.hooks import gpu_of
from trainbeacon.recorder.hooks.optimizers import Found

UUID = "8f1e6b2c-0000-1111-2222-333344445555"


@pytest.mark.parametrize(
    ("listed", "index", "expected"),
    [
        (None, 2, "2"),
        ("4,5,6,7", 2, "6"),
        (" 4 , 5 ", 1, "5"),
        ("GPU-8f1e,GPU-aaaa", 1, "GPU-aaaa"),
        ("MIG-5c89852c", 0, "MIG-5c89852c"),
        ("4,5", 2, ""),
        ("", 0, ""),
    ],
)
def test_entry_of_cuda_visible_devices(listed: str | None, index: int, expected: str) -> None:
    """CUDA's device is what stands at its place in the list; without a list it is itself."""
    assert expected == visible_gpu(index, {} if listed is None else {"CUDA_VISIBLE_DEVICES": listed})


def model_on(device: torch.device) -> object:
    return SimpleNamespace(parameters=lambda: iter([SimpleNamespace(device=device)]))


@pytest.mark.parametrize(
    ("listed", "uuid", "expected"),
    [
        pytest.param(None, UUID, ("1", f"GPU-{UUID}"), id="all GPUs"),
        pytest.param("4,5", UUID, ("5", f"GPU-{UUID}"), id="indices"),
        pytest.param(
            "GPU-11,GPU-8f1e", UUID, ("", f"GPU-{UUID}"), id="abbreviated UUIDs, torch has the whole"
        ),
        pytest.param("MIG-11,MIG-22", UUID, ("", "MIG-22"), id="MIG, of which torch may have the GPU's"),
        pytest.param("4,5", None, ("5", ""), id="torch without UUIDs"),
        pytest.param("GPU-11,GPU-8f1e", None, ("", "GPU-8f1e"), id="UUIDs and torch without"),
    ],
)
def test_gpu_of_a_model(
    monkeypatch: pytest.MonkeyPatch, listed: str | None, uuid: str | None, expected: tuple[str, str]
) -> None:
    """The index is the node's, not CUDA's, where the list tells it; the UUID is whole if torch has it."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if listed is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    asked = []
    told = SimpleNamespace(uuid=uuid) if uuid else SimpleNamespace()
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: asked.append(index) or told)
    assert expected == gpu_of(model_on(torch.device("cuda", 1)))
    assert [1] == asked


def test_gpu_of_an_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only optimizers are watched, the GPU is that of their first parameter."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid=UUID))
    parameters = [SimpleNamespace(device=torch.device("cuda", index)) for index in (1, 0)]
    optimizer = SimpleNamespace(param_groups=[{"params": []}, {"params": parameters}])
    assert ("5", f"GPU-{UUID}") == gpu_of(None, [Found(optimizer)])


def test_model_on_the_cpu_has_no_gpu() -> None:
    """A model on the CPU, one without parameters and no model at all have no GPU, and CUDA is not asked."""
    nothing = SimpleNamespace(parameters=lambda: iter(()))
    assert [("", "")] * 3 == [gpu_of(model_on(torch.device("cpu"))), gpu_of(nothing), gpu_of(None)]
    assert not torch.cuda.is_initialized()
