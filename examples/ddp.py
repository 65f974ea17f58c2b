"""DistributedDataParallel or FSDP2 under torchrun; every rank records itself.

torchrun --nproc-per-node 2 examples/ddp.py [--steps 500] [--shard] [--fault crash]

With `--shard` the model is sharded by `fully_shard` in place of DDP. With `--fault crash` rank 1 raises at
step 100, and TrainingRunFailed names the exception and the rank that ended first.
"""

import argparse

import torch
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import trainbeacon

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=500)
parser.add_argument("--shard", action="store_true")
parser.add_argument("--fault", choices=["crash"])
arguments = parser.parse_args()

distributed.init_process_group("gloo")
rank = distributed.get_rank()
torch.manual_seed(0)
model: nn.Module = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 4))
if arguments.shard:
    for layer in model:
        fully_shard(layer, mesh=torch.distributed.init_device_mesh("cpu", (distributed.get_world_size(),)))
    fully_shard(model, mesh=torch.distributed.init_device_mesh("cpu", (distributed.get_world_size(),)))
else:
    model = DistributedDataParallel(model)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
torch.manual_seed(rank)

with trainbeacon.start(run="ddp", host="127.0.0.1", steps_planned=arguments.steps) as beacon:
    beacon.watch(model, optimizer)
    for step in range(arguments.steps):
        if arguments.fault == "crash" and rank == 1 and step == 100:
            raise RuntimeError("data shard 7 is truncated")
        inputs = torch.randn(16, 32)
        loss = nn.functional.cross_entropy(model(inputs), (inputs[:, 0] > 0).long())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        beacon.log(loss=loss)
distributed.destroy_process_group()
