"""The job that the scripts of the truth table train."""

from __future__ import annotations

from typing import Any

import torch

#: Steps that a script of the table makes.
STEPS = 6


class Job:
    """A small model, and one iteration of its training; `norms` are worked out here, before each step."""

    def __init__(self, dtype: Any = None) -> None:
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 1)).to(dtype)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.dtype = dtype
        self.norms: list[float] = []

    def backward(self) -> Any:
        loss = self.model(torch.randn(4, 8, dtype=self.dtype)).square().mean()
        loss.backward()
        return loss

    def take_norm(self) -> None:
        gradients = [p.grad.double().flatten() for p in self.model.parameters() if p.grad is not None]
        self.norms.append(float(torch.cat(gradients).norm()))

    def update(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()

    def iterate(self) -> Any:
        loss = self.backward()
        self.update()
        return loss
