"""One small training, the same through every framework: 64 samples, two epochs, two batches a step.

    python -m tests.integrations.job FRAMEWORK FOLDER [--record]

prints as JSON what the weights are at the end. `expected()` works the numbers out in a plain loop that knows
nothing of TrainBeacon and nothing of the frameworks. With JOB_RANKS=2, for each of two ranks, the batches of
a step are shared in place of accumulated: steps, norms and weights stay the same.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

SAMPLES, FEATURES, CLASSES = 64, 8, 2
RANKS = int(os.environ.get("JOB_RANKS", "1"))
BATCH, ACCUMULATE, EPOCHS, RATE, CLIP = 8, 2 // RANKS, 2, 0.5, 0.3


@dataclass(frozen=True)
class Numbers:
    """What a run of the job is, measured."""

    steps: float
    samples: float
    epochs: float
    planned: float
    loss: float
    norm: float
    clipped: float
    rate: float
    validation_loss: float
    accuracy: float
    checkpoints: float


def data() -> tuple[Any, Any]:
    """Inputs and classes."""
    import torch

    made = torch.Generator().manual_seed(5)
    inputs = torch.randn(SAMPLES, FEATURES, generator=made)
    return inputs, (inputs[:, 0] + 0.3 * torch.randn(SAMPLES, generator=made) > 0).long()


def model() -> Any:
    """The same weights each time."""
    import torch

    linear = torch.nn.Linear(FEATURES, CLASSES)
    with torch.no_grad():
        linear.weight.copy_(torch.linspace(-0.4, 0.4, FEATURES * CLASSES).reshape(CLASSES, FEATURES))
        linear.bias.zero_()
    return linear


def loader(*, shuffle: bool = False) -> Any:
    """Batches in the order of the samples."""
    from torch.utils.data import DataLoader, TensorDataset

    return DataLoader(TensorDataset(*data()), batch_size=BATCH, shuffle=shuffle)


class _Shared:
    """Every second batch, of two ranks."""

    def __init__(self, batches: Any) -> None:
        self._batches = batches

    def __iter__(self) -> Any:
        import torch

        return islice(self._batches, torch.distributed.get_rank(), None, RANKS)

    def __len__(self) -> int:
        return len(self._batches) // RANKS


def shared(batches: Any) -> Any:
    """The rank's batches, for frameworks that leave it to the script who takes which."""
    return batches if RANKS == 1 else _Shared(batches)


def expected() -> Numbers:
    """The numbers of the job, from a plain loop."""
    import torch

    net, (inputs, classes) = model(), data()
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE)
    steps, clipped, loss, norm = 0, 0, 0.0, 0.0
    for _ in range(EPOCHS):
        for start in range(0, SAMPLES, BATCH * ACCUMULATE):
            optimizer.zero_grad()
            losses = []
            for part in range(start, start + BATCH * ACCUMULATE, BATCH):
                outputs = net(inputs[part : part + BATCH])
                each = torch.nn.functional.cross_entropy(outputs, classes[part : part + BATCH])
                (each / ACCUMULATE).backward()
                losses.append(each.item())
            loss = sum(losses) / ACCUMULATE
            gradients = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
            norm = torch.sqrt(sum((g.double() ** 2).sum() for g in gradients)).item()
            if norm > CLIP:
                clipped += 1
                for gradient in gradients:
                    gradient.mul_(CLIP / (norm + 1e-6))
            optimizer.step()
            steps += 1
    with torch.no_grad():
        outputs = net(inputs)
        validation = torch.nn.functional.cross_entropy(outputs, classes).item()
        accuracy = (outputs.argmax(1) == classes).float().mean().item()
    return Numbers(
        steps, SAMPLES * EPOCHS, EPOCHS, steps, loss, norm, clipped, RATE, validation, accuracy, EPOCHS
    )


