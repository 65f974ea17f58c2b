"""One rank of a job into which NaNs are planted: `python -m tests.diagnosis.nonfinite_rank FAULTS`.

Each fault has a run of its own, all in this process. Prints a line of JSON for each: what is true of it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import trainbeacon

WIDTH = 12
BLOCKS = 3
#: Steps that a run makes after the one with the fault.
STEPS_AFTER = 2


@dataclass(frozen=True)
class Fault:
    """One NaN, or none.

    Attributes:
        run: name of the run.
        folder: of the boxes.
        strategy: `ddp`, `fsdp2`, `hsdp` (FSDP2 over two replicas) or `none` (one process).
        place: weight, activation, gradient, input, or `nothing`.
        layer: name of the module.
        victim: the rank.
        step: in which it shows.
        clip: whether the script clips gradients, and so knows their norm in every step.
        whole: whether a whole tensor is spoilt, not one number of it.
        seed: of the weights, the data and the spoilt number.
    """

    run: str
    folder: str
    strategy: str
    place: str
    layer: str
    victim: int
    step: int
    clip: bool
    whole: bool
    seed: int


class Block(nn.Module):
    """A residual block, as transformers have them, without the attention."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = inputs + self.down(nn.functional.gelu(self.up(self.norm(inputs))))
        return result


def model_of(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    blocks = [Block() for _ in range(BLOCKS)]
    return nn.Sequential(nn.Linear(6, WIDTH), *blocks, nn.Linear(WIDTH, 4))


def layer_names() -> list[str]:
    """The layers that a fault can be planted in, in the order of the forward pass."""
    return [name for name, module in model_of(0).named_modules() if list(module.parameters(recurse=False))]


def spread(model: nn.Sequential, strategy: str) -> nn.Module:
    """The model as the strategy wants it."""
    ranks = distributed.get_world_size()
    if strategy == "ddp":
        return DistributedDataParallel(model)
    if strategy == "fsdp2":
        mesh = init_device_mesh("cpu", (ranks,))
    elif strategy == "hsdp":
        mesh = init_device_mesh("cpu", (2, ranks // 2), mesh_dim_names=("replicate", "shard"))
    else:
        return model
    for block in list(model)[1:-1]:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


class Planted:
    """Puts the NaN where the fault wants it, in the step that it wants."""

    def __init__(self, fault: Fault, model: nn.Sequential) -> None:
        self.fault = fault
        self.module = model.get_submodule(fault.layer) if fault.layer else model
        self.now = False
        if distributed.get_rank() == fault.victim and fault.place in ("activation", "gradient"):
            self.module.register_forward_hook(self._after_forward)

    def before_step(self, step: int, inputs: torch.Tensor) -> torch.Tensor:
        self.now = step == self.fault.step and distributed.get_rank() == self.fault.victim
        if self.now and self.fault.place == "weight":
            with torch.no_grad():
                weight: Any = self.module.weight
                self._spoil(weight._local_tensor if isinstance(weight, DTensor) else weight)
        return self._spoiled(inputs) if self.now and self.fault.place == "input" else inputs

    def _after_forward(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
        if not self.now:
            return None
        if self.fault.place == "gradient":
            output.register_hook(self._spoiled)
            return None
        return self._spoiled(output)

    def _spoiled(self, tensor: torch.Tensor) -> torch.Tensor:
        copy = tensor.clone()
        self._spoil(copy)
        return copy

    def _spoil(self, tensor: torch.Tensor) -> None:
        if self.fault.whole:
            tensor.mul_(float("nan"))
        else:
            tensor.view(-1)[self.fault.seed % tensor.numel()] = float("nan")


def batches(fault: Fault) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(fault.seed * 100 + distributed.get_rank())
    for _ in range(fault.step + STEPS_AFTER):
        yield torch.randn(8, 6, generator=generator), torch.randn(8, 4, generator=generator)


def norm_of(tensors: Iterator[Any]) -> float:
    """The true norm, by the collectives that TrainBeacon never runs."""
    wholes = [tensor.full_tensor() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
    return float(torch.linalg.vector_norm(torch.cat([whole.detach().flatten() for whole in wholes])))


def train(fault: Fault) -> dict[str, float]:
    """One run. Returns the true norms: of the first step, which is sampled, and the last gradient norm."""
    truth = {}
    inner = model_of(fault.seed)
    model = spread(inner, fault.strategy)
    planted = Planted(fault, inner)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with trainbeacon.start(run=fault.run, directory=fault.folder, serve="off") as beacon:
        beacon.watch(model, optimizer)
        for step, (inputs, targets) in enumerate(beacon.batches(batches(fault)), start=1):
            loss = nn.functional.mse_loss(model(planted.before_step(step, inputs)), targets)
            loss.backward()
            truth["last_gradient_norm"] = norm_of(parameter.grad for parameter in model.parameters())
            truth.setdefault("gradient_norm", truth["last_gradient_norm"])
            if fault.clip:
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            truth.setdefault("parameter_norm", norm_of(iter(model.parameters())))
            optimizer.zero_grad()
            beacon.log(loss=loss)
    return truth


def main() -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    for fault in json.loads(sys.argv[1]):
        print(json.dumps(train(Fault(**fault))), flush=True)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
