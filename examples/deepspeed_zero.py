"""DeepSpeed's engine with ZeRO, on a GPU or on processors.

torchrun --nproc-per-node 2 examples/deepspeed_zero.py [--stage 1] [--steps 200] [--fault nan]

With `--fault nan` the inputs of step 20 hold a NaN, and TrainingLossNotFinite names the run and the step.
"""

import argparse
import os

import torch
from torch import nn

if not torch.cuda.is_available():
    os.environ["DS_ACCELERATOR"] = "cpu"

import deepspeed

from trainbeacon.integrations.deepspeed import watch

parser = argparse.ArgumentParser()
parser.add_argument("--stage", type=int, default=1)
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--fault", choices=["nan"])
arguments = parser.parse_args()
if not torch.cuda.is_available():  # a kernel for sums over the host's memory, which takes a minute to compile
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

deepspeed.init_distributed("nccl" if torch.cuda.is_available() else "gloo")
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 4))
engine, *_ = deepspeed.initialize(
    model=model,
    model_parameters=model.parameters(),
    config={
        "train_micro_batch_size_per_gpu": 16,
        "gradient_accumulation_steps": 2,
        "gradient_clipping": 1.0,
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}},
        "zero_optimization": {"stage": arguments.stage},
    },
)
torch.manual_seed(engine.global_rank)
with watch(engine, run="deepspeed", host="127.0.0.1", steps_planned=arguments.steps) as beacon:
    for step in range(arguments.steps):
        for inputs in beacon.batches([torch.randn(16, 32, device=engine.device) for _ in range(2)]):
            if arguments.fault == "nan" and step == 20:
                inputs[0, 0] = float("nan")
            engine.backward(nn.functional.cross_entropy(engine(inputs), (inputs[:, 0] > 0).long()))
            engine.step()
torch.distributed.destroy_process_group()
