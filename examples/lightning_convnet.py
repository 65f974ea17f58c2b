"""A convnet on images of 32 x 32 x 3 with PyTorch Lightning and `self.log`.

python examples/lightning_convnet.py [--epochs 10] [--devices 2] [--fault nan]

The images are made here. With `--fault nan` the loss of step 60 is NaN, and TrainingLossNotFinite names the
run, the rank, the step and the layer.
"""

import argparse
import tempfile
from typing import Any

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from trainbeacon.integrations.lightning import TrainBeaconCallback, TrainBeaconLogger


class ConvNet(lightning.LightningModule):
    """Two convolutions and a classifier."""

    def __init__(self, learning_rate: float = 3e-3, fault: str | None = None) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.fault = fault
        self.net = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(32, 10),
        )

    def training_step(self, batch: Any, number: int) -> torch.Tensor:
        """The loss of one batch."""
        images, labels = batch
        loss = nn.functional.cross_entropy(self.net(images), labels)
        if self.fault == "nan" and self.global_step == 60:
            loss = loss * float("nan")
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, number: int) -> None:
        """Loss and accuracy of the validation data."""
        images, labels = batch
        scores = self.net(images)
        self.log("val_loss", nn.functional.cross_entropy(scores, labels), sync_dist=True)
        self.log("val_acc", (scores.argmax(1) == labels).float().mean(), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=self.hparams["learning_rate"])


def images(count: int, seed: int) -> TensorDataset:
    """Noise over ten colours."""
    made = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 10, (count,), generator=made)
    colours = torch.randn(10, 3, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(count, 3, 32, 32, generator=made)
    return TensorDataset(noise + 0.3 * colours[labels][:, :, None, None], labels)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--fault", choices=["nan"])
    arguments = parser.parse_args()
    lightning.seed_everything(0)
    trainer = lightning.Trainer(
        max_epochs=arguments.epochs,
        accelerator="cpu",
        devices=arguments.devices,
        gradient_clip_val=1.0,
        callbacks=[TrainBeaconCallback(run="lightning-convnet", host="127.0.0.1")],
        logger=TrainBeaconLogger(),
        default_root_dir=tempfile.mkdtemp(),
    )
    trainer.fit(
        ConvNet(fault=arguments.fault),
        DataLoader(images(2_000, 2), batch_size=32, shuffle=True),
        DataLoader(images(400, 3), batch_size=100),
    )
