"""The shortest whole use of TrainBeacon: one process, synthetic data.

python examples/torch_loop.py          and meanwhile: curl 127.0.0.1:9797/metrics
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

import trainbeacon

torch.manual_seed(0)
points = torch.randn(20_000, 16)
labels = (points[:, 0] * points[:, 1] + points[:, 2] > 0).long()
training, validation = random_split(TensorDataset(points, labels), [18_000, 2_000])
model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 2))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)


def judge(inputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and accuracy of one batch."""
    scores = model(inputs)
    return nn.functional.cross_entropy(scores, targets), (scores.argmax(1) == targets).float().mean()


with trainbeacon.start(run="torch-loop", hyperparameters={"lr": 1e-3}, host="127.0.0.1") as beacon:
    beacon.watch(model, optimizer)  # steps, phases, gradient norm, learning rate
    for epoch in range(200):
        for inputs, targets in beacon.batches(DataLoader(training, batch_size=64, shuffle=True)):
            loss, accuracy = judge(inputs, targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            beacon.log(loss=loss, accuracy=accuracy, epoch=epoch)
        with beacon.evaluate(), torch.no_grad():
            loss, accuracy = judge(*validation[:])
            beacon.log(loss=loss, accuracy=accuracy)  # of the validation data, here
        print(f"epoch {epoch}: validation loss {loss:.3f}, accuracy {accuracy:.1%}")  # noqa: T201
        with beacon.checkpoint("torch-loop.pt"):
            torch.save(model.state_dict(), "torch-loop.pt")
