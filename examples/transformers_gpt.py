"""A small GPT-2 trained by Hugging Face's Trainer with `report_to="trainbeacon"`.

python examples/transformers_gpt.py [--steps 200] [--fault divergence]

The text is made here, and the model starts from its configuration, so that nothing is downloaded. With
`--fault divergence` the learning rate is 3, and TrainingLossDiverging tells that the loss left its course.
"""

import argparse
import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import trainbeacon.integrations.transformers  # noqa: F401 - makes report_to="trainbeacon" known

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--fault", choices=["divergence"])
arguments = parser.parse_args()

torch.manual_seed(0)
made = torch.Generator().manual_seed(0)
starts = torch.randint(0, 64, (512, 1), generator=made)
text = (starts + torch.arange(32) * 5) % 64  # each token follows from the one before
rows = [{"input_ids": row, "labels": row} for row in text]
model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=32, n_embd=64, n_layer=2, n_head=2))
settings = TrainingArguments(
    output_dir=tempfile.mkdtemp(),
    run_name="transformers-gpt",
    per_device_train_batch_size=8,
    gradient_accumulation_steps=2,
    max_steps=arguments.steps,
    learning_rate=3.0 if arguments.fault == "divergence" else 1e-3,
    max_grad_norm=0.0 if arguments.fault == "divergence" else 1.0,
    eval_strategy="steps",
    eval_steps=50,
    logging_steps=20,
    save_strategy="no",
    report_to="trainbeacon",
    use_cpu=True,
    disable_tqdm=True,
)
Trainer(model=model, args=settings, train_dataset=rows, eval_dataset=rows[:64]).train()