def lightning(folder: Path, *, record: bool) -> Any:
    """Through Lightning's Trainer."""
    import torch
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = model()

        def training_step(self, batch: Any, number: int) -> Any:
            loss = torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])
            self.log("train_loss", loss)
            return loss

        def validation_step(self, batch: Any, number: int) -> None:
            outputs = self.net(batch[0])
            self.log("val_loss", torch.nn.functional.cross_entropy(outputs, batch[1]))
            self.log("val_acc", (outputs.argmax(1) == batch[1]).float().mean())

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=RATE)

        def train_dataloader(self) -> Any:
            return shared(loader())

        def val_dataloader(self) -> Any:
            return loader()

    callbacks: list[Any] = [ModelCheckpoint(dirpath=folder / "saved", every_n_epochs=1, save_top_k=-1)]
    if record:
        from trainbeacon.integrations.lightning import TrainBeaconCallback

        callbacks.append(TrainBeaconCallback())
    module = Module()
    trainer = Trainer(
        max_epochs=EPOCHS,
        accumulate_grad_batches=ACCUMULATE,
        gradient_clip_val=CLIP,
        callbacks=callbacks,
        logger=False,
        accelerator="cpu",
        devices=RANKS,
        strategy="ddp" if RANKS > 1 else "auto",
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        use_distributed_sampler=False,  # it shuffles
    )
    trainer.fit(module)
    return module.net


def transformers(folder: Path, *, record: bool) -> Any:
    """Through Hugging Face's Trainer."""
    import torch
    from transformers import Trainer, TrainingArguments

    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = model()

        def forward(self, inputs: Any, labels: Any) -> dict[str, Any]:
            outputs = self.net(inputs)
            return {"loss": torch.nn.functional.cross_entropy(outputs, labels), "logits": outputs}

    class InOrder(Trainer):  # type: ignore[misc,unused-ignore]
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    if record:
        import trainbeacon.integrations.transformers  # noqa: F401 - makes the name known
    arguments = TrainingArguments(
        output_dir=str(folder / "saved"),
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=BATCH,
        gradient_accumulation_steps=ACCUMULATE,
        num_train_epochs=EPOCHS,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        optim="sgd",
        max_grad_norm=CLIP,
        eval_strategy="epoch",
        save_strategy="epoch",
        report_to="trainbeacon" if record else "none",
        use_cpu=True,
        ddp_backend="gloo" if RANKS > 1 else None,
        disable_tqdm=True,
    )
    module, (inputs, classes) = Module(), data()
    rows = [{"inputs": each, "labels": label} for each, label in zip(inputs, classes, strict=True)]

    def accuracy(found: Any) -> dict[str, float]:
        return {"accuracy": float((found.predictions.argmax(1) == found.label_ids).mean())}

    InOrder(
        model=module, args=arguments, train_dataset=rows, eval_dataset=rows, compute_metrics=accuracy
    ).train()
    return module.net


def accelerate(folder: Path, *, record: bool) -> Any:
    """Through accelerate, in a loop of the script's own."""
    import torch
    from accelerate import Accelerator

    if record:
        from trainbeacon.integrations.accelerate import TrainBeaconTracker, watch

        accelerator = Accelerator(
            cpu=True, gradient_accumulation_steps=ACCUMULATE, log_with=TrainBeaconTracker()
        )
    else:
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=ACCUMULATE)
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE)
    net, optimizer, batches = accelerator.prepare(net, optimizer, loader())
    accelerator.init_trackers("job", config={"lr": RATE})
    beacon = watch(accelerator, steps_planned=8) if record else None
    for epoch in range(EPOCHS):
        losses = []
        for inputs, classes in beacon.batches(batches) if beacon else batches:
            with accelerator.accumulate(net):
                loss = torch.nn.functional.cross_entropy(net(inputs), classes)
                accelerator.backward(loss)
                losses.append(loss.item())
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(net.parameters(), CLIP)
                optimizer.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                accelerator.log({"loss": sum(losses) / len(losses), "epoch": epoch})
                losses.clear()
        _evaluate(net, beacon)
        torch.save(net.state_dict(), folder / f"saved-{epoch}-{accelerator.process_index}")
    accelerator.end_training()
    if beacon:
        beacon.finish()
    return accelerator.unwrap_model(net)


def _evaluate(net: Any, beacon: Any) -> None:
    import contextlib

    import torch

    inputs, classes = data()
    with beacon.evaluate() if beacon else contextlib.nullcontext(), torch.no_grad():
        outputs = net(inputs)
        loss = torch.nn.functional.cross_entropy(outputs, classes)
        accuracy = (outputs.argmax(1) == classes).float().mean()
        if beacon:
            beacon.log(loss=loss, accuracy=accuracy)


def keras(folder: Path, *, record: bool) -> Any:
    """Through Keras on the torch backend."""
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    inputs, classes = data()
    net = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(CLASSES)])
    first = model()
    net.layers[0].set_weights([first.weight.detach().numpy().T, first.bias.detach().numpy()])
    net.compile(
        optimizer=keras.optimizers.SGD(RATE, gradient_accumulation_steps=ACCUMULATE, global_clipnorm=CLIP),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    callbacks: list[Any] = [keras.callbacks.ModelCheckpoint(str(folder / "saved-{epoch}.keras"))]
    if record:
        from trainbeacon.integrations.keras import TrainBeaconCallback

        callbacks.append(TrainBeaconCallback())
    arrays = inputs.numpy(), classes.numpy()
    net.fit(
        *arrays,
        batch_size=BATCH,
        epochs=EPOCHS,
        shuffle=False,
        validation_data=arrays,
        validation_batch_size=BATCH,
        verbose=0,
        callbacks=callbacks,
    )
    return net


def deepspeed(folder: Path, *, record: bool, stage: int = 0, **settings: Any) -> Any:
    """Through DeepSpeed's engine, in a loop of the script's own."""
    import torch

    os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ.setdefault("LOCAL_RANK", "0")
    import deepspeed

    # A kernel for sums over the host's memory, which takes a minute to compile.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if RANKS > 1:
        torch.distributed.init_process_group("gloo")
    elif not torch.distributed.is_initialized():
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{folder.resolve()}/rendezvous", rank=0, world_size=1
        )
    net = model()
    engine, *_ = deepspeed.initialize(
        model=net,
        optimizer=torch.optim.SGD(net.parameters(), lr=RATE),
        dist_init_required=False,
        config={
            "train_micro_batch_size_per_gpu": BATCH,
            "gradient_accumulation_steps": ACCUMULATE,
            "gradient_clipping": CLIP,
            "zero_optimization": {"stage": stage},
            "zero_allow_untested_optimizer": True,
        },
    )
    beacon = None
    if record:
        from trainbeacon.integrations.deepspeed import watch

        beacon = watch(engine, steps_planned=8, **settings)
    batches = shared(loader())
    for epoch in range(EPOCHS):
        for inputs, classes in beacon.batches(batches) if beacon else batches:
            engine.backward(torch.nn.functional.cross_entropy(engine(inputs), classes))
            engine.step()
        if beacon:
            beacon.log(epoch=epoch)
        engine.save_checkpoint(str(folder / "saved"))
        _evaluate(engine, beacon)
    if beacon:
        beacon.finish()
    return net


def zero(folder: Path, *, record: bool) -> Any:
    """DeepSpeed's ZeRO 1 and 2 one after the other; recorded each into a folder of its own."""
    found = []
    for stage in (1, 2):
        own = folder / str(stage)
        own.mkdir(exist_ok=True)
        found.append(deepspeed(own, record=record, stage=stage, directory=str(own / "boxes")))
    import torch

    return torch.nn.ModuleList(found)


FRAMEWORKS = {
    "lightning": lightning,
    "transformers": transformers,
    "accelerate": accelerate,
    "keras": keras,
    "deepspeed": deepspeed,
}
JOBS = {**FRAMEWORKS, "zero": zero}


def weights(net: Any) -> list[str]:
    """The bits of every weight."""
    found = (
        net.get_weights() if hasattr(net, "get_weights") else [p.detach().numpy() for p in net.parameters()]
    )
    return [array.tobytes().hex() for array in found]


def main() -> None:
    """Run the job."""
    parser = argparse.ArgumentParser()
    parser.add_argument("framework", choices=JOBS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args()
    import torch

    arguments.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = JOBS[arguments.framework](arguments.folder, record=arguments.record)
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps({"weights": weights(net)}))


if __name__ == "__main__":
    main()
